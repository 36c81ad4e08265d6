"""The one checkpoint format of Limbeck: a folder of safetensors and JSON; no pickle, so loading one runs no code.

::

    model.safetensors    the model's tensors under its own state_dict names; tied tensors once
    state.safetensors    every other tensor: masks, optimizer, generators
    state.json           the rest of the state as a tree that refers to those tensors; the names of tied tensors; versions;
                         size and SHA-256 of the other files, and of its own contents
    schedule.yaml        the schedule as it was written, if there is one

A folder is replaced whole or not at all (``limbeck.apps._replace``): a write that is cut off leaves the previous checkpoint.
Tensors come back on the CPU, with the same bits, dtype and shape; a tensor that stood twice in the state comes back as one.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor, nn

from limbeck._tensors import first_names, load_into, packed, refuse_misfits, unpacked
from limbeck._version import installed_version
from limbeck.apps._replace import replacing, standing
from limbeck.apps._tree import Tree, decode, encode
from limbeck.errors import CheckpointError, RecipeError
from limbeck.names import unwrap
from limbeck.recipes import Recipe
from limbeck.thinning import replay

FORMAT, VERSION = "limbeck checkpoint", 1
MODEL, STATE, INDEX, SCHEDULE = "model.safetensors", "state.safetensors", "state.json", "schedule.yaml"
REMEDY = "take another checkpoint of the run (a run keeps last and best), or train again"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: ``model`` by first names, ``aliases`` from each other name of a tied tensor to its first one."""

    path: Path
    model: dict[str, Tensor]
    aliases: dict[str, str]
    state: Tree
    schedule: str | None

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The thinnings that the model has been through, as the scheduler's state tells them."""
        trees = [self.state, *(self.state.values() if isinstance(self.state, Mapping) else ())]
        found = [tree["recipes"] for tree in trees if isinstance(tree, Mapping) and isinstance(tree.get("recipes"), list)]
        return tuple(Recipe.from_json(text) for text in found[0]) if found else ()

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks by canonical names, True = kept, as the scheduler's state tells them; none where it has no such state."""
        part = _scheduler_part(self.state)
        return {} if part is None else dict(part["masks"])

    def restore_model(self, model: nn.Module) -> None:
        """Copy the tensors into a model that has the same names, shapes, dtypes and ties; wrapper names may differ.

        Where the model was thinned, this one, which is of the original class, is thinned alike first.
        Raises ``CheckpointError`` that lists every tensor that does not fit; the model is then as it was.
        """
        recipes, what = self.recipes, str(self.path)
        if recipes:
            trial = copy.deepcopy(unwrap(model))
            _replayed(recipes, trial, what)
            refuse_misfits(trial, self.model, self.aliases, what)
            _replayed(recipes, unwrap(model), what)
        load_into(model, self.model, self.aliases, what)


def _replayed(recipes: Sequence[Recipe], model: nn.Module, what: str) -> None:
    """Thin a model as the one of a checkpoint was; raises ``CheckpointError`` that says where they differ."""
    try:
        replay(recipes, model)
    except RecipeError as error:
        raise CheckpointError(f"{what} is not a checkpoint of this model, which cannot be thinned alike: {error}") from error


def with_masks(state: Tree, masks: Mapping[str, Tensor]) -> Tree:
    """A checkpoint's state in which the scheduler has these masks, all of them hard; the state itself where it holds no scheduler."""
    part = _scheduler_part(state)
    if part is None:
        return state
    changed = {**part, "masks": dict(masks), "aside": {}}
    return changed if part is state else {key: changed if value is part else value for key, value in state.items()}


def _scheduler_part(state: Tree) -> Mapping[str, Any] | None:
    """Where in a checkpoint's state that of its scheduler is: at its root, or one below."""
    trees = [state, *(state.values() if isinstance(state, Mapping) else ())]
    return next((tree for tree in trees if isinstance(tree, Mapping) and isinstance(tree.get("masks"), Mapping) and "clock" in tree), None)


def save_checkpoint(directory: str | Path, model: nn.Module, state: Tree, schedule: str | None = None) -> None:
    """Write a checkpoint; it takes the place of the one at ``directory`` once it is whole and on the disk.

    Raises ``CheckpointError`` when the state cannot be held, the place is taken by something else, or the disk refuses; what stood
    there then still stands.
    """
    own = unwrap(model).state_dict(keep_vars=True)
    first = first_names(own)
    aliases = {name: owner for name, owner in first.items() if name != owner}
    write_checkpoint(directory, {name: own[name] for name in own if name not in aliases}, aliases, state, schedule)


def write_checkpoint(
    directory: str | Path, model: Mapping[str, Tensor], aliases: Mapping[str, str], state: Tree, schedule: str | None = None
) -> None:
    """The same of a model's tensors: by first names, and from each other name of a tied tensor to its first one."""
    target = Path(directory).resolve()
    tree, tensors = encode(state)
    files = {MODEL: packed(model), STATE: packed(tensors)}
    try:
        _refuse_foreign(target)
        with replacing(target) as folder:
            for name, (flat, _) in files.items():
                save_file(flat, folder / name)
            if schedule is not None:
                (folder / SCHEDULE).write_bytes(schedule.encode())
            index = {
                "format": FORMAT,
                "version": VERSION,
                "versions": {"limbeck": installed_version(), "torch": str(torch.__version__)},
                "files": {path.name: _fingerprint(path.read_bytes()) for path in sorted(folder.iterdir())},
                "aliases": dict(aliases),
                "packed": {name: packed for name, (_, packed) in files.items()},
                "state": tree,
            }
            (folder / INDEX).write_bytes(_dump({**index, "sha256": _digest(index)}))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"could not write the checkpoint {target}: {error}; a checkpoint that stood there before still stands"
        ) from error


def load_checkpoint(directory: str | Path) -> Checkpoint:
    """Read a checkpoint, every byte of it checked.

    Raises ``CheckpointError`` that names the file and the remedy when it is missing, damaged, foreign, or of another version.
    """
    target = Path(directory).resolve()
    while True:
        folder = standing(target)
        seen = _identity(folder)
        try:
            return _read(folder)
        except CheckpointError:
            if _identity(standing(target)) == seen:  # else a running training has replaced it meanwhile: read the new one
                raise


def step_of(directory: str | Path) -> int:
    """The step at which a checkpoint was saved, of which only ``state.json`` is read; 0 where its state tells of no scheduler.

    Raises ``CheckpointError`` for what is no checkpoint.
    """
    part = _scheduler_part(_read_index(standing(Path(directory).resolve()))["state"])
    return 0 if part is None else int(part["clock"]["step"])


def is_checkpoint(directory: str | Path) -> bool:
    """Whether a checkpoint stands at a path, or its set-aside twin after a crash; says nothing of damage."""
    return (standing(Path(directory).resolve()) / INDEX).is_file()


def _read(folder: Path) -> Checkpoint:
    index = _read_index(folder)
    try:
        contents = {name: _read_file(folder / name, expected) for name, expected in index["files"].items()}
        model, tensors = (unpacked(load_tensors(contents[name]), index["packed"][name]) for name in (MODEL, STATE))
        schedule = contents[SCHEDULE].decode() if SCHEDULE in contents else None
        return Checkpoint(folder, model, index["aliases"], decode(index["state"], tensors), schedule)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is damaged ({type(error).__name__}: {error}); {REMEDY}") from error


def _read_index(folder: Path) -> dict[str, Any]:
    """The contents of ``state.json``, checked; the messages for all that is no checkpoint."""
    path = folder / INDEX
    if not folder.is_dir():
        what = "is a file, not a checkpoint folder" if folder.exists() else "does not exist"
        if folder.suffix in (".safetensors", ".pth", ".pt") and folder.exists():
            raise CheckpointError(
                f"{folder} holds weights alone; begin a run with them: train --weights {folder}; or name the run that they are of"
            )
        raise CheckpointError(f"{folder} {what}; name a folder that 'train --save' wrote, or a checkpoint in one, such as RUN/best")
    if not path.is_file():
        inside = [name for name in ("last", "best") if is_checkpoint(folder / name)]
        remedy = (
            f"did you mean {' or '.join(str(folder / name) for name in inside)}?" if inside else "name a folder that 'train --save' wrote"
        )
        what = "is not a Limbeck checkpoint: it has no state.json" if any(folder.iterdir()) else "is an empty folder"
        raise CheckpointError(f"{folder} {what}; {remedy}")
    try:
        index = json.loads(_read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged (not JSON: {error}); {REMEDY}") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not from Limbeck; name a folder that 'train --save' wrote")
    if index.get("version") != VERSION:
        raise CheckpointError(
            f"{path} is of version {index.get('version')}, this Limbeck reads version {VERSION}; use the Limbeck that wrote it"
        )
    if index.pop("sha256", None) != _digest(index):
        raise CheckpointError(f"{path} is damaged (its checksum differs); {REMEDY}")
    return index


def _read_file(path: Path, expected: Mapping[str, Any]) -> bytes:
    content = _read_bytes(path)
    if len(content) != expected["bytes"]:
        raise CheckpointError(f"{path} is damaged ({len(content)} of {expected['bytes']} bytes); {REMEDY}")
    if _fingerprint(content) != expected:
        raise CheckpointError(f"{path} is damaged (its checksum differs); {REMEDY}")
    return content


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; {REMEDY}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; {REMEDY}") from error


def _refuse_foreign(target: Path) -> None:
    """A folder that no checkpoint is in must not be lost to one."""
    if target.is_dir() and any(target.iterdir()) and not (target / INDEX).is_file():
        raise CheckpointError(f"{target} holds something else than a checkpoint, which would be lost; save to another folder")
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target} is a file; save to another folder")


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _dump(index: Mapping[str, Any]) -> bytes:
    return json.dumps(index, allow_nan=False, separators=(",", ":")).encode()


def _digest(index: Mapping[str, Any]) -> str:
    """The SHA-256 of what ``state.json`` says, however it is spaced."""
    return hashlib.sha256(_dump(index)).hexdigest()


def _fingerprint(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

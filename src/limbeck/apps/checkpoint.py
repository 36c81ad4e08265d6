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

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor, nn

from limbeck._version import installed_version
from limbeck.apps._replace import replacing, standing
from limbeck.apps._tree import Tree, decode, encode
from limbeck.errors import CheckpointError, did_you_mean
from limbeck.names import canonical, unwrap

FORMAT, VERSION = "limbeck checkpoint", 1
MODEL, STATE, INDEX, SCHEDULE = "model.safetensors", "state.safetensors", "state.json", "schedule.yaml"
REMEDY = "take another checkpoint of the run (a run keeps last and best), or train again"

PLAIN = frozenset(
    {
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    }
)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: ``model`` by first names, ``aliases`` from each other name of a tied tensor to its first one."""

    path: Path
    model: dict[str, Tensor]
    aliases: dict[str, str]
    state: Tree
    schedule: str | None

    def restore_model(self, model: nn.Module) -> None:
        """Copy the tensors into a model that has the same names, shapes, dtypes and ties; wrapper names may differ.

        Raises ``CheckpointError`` that lists every tensor that does not fit; the model is then as it was.
        """
        inner = unwrap(model)
        own = inner.state_dict(keep_vars=True)
        saved = self.model | {alias: self.model[name] for alias, name in self.aliases.items()}
        plain = all(len({canonical(name) for name in names}) == len(names) for names in (own, saved))
        spell = canonical if plain else str
        wanted, held = ({spell(name): tensor for name, tensor in tensors.items()} for tensors in (own, saved))
        if faults := [*_misfits(wanted, held), *_other_ties(wanted, held)]:
            count = "1 tensor does" if len(faults) == 1 else f"{len(faults)} tensors do"
            raise CheckpointError(f"{self.path} is not a checkpoint of this model: {count} not fit\n  " + "\n  ".join(faults))
        inner.load_state_dict({name: held[spell(name)] for name in own})


def save_checkpoint(directory: str | Path, model: nn.Module, state: Tree, schedule: str | None = None) -> None:
    """Write a checkpoint; it takes the place of the one at ``directory`` once it is whole and on the disk.

    Raises ``CheckpointError`` when the state cannot be held, the place is taken by something else, or the disk refuses; what stood
    there then still stands.
    """
    target = Path(directory).resolve()
    own = unwrap(model).state_dict(keep_vars=True)
    first = _first_names(own)
    tree, tensors = encode(state)
    files = {MODEL: _packed({name: own[name] for name in own if first[name] == name}), STATE: _packed(tensors)}
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
                "aliases": {name: owner for name, owner in first.items() if name != owner},
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


def is_checkpoint(directory: str | Path) -> bool:
    """Whether a checkpoint stands at a path, or its set-aside twin after a crash; says nothing of damage."""
    return (standing(Path(directory).resolve()) / INDEX).is_file()


def _first_names(own: Mapping[str, Tensor]) -> dict[str, str]:
    """For each name the first name of its tensor: another one where tensors are tied."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in own.items()}


def _misfits(wanted: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> list[str]:
    """A line for each tensor that is missing, unexpected, or of another shape or dtype."""
    spare = [name for name in held if name not in wanted]
    faults = [f"{name}: missing in the checkpoint{did_you_mean(name, spare)}" for name in wanted if name not in held]
    faults += [f"{name}: unexpected, the model has no such tensor" for name in spare]
    for name in wanted.keys() & held.keys():
        mine, its = wanted[name], held[name]
        if mine.shape != its.shape:
            faults.append(f"{name}: shape {tuple(its.shape)} in the checkpoint, {tuple(mine.shape)} in the model")
        elif mine.dtype != its.dtype:
            faults.append(f"{name}: {its.dtype} in the checkpoint, {mine.dtype} in the model; convert it first: model.to({its.dtype})")
    return sorted(faults)


def _other_ties(wanted: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> list[str]:
    """A line for each name that is tied on one side only."""
    mine = _first_names({name: tensor for name, tensor in wanted.items() if name in held})
    its = _first_names({name: held[name] for name in mine})
    faults = []
    for name in mine:
        if its[mine[name]] != its[name]:
            faults.append(f"{name}: tied to {mine[name]} in the model, not in the checkpoint; build the model untied")
        if mine[its[name]] != mine[name]:
            faults.append(f"{name}: tied to {its[name]} in the checkpoint, not in the model; build the model tied")
    return faults


def _packed(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors as safetensors takes them: on the CPU, contiguous, no memory shared; rarer dtypes as bytes, with dtype and shape noted."""
    flat: dict[str, Tensor] = {}
    packed: dict[str, Any] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise CheckpointError(f"{name} is not a dense tensor with data: a checkpoint cannot hold it")
        dense = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        if dense.dtype not in PLAIN:
            packed[name] = [str(dense.dtype).removeprefix("torch."), list(dense.shape)]
            dense = dense.reshape(-1).view(torch.uint8)
        storage = dense.untyped_storage()
        flat[name] = dense.clone() if storage.data_ptr() in memory or storage.nbytes() != dense.numel() * dense.element_size() else dense
        memory.add(storage.data_ptr())
    return flat, packed


def _unpacked(flat: dict[str, Tensor], packed: Mapping[str, Any]) -> dict[str, Tensor]:
    """The inverse, sorted by name: safetensors gives another order in each process."""
    return dict(sorted(flat.items())) | {
        name: flat[name].view(getattr(torch, dtype)).reshape(shape) for name, (dtype, shape) in packed.items()
    }


def _read(folder: Path) -> Checkpoint:
    index = _read_index(folder)
    try:
        contents = {name: _read_file(folder / name, expected) for name, expected in index["files"].items()}
        model, tensors = (_unpacked(load_tensors(contents[name]), index["packed"][name]) for name in (MODEL, STATE))
        schedule = contents[SCHEDULE].decode() if SCHEDULE in contents else None
        return Checkpoint(folder, model, index["aliases"], decode(index["state"], tensors), schedule)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is damaged ({type(error).__name__}: {error}); {REMEDY}") from error


def _read_index(folder: Path) -> dict[str, Any]:
    """The contents of ``state.json``, checked; the messages for all that is no checkpoint."""
    path = folder / INDEX
    if not folder.is_dir():
        what = "is a file, not a checkpoint folder" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder} {what}; name a folder that 'train --save' wrote, such as RUN/last or RUN/best")
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

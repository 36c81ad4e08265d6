"""A thinned model in one file: its tensors and its recipes; no pickle, and loaded into the class that it was made from."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from limbeck._tensors import first_names, load_into, packed, refuse_misfits, unpacked
from limbeck.errors import CheckpointError, RecipeError
from limbeck.names import unwrap
from limbeck.recipes import Recipe
from limbeck.thinning.replay import replay

FORMAT = "limbeck thinned model 1"


def save_thinned(path: str | Path, model: nn.Module, recipes: Sequence[Recipe]) -> None:
    """Write a thinned model as one safetensors file, tied tensors once, with its recipes in the file's metadata.

    Raises ``CheckpointError`` when a tensor cannot be held or the disk refuses.
    """
    own = unwrap(model).state_dict(keep_vars=True)
    first = first_names(own)
    flat, notes = packed({name: own[name] for name in own if first[name] == name})
    metadata = {
        "format": FORMAT,
        "recipes": json.dumps([recipe.to_json() for recipe in recipes]),
        "aliases": json.dumps({name: owner for name, owner in first.items() if name != owner}),
        "packed": json.dumps(notes),
    }
    target = Path(path)
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        save_file(flat, temporary, metadata)
        temporary.replace(target)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"could not write {target}: {error}") from error


def load_thinned(path: str | Path, model: nn.Module) -> tuple[Recipe, ...]:
    """Thin a fresh model of the original class as the saved one was, load its tensors, and return the recipes.

    >>> import tempfile, torch
    >>> from limbeck.thinning import thin
    >>> def net():
    ...     return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> model, other = net(), net()
    >>> with torch.no_grad():
    ...     _ = model[0].weight[1].zero_(), model[0].bias[1].zero_()
    >>> recipe = thin(model, (torch.zeros(1, 2),))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_thinned(f"{folder}/thin.safetensors", model, [recipe])
    ...     recipes = load_thinned(f"{folder}/thin.safetensors", other)
    >>> recipes == (recipe,), torch.equal(other[2].weight, model[2].weight)
    (True, True)

    A model that has been thinned so already is only loaded. Raises ``CheckpointError`` for what is no such file and for tensors that do not fit, and
    ``RecipeError`` that says where the recipes do not fit the model; nothing is changed then.
    """
    tensors, metadata = _read(Path(path))
    recipes = tuple(Recipe.from_json(text) for text in metadata["recipes"])
    trial = copy.deepcopy(unwrap(model))
    try:
        replay(recipes, trial)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}", error.faults) from error
    refuse_misfits(trial, tensors, metadata["aliases"], str(path))
    replay(recipes, unwrap(model))
    load_into(model, tensors, metadata["aliases"], str(path))
    return recipes


def is_thinned(path: str | Path) -> bool:
    """Whether a file is one that ``save_thinned`` wrote; says nothing of damage in its tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            return bool((file.metadata() or {}).get("format") == FORMAT)
    except (OSError, SafetensorError):
        return False


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"{path} was not written by save_thinned: its metadata does not say '{FORMAT}'")
        read = {key: json.loads(metadata[key]) for key in ("recipes", "aliases", "packed")}
        return unpacked(flat, read["packed"]), read
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as a thinned model: {error}; give a file that save_thinned wrote") from error

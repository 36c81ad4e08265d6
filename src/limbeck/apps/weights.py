"""Weights that a run begins with: those of a checkpoint of ours, of a safetensors file, or of a PyTorch file that holds tensors alone."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from limbeck._tensors import first_names, load_into
from limbeck.apps.checkpoint import load_checkpoint
from limbeck.apps.run import find_checkpoint
from limbeck.errors import CheckpointError
from limbeck.names import canonical, unwrap
from limbeck.recipes import Recipe
from limbeck.thinning.save import load_thinned

INSIDE = ("state_dict", "model", "model_state_dict")
"""Under which keys other programs keep a model's tensors in a file that holds more."""


def load_weights(path: Path, model: nn.Module) -> tuple[Recipe, ...]:
    """Copy weights into a model, whatever wrappers their names tell of (``module.``); gives the thinnings that the model went through for them.

    ``path`` is a run folder (its best model), a checkpoint of any application, ``*.safetensors``, or a file of ``torch.save`` with tensors and
    plain values alone. Raises ``CheckpointError`` for what would have to run code, for what is damaged, and for each tensor that does not fit.
    """
    if path.is_dir() or not path.exists():
        checkpoint = load_checkpoint(find_checkpoint(path, "best"))
        checkpoint.restore_model(model)
        return checkpoint.recipes
    if path.suffix == ".safetensors":
        return _of_safetensors(path, model)
    tensors = _tensors(_unpickled(path), path)
    load_into(model, _tied_alike(tensors, model), {}, str(path))
    return ()


def _of_safetensors(path: Path, model: nn.Module) -> tuple[Recipe, ...]:
    try:
        with safe_open(path, "pt") as file:
            thinned = "recipes" in (file.metadata() or {})
            tensors = {} if thinned else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); fetch or save it anew") from error
    if thinned:
        return tuple(load_thinned(path, model))
    load_into(model, _tied_alike(tensors, model), {}, str(path))
    return ()


def _tied_alike(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a file, which knows of no ties: what the model has as one tensor is one where the file has it once, or several times the same."""
    found, spelt = dict(tensors), {canonical(name): name for name in tensors}
    groups: dict[str, list[str]] = {}
    for name, first in first_names(unwrap(model).state_dict(keep_vars=True)).items():
        groups.setdefault(first, []).append(name)
    for names in groups.values():
        held = [found[spelt[canonical(name)]] for name in names if canonical(name) in spelt]
        if len(names) > 1 and held and all(torch.equal(held[0], other) for other in held[1:]):
            found |= {spelt.get(canonical(name), name): held[0] for name in names}
    return found


def _unpickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        if isinstance(error, pickle.UnpicklingError) and "Unsupported operand" not in str(error):  # which bytes that are no pickle have
            raise CheckpointError(
                f"{path} holds more than tensors and plain values, which only running its code could load, and Limbeck runs none; where you "
                f"trust the file, save its weights alone: torch.save(torch.load('{path.name}', weights_only=False)['state_dict'], 'weights.pth')"
            ) from error
        raise CheckpointError(f"{path} is no file of torch.save, or damaged; give one of tensors alone, or *.safetensors") from error


def _tensors(tree: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, or of the one inside a larger file."""
    for key in INSIDE:
        if isinstance(tree, Mapping) and isinstance(tree.get(key), Mapping):
            tree = tree[key]
    if not isinstance(tree, Mapping) or not tree or not all(isinstance(value, Tensor) for value in tree.values()):
        raise CheckpointError(f"{path} holds no state dict; save one: torch.save(model.state_dict(), '{path.name}')")
    return {str(name): tensor for name, tensor in tree.items()}


def fingerprint(model: nn.Module) -> str:
    """Names and values of all parameters and buffers as 16 digits.

    >>> layer = nn.Linear(2, 2)
    >>> before = fingerprint(layer)
    >>> with torch.no_grad():
    ...     _ = layer.bias.add_(1)
    >>> before == fingerprint(layer), len(before)
    (False, 16)
    """
    digest = sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]

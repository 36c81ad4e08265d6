"""Tensors as safetensors files hold them, and whether those of a file fit a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import CheckpointError, did_you_mean
from limbeck.names import canonical, unwrap

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


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], aliases: Mapping[str, str], what: str) -> None:
    """Copy saved tensors into a model that has the same names, shapes, dtypes and ties; wrapper names may differ.

    Raises ``CheckpointError``, which begins with ``what`` and lists every tensor that does not fit; the model is then as it was.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> load_into(layer, {"module.weight": torch.tensor([[2.0]])}, {}, "this")
    >>> layer.weight.item()
    2.0
    """
    inner = unwrap(model)
    own, spell, wanted, held = _both(inner, tensors, aliases)
    _refuse(wanted, held, what)
    inner.load_state_dict({name: held[spell(name)] for name in own})


def refuse_misfits(model: nn.Module, tensors: Mapping[str, Tensor], aliases: Mapping[str, str], what: str) -> None:
    """Raise the ``CheckpointError`` that ``load_into`` would raise."""
    _, _, wanted, held = _both(unwrap(model), tensors, aliases)
    _refuse(wanted, held, what)


def _both(
    model: nn.Module, tensors: Mapping[str, Tensor], aliases: Mapping[str, str]
) -> tuple[dict[str, Tensor], Callable[[str], str], dict[str, Tensor], dict[str, Tensor]]:
    """The model's own tensors, how names are spelt, and by that spelling what is wanted and what is there."""
    own = model.state_dict(keep_vars=True)
    saved = {**tensors, **{alias: tensors[name] for alias, name in aliases.items()}}
    plain = all(len({canonical(name) for name in names}) == len(names) for names in (own, saved))
    spell = canonical if plain else str
    return own, spell, {spell(name): tensor for name, tensor in own.items()}, {spell(name): tensor for name, tensor in saved.items()}


def _refuse(wanted: Mapping[str, Tensor], held: Mapping[str, Tensor], what: str) -> None:
    if faults := [*misfits(wanted, held), *other_ties(wanted, held)]:
        count = "1 tensor does" if len(faults) == 1 else f"{len(faults)} tensors do"
        raise CheckpointError(f"{what} is not a checkpoint of this model: {count} not fit\n  " + "\n  ".join(faults))


def first_names(own: Mapping[str, Tensor]) -> dict[str, str]:
    """For each name the first name of its tensor: another one where tensors are tied."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in own.items()}


def misfits(wanted: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> list[str]:
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


def other_ties(wanted: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> list[str]:
    """A line for each name that is tied on one side only."""
    mine = first_names({name: tensor for name, tensor in wanted.items() if name in held})
    its = first_names({name: held[name] for name in mine})
    faults = []
    for name in mine:
        if its[mine[name]] != its[name]:
            faults.append(f"{name}: tied to {mine[name]} in the model, not in the checkpoint; build the model untied")
        if mine[its[name]] != mine[name]:
            faults.append(f"{name}: tied to {its[name]} in the checkpoint, not in the model; build the model tied")
    return faults


def packed(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors as safetensors takes them: on the CPU, contiguous, no memory shared; rarer dtypes as bytes, with dtype and shape noted."""
    flat: dict[str, Tensor] = {}
    notes: dict[str, Any] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise CheckpointError(f"{name} is not a dense tensor with data: a checkpoint cannot hold it")
        dense = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        if dense.dtype not in PLAIN:
            notes[name] = [str(dense.dtype).removeprefix("torch."), list(dense.shape)]
            dense = dense.reshape(-1).view(torch.uint8)
        storage = dense.untyped_storage()
        flat[name] = dense.clone() if storage.data_ptr() in memory or storage.nbytes() != dense.numel() * dense.element_size() else dense
        memory.add(storage.data_ptr())
    return flat, notes


def unpacked(flat: Mapping[str, Tensor], notes: Mapping[str, Any]) -> dict[str, Tensor]:
    """The inverse, sorted by name: safetensors gives another order in each process."""
    return dict(sorted(flat.items())) | {
        name: flat[name].view(getattr(torch, dtype)).reshape(shape) for name, (dtype, shape) in notes.items()
    }

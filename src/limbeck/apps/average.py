"""Averages of snapshots of one training that keep the sparsity.

The mean of a pruned weight over snapshots with different masks is zero only where all of them drop it: of ``[0, 0, 1, 2]`` and ``[0, 1, 0, 2]`` the
mean is ``[0, 0.5, 0.5, 2]``, a quarter of zeros out of two halves. So either only snapshots with the newest one's masks are averaged,
or the mean of all is pruned again: in each tensor as many weights stay as the newest mask keeps, those of the largest magnitude.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from limbeck._inplace import apply_mask_
from limbeck.apps.checkpoint import Checkpoint, is_checkpoint, load_checkpoint, step_of, with_masks, write_checkpoint
from limbeck.apps.run import find_checkpoint
from limbeck.errors import CheckpointError
from limbeck.names import canonical
from limbeck.pruning.selectors import Lowest

NUMBERED = "ckpt-*"
"""What a folder that holds several checkpoints of a run calls them."""
STATISTICS = (".running_mean", ".running_var")


@dataclass(frozen=True)
class Snapshot:
    """A model's tensors by name, tied ones once, and its masks by canonical name, bool, True = kept."""

    tensors: Mapping[str, Tensor]
    masks: Mapping[str, Tensor] = field(default_factory=dict)


class Average(NamedTuple):
    """The average, and the places of the snapshots that it is one of: 0 is the newest, 1 the first of the older ones."""

    snapshot: Snapshot
    used: tuple[int, ...]


def average_sparse(newest: Snapshot, older: Iterable[Snapshot] = (), prune_again: bool = False) -> Average:
    """The mean of the newest snapshot and of those older ones that have its masks; or, with ``prune_again``, of all of them, pruned anew.

    Means are taken in float64 and rounded once to the tensor's own type; tensors that are not of floating point are the newest one's. Either way each
    mask keeps as many weights as the newest one's, so the average is exactly as sparse as that. ``prune_again`` ranks single weights:
    masks of blocks, of filters or of n:m do not keep their form. ``older`` is read once, so it may load one snapshot after the other.

    >>> def snapshot(*weights: float) -> Snapshot:
    ...     return Snapshot({"w": torch.tensor(weights).float()}, {"w": torch.tensor(weights) != 0})
    >>> average_sparse(snapshot(0, 0, 1, 2), [snapshot(0, 1, 0, 2), snapshot(0, 0, 3, 2)])
    Average(snapshot=Snapshot(tensors={'w': tensor([0., 0., 2., 2.])}, masks={'w': tensor([False, False,  True,  True])}), used=(0, 2))
    >>> average_sparse(snapshot(0, 0, 1, 2), [snapshot(0, 3, 0, 2)], prune_again=True).snapshot.tensors["w"]
    tensor([0.0000, 1.5000, 0.0000, 2.0000])

    Raises ``CheckpointError`` for a snapshot that has other tensors than the newest one, or others of their shape or type.
    """
    sums = {name: tensor.to(torch.float64, copy=True) for name, tensor in newest.tensors.items() if tensor.is_floating_point()}
    used = [0]
    for place, snapshot in enumerate(older, 1):
        if not prune_again and not same_masks(newest.masks, snapshot.masks):
            continue
        _refuse_unlike(newest.tensors, snapshot.tensors)
        for name, total in sums.items():
            total.add_(snapshot.tensors[name].to(total.device))
        used.append(place)
    means = {name: total.div_(len(used)).to(newest.tensors[name].dtype) for name, total in sums.items()}
    tensors = {name: means[name] if name in means else tensor.clone() for name, tensor in newest.tensors.items()}
    masks = {name: _largest(tensors, name, keep) for name, keep in newest.masks.items()} if prune_again else newest.masks
    for name, keep in masks.items():
        apply_mask_(_tensor(tensors, name), keep)
    return Average(Snapshot(tensors, masks), tuple(used))


def same_masks(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether the same parameters have the same masks.

    >>> same_masks({"w": torch.tensor([True, False])}, {"w": torch.tensor([True, True])}), same_masks({}, {})
    (False, True)
    """
    return one.keys() == other.keys() and all(torch.equal(keep, other[name].to(keep.device)) for name, keep in one.items())


def _largest(tensors: Mapping[str, Tensor], name: str, keep: Tensor) -> Tensor:
    """The mask that keeps the largest weights, as many as ``keep`` does; of equal ones those that it keeps, then the last."""
    weight = _tensor(tensors, name)
    dropped = keep.numel() - int(keep.count_nonzero())
    share = dropped / keep.numel() if dropped else 0.0
    return Lowest(rounding=round)(weight.abs().reshape(1, -1), keep.to(weight.device).reshape(1, -1), share).view_as(weight)


def _tensor(tensors: Mapping[str, Tensor], masked: str) -> Tensor:
    """The tensor of which a canonical name tells."""
    return tensors[masked] if masked in tensors else next(tensor for name, tensor in tensors.items() if canonical(name) == masked)


def _refuse_unlike(newest: Mapping[str, Tensor], older: Mapping[str, Tensor]) -> None:
    """Raise ``CheckpointError`` for the first tensor that has no counterpart to be averaged with."""
    for name in (*newest, *older):
        mine, its = newest.get(name), older.get(name)
        if mine is None or its is None or (mine.shape, mine.dtype) != (its.shape, its.dtype):
            there, here = (_described(tensor) for tensor in (its, mine))
            raise CheckpointError(
                f"unlike models have no average: '{name}' is {there} in one, {here} in the newest; average snapshots of one training"
            )


def _described(tensor: Tensor | None) -> str:
    return "not there" if tensor is None else f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"


@dataclass(frozen=True)
class Averaged:
    """What an average on disk is one of, and how sparse its weights are: the elements of tensors of two dimensions or more, tied ones once."""

    out: str
    used: tuple[str, ...]
    """The checkpoints that it is the mean of, from the oldest to the newest."""
    left_out: tuple[str, ...]
    """Those that had other masks than the newest one."""
    weights: int
    nonzeros: int
    notes: tuple[str, ...] = ()

    @property
    def sparsity(self) -> float:
        """The fraction of zeros."""
        return 1 - self.nonzeros / self.weights if self.weights else 0.0


def average_checkpoints(paths: Sequence[Path], out: Path, prune_again: bool = False) -> Averaged:
    """Write the average of checkpoints of one training as a checkpoint: the newest one's, with other weights (and masks), to evaluate or to train on.

    A run folder stands for its ``ckpt-*`` (without any, for its best model), a folder of checkpoints for all of them. The newest is
    the one with the most steps, of several with as many the last. What dense copies of masked weights it holds go: they are one snapshot's.
    Raises ``CheckpointError`` for what is no checkpoint, and for those of unlike models, applications or thinnings.
    """
    found = sorted(dict.fromkeys(each.resolve() for path in paths for each in members(path)), key=step_of)
    if not found:
        raise CheckpointError("there is nothing to average: name a run folder, a folder of checkpoints, or some checkpoints")
    *older, last = found
    newest = load_checkpoint(last)
    average, used = average_sparse(_snapshot(newest), _alike(newest, reversed(older)), prune_again)
    names = [str(path) for place, path in enumerate(reversed(found)) if place in used][::-1]
    state = with_masks(newest.state, average.masks)
    if isinstance(state, Mapping):
        told = {name: value for name, value in state.items() if name != "validation"}  # which tells of the newest one
        state = {**told, **({"averaged": None} if "averaged" in told else {}), "average_of": names}
    write_checkpoint(out, average.tensors, newest.aliases, state, newest.schedule)
    weights = [tensor for tensor in average.tensors.values() if tensor.dim() >= 2 and tensor.is_floating_point()]
    return Averaged(
        str(out),
        tuple(names),
        tuple(str(path) for path in found if str(path) not in names),
        sum(tensor.numel() for tensor in weights),
        sum(int(tensor.count_nonzero()) for tensor in weights),
        _notes(average, len(names)),
    )


def members(path: Path) -> list[Path]:
    """The checkpoints that a path stands for: itself, the numbered ones of a folder by step, or a run's best one."""
    if is_checkpoint(path):
        return [path]
    numbered = [each for each in path.glob(NUMBERED) if is_checkpoint(each)] if path.is_dir() else []
    return sorted(numbered, key=step_of) or [find_checkpoint(path, "best")]


def _alike(newest: Checkpoint, paths: Iterable[Path]) -> Iterator[Snapshot]:
    """Older checkpoints, one after the other; raises ``CheckpointError`` for one that is no snapshot of the same model."""
    for path in paths:
        checkpoint = load_checkpoint(path)
        for what, mine, its in (
            ("of another application", _application(newest), _application(checkpoint)),
            ("thinned otherwise", newest.recipes, checkpoint.recipes),
            ("tied otherwise", newest.aliases, checkpoint.aliases),
        ):
            if mine != its:
                raise CheckpointError(f"{path} is {what} than {newest.path}; average snapshots of one training")
        yield _snapshot(checkpoint)


def _application(checkpoint: Checkpoint) -> object:
    return checkpoint.state.get("application") if isinstance(checkpoint.state, Mapping) else None


def _snapshot(checkpoint: Checkpoint) -> Snapshot:
    return Snapshot(checkpoint.model, checkpoint.masks)


def _notes(average: Snapshot, count: int) -> tuple[str, ...]:
    if count > 1 and any(name.endswith(STATISTICS) for name in average.tensors):
        return (
            "batch norm's running statistics are means too: measure them anew, by some passes in training mode, before you rely on them",
        )
    return ()

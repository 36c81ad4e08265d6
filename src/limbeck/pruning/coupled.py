"""Units with all that lives and dies with them: the vectors that follow a mask, and the tensors that are ranked as one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.graph import Coupling
from limbeck.graph.flow import Flow
from limbeck.graph.removal import removable
from limbeck.pruning._select import refuse_nan
from limbeck.tile import Tile

Key = tuple[str, int]


def unit_axis(unit: Tile, shape: Sequence[int]) -> int | None:
    """The axis of which a unit is one position with all that it holds: 0 for filters, 1 for channels; None for other units.

    >>> unit_axis(Tile((1,)), (8, 4, 3, 3)), unit_axis(Tile((1,)), (1, 4)), unit_axis(Tile((-1, 1)), (8, 4)), unit_axis(Tile((1, 1)), (8, 4, 3, 3))
    (0, 0, 1, None)
    """
    block = unit.block(shape)
    ones = [axis for axis, size in enumerate((*unit.sizes, *[unit.rest] * len(shape))[: len(shape)]) if size == 1]
    cut = [axis for axis in ones if shape[axis] > 1] or ones[:1]
    whole = all(block[axis] == size for axis, size in enumerate(shape) if axis not in cut)
    return cut[0] if len(cut) == 1 and whole else None


@dataclass(frozen=True)
class Group:
    """Tensors that compute, or that read, the same units."""

    places: Mapping[str, Tensor]
    """By name, which unit each position along its axis is, int64 ``[positions]``."""
    axes: Mapping[str, int]
    classes: Tensor
    """Of the coupling, int64 ``[units]``."""
    stays: Tensor
    """Which units cannot be removed from the model, whatever their weights, bool ``[units]``."""


def groups(coupling: Coupling, axes: Mapping[str, int], matrices: Collection[str]) -> list[Group]:
    """The groups of tensors along these axes, with all others of ``matrices`` that compute the same units, or read them.

    A tensor that is given along one axis takes no part along its other one.

    >>> from torch import nn
    >>> from limbeck.graph import capture, coupling
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, groups=2), nn.Conv2d(2, 1, 1))
    >>> graph = capture(net, (torch.zeros(1, 1, 8, 8),))
    >>> [dict(group.axes) for group in groups(coupling(graph), {"0.weight": 0}, graph.tensors)]
    [{'0.weight': 0, '1.weight': 0}]
    """
    left, found = dict(axes), []
    while left:
        name, axis = next(iter(left.items()))
        members = _joined(coupling, (name, axis), [key for key in coupling.classes if key[0] in matrices and axes.get(*key) == key[1]])
        classes = torch.unique(torch.cat([coupling.labels[key] for key in members]))
        places = {key[0]: torch.searchsorted(classes, coupling.labels[key]) for key in members}
        stays = torch.tensor([unit in coupling.frozen for unit in classes.tolist()], dtype=torch.bool)
        found.append(Group(places, dict(members), classes, stays))
        left = {other: along for other, along in left.items() if (other, along) not in members}
    return found


def _joined(coupling: Coupling, first: Key, candidates: Collection[Key]) -> list[Key]:
    """All of the same role that share units with the first, or with one that does; in the model's order, each tensor by one axis."""
    computes, known = first in coupling.produced, {first[0]: first[1]}
    candidates = [key for key in candidates if key[1] < 2 and (key in coupling.produced) == computes]
    shared = set(coupling.classes[first])
    while more := [key for key in candidates if key[0] not in known and not shared.isdisjoint(coupling.classes[key])]:
        for name, axis in more:
            known.setdefault(name, axis)
            shared.update(coupling.classes[name, known[name]])
    return [key for key in coupling.classes if known.get(key[0]) == key[1]]


def relative(scores: Tensor) -> Tensor:
    """Scores as multiples of their mean magnitude, so that a tensor's scale has no say among others: the norm behind it takes it away.

    >>> relative(torch.tensor([1.0, 3.0]))
    tensor([0.5000, 1.5000])
    """
    mean = scores.abs().mean()
    return torch.where(mean > 0, scores / mean, scores)


def together(group: Group, scores: Mapping[str, Tensor]) -> Tensor:
    """One score for each unit of a group, ``[units]``: the mean of its positions' relative scores in a tensor, then of all tensors that have it.

    ``scores`` ``[positions]`` by name. Units that must stay in the model fall last, to no avail. Raises ``MaskError`` for a score that is NaN.
    """
    total = torch.zeros(len(group.classes), device=next(iter(scores.values())).device)
    number = torch.zeros_like(total)
    for name, places in group.places.items():
        refuse_nan(scores[name])
        where = places.to(total.device)
        ones = torch.ones_like(where, dtype=total.dtype)
        count = torch.zeros_like(total).index_add_(0, where, ones)
        own = torch.zeros_like(total).index_add_(0, where, relative(scores[name].to(total)))
        total += own / count.clamp(min=1)
        number += count > 0
    total /= number
    return total + torch.where(group.stays.to(total.device), 1 + total.max() - total.min(), 0)


def kept_by_any(group: Group, kept: Mapping[str, Tensor | None]) -> Tensor | None:
    """Which units any of the tensors keeps so far, bool ``[units]``; None when one of them has no mask."""
    masks = {name: mask for name, mask in kept.items() if mask is not None}
    if len(masks) < len(group.places):
        return None
    result = torch.zeros(len(group.classes), dtype=torch.bool, device=next(iter(masks.values())).device)
    for name, places in group.places.items():
        result[places.to(result.device)[masks[name]]] = True
    return result


def disagreements(coupling: Coupling, flow: Flow, found: Iterable[Group], kept: Mapping[str, Tensor]) -> list[str]:
    """A line for each group whose tensors drop different units, of which only those go that all agree on.

    ``kept`` are the masks so far, by name, which ``flow`` has followed; a tensor without one drops nothing.
    """
    gone, lines = removable(flow, coupling), []
    for group in found:
        dropped = {name: _dropped(group, name, kept.get(name)) for name in group.places}
        some = torch.stack([places for places, _ in dropped.values()]).any(0)
        every = torch.stack([places | ~has for places, has in dropped.values()]).all(0)
        if bool((some & ~every & ~gone[group.classes] & ~group.stays).any()):
            counts = sorted(((name, int(places.sum())) for name, (places, _) in dropped.items()), key=lambda pair: pair[1] == 0)
            shown = ", ".join(f"'{name}' drops {number}" for name, number in counts[:4])
            more = f" and {len(counts) - 4} more" if len(counts) > 4 else ""
            units = int((some & gone[group.classes]).sum())
            lines.append(f"of the same {len(group.classes)} units {shown}{more}: they agree on {units}, which is all that can be removed")
    return lines


def _dropped(group: Group, name: str, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which units a tensor's mask drops at all their positions, and which it has, bool ``[units]`` each."""
    places, number = group.places[name], len(group.classes)
    has, stays = torch.zeros(number, dtype=torch.bool), torch.zeros(number, dtype=torch.bool)
    has[places] = True
    kept = torch.ones(len(places), dtype=torch.bool) if keep is None else keep.cpu().transpose(0, group.axes[name]).flatten(1).any(1)
    stays[places[kept]] = True
    return has & ~stays, has

"""Coupled tensors ranked and cut as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from limbeck.errors import MaskError, ScheduleError
from limbeck.events import Coupled
from limbeck.names import Named
from limbeck.pruning.coupled import Group, groups, kept_by_any, together, unit_axis
from limbeck.pruning.pruner import Cut, Pruner, Site, one_amount, spread
from limbeck.schedules import Moment
from limbeck.tile import ALL, TENSOR, Tile


def axes(pruner: Pruner, parameters: Mapping[str, Named]) -> dict[str, int]:
    """Of each target of two dimensions or more that falls by whole positions of an axis: which axis."""
    shapes = {name: parameters[name].parameter.shape for name in pruner.targets if parameters[name].parameter.dim() > 1}
    found = {name: unit_axis(pruner.unit_of(name), shape) for name, shape in shapes.items()}
    return {name: axis for name, axis in found.items() if axis is not None}


def matrices(coupled: Coupled) -> frozenset[str]:
    """The parameters of two dimensions or more."""
    return frozenset(name for name, stored in coupled.graph.tensors.items() if not stored.buffer and len(stored.shape) > 1)


def joined(pruner: Pruner, coupled: Coupled, parameters: Mapping[str, Named]) -> Pruner:
    """The pruner with all tensors that share units with its targets as targets too, by the same amounts.

    Raises ``ScheduleError`` for targets that do not fall by whole filters, channels, rows or columns, and for other pools than a tensor or all.
    """
    along = axes(pruner, parameters)
    if strangers := [name for name in pruner.targets if name not in along]:
        raise ScheduleError(
            f"coupling: joint ranks whole filters, channels, rows or columns of matrices, which {strangers[:3]} do not fall by; take another "
            "granularity, or leave coupling out"
        )
    if pruner.pool not in {None, TENSOR}:
        raise ScheduleError("coupling: joint ranks the units of a group, or those of all; take scope tensor, or global")
    targets = dict(pruner.targets)
    for group in groups(coupled.coupling, along, matrices(coupled)):
        listed = targets[next(name for name in group.places if name in along)]
        amount = listed.amount if isinstance(listed, Cut) else listed
        for name, axis in group.axes.items():
            targets.setdefault(name, Cut(amount, Tile((*[ALL] * axis, 1))))
    return replace(pruner, targets=targets)


def joint_masks(pruner: Pruner, sites: Mapping[str, Site], moment: Moment, found: Sequence[Group]) -> dict[str, Tensor]:
    """The new mask of every site: the units of each group are ranked together, or, where all targets share a pool, those of all groups.

    Raises ``MaskError``, naming the tensor, where none can be made, and where one group is asked for different amounts.
    """
    views, scores = pruner.scored(sites, moment)
    masks: dict[str, Tensor] = {}
    for pool in [list(found)] if pruner.pool is None else [[group] for group in found]:
        names = [name for group in pool for name in group.places]
        amount = one_amount({name: views[name].amount for name in names}, f"a group of coupled tensors ({', '.join(names[:4])})")
        try:
            ranks = [together(group, {name: scores[name] for name in group.places}) for group in pool]
        except MaskError as error:
            raise MaskError(f"the group of '{names[0]}': {error}") from error
        so_far = [kept_by_any(group, {name: views[name].kept for name in group.places}) for group in pool]
        known = torch.cat(
            [torch.ones_like(rank, dtype=torch.bool) if kept is None else kept for rank, kept in zip(ranks, so_far, strict=True)]
        )
        select = pruner.left(sum(_removed(pruner, sites, group) for group in pool))
        keep = select(torch.cat(ranks)[None], known[None], amount)[0]
        for group, part in zip(pool, torch.split(keep, [len(rank) for rank in ranks]), strict=True):
            masks |= {name: spread(part[places.to(part.device)], views[name]) for name, places in group.places.items()}
    return masks


def _removed(pruner: Pruner, sites: Mapping[str, Site], group: Group) -> int:
    """How many of a group's units thinning has taken out."""
    return max(pruner.removed(name, sites[name]) * len(set(places.tolist())) // len(places) for name, places in group.places.items())

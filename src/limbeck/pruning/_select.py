"""The k lowest of a pool, exactly: kernels that rank by one order statistic instead of sorting.

A mask needs to know which units are lowest, not in which order. So on the CPU a pool of a few units, the N:M kind, is ranked by comparing
each with each; a pool that fits the cache is partitioned; a larger one, which may lie in several tensors, is bracketed
(``_bracket``) and only partitioned where that fails.

The tie law, here and everywhere: of the units that share the k-th lowest score, those already dropped fall first, then the others, in
index order within each.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import MaskError
from limbeck.pruning._bracket import Array, Pool, lowest_by_bracket, widened

CHUNK = 1 << 17  # elements that are ranked at a time: the scores and their masks stay in the cache
LARGE = 1 << 17  # a pool from this size on is bracketed; a smaller one is partitioned as it is
NARROW = 8  # up to this size the units of a pool are compared with each other


@torch.no_grad()
def lowest(scores: Tensor, kept: Tensor | None, dropped: int, magnitude: bool = False) -> Tensor:
    """Keep all but the ``dropped`` lowest units of every pool; ``scores``, ``kept`` and the result are ``[pools, units]``.

    With ``magnitude`` the scores are the absolute values of what is given, which are not copied.

    >>> lowest(torch.tensor([[3.0, 1.0, 1.0, 2.0]]), torch.tensor([[True, True, False, True]]), 1)
    tensor([[ True,  True, False,  True]])

    Raises ``MaskError`` when a score is NaN.
    """
    scores, (pools, units) = scores.detach(), scores.shape
    if dropped in (0, units):
        refuse_nan(scores)
        return torch.full_like(scores, dropped == 0, dtype=torch.bool)
    if scores.device.type != "cpu":
        return lowest_by_sort(scores.abs() if magnitude else scores, kept, dropped)
    if units < LARGE:
        return _lowest_small(scores, kept, dropped, magnitude)
    masks = [lowest_together([scores[pool]], [None if kept is None else kept[pool]], dropped, magnitude)[0] for pool in range(pools)]
    return torch.stack(masks) if pools > 1 else masks[0][None]


@torch.no_grad()
def lowest_magnitude(weight: Tensor, kept: Tensor | None, dropped: int) -> Tensor:
    """Keep all but the ``dropped`` elements of ``weight`` that are smallest in magnitude: ``lowest`` with all of it as one pool.

    ``kept`` and the result, bool, have the weight's shape.

    >>> lowest_magnitude(torch.tensor([[0.5, -0.1], [-2.0, 0.2]]), None, 2)
    tensor([[ True, False],
            [ True, False]])

    Raises ``MaskError`` when a weight is NaN.
    """
    return lowest_together([weight], [kept], dropped, magnitude=True)[0]


@torch.no_grad()
def lowest_together(parts: Sequence[Tensor], kept: Sequence[Tensor | None], dropped: int, magnitude: bool = False) -> list[Tensor]:
    """Keep all but the ``dropped`` lowest of several tensors that are one pool, in their order; a mask of each tensor's shape.

    ``kept`` holds a mask so far, or None where nothing was dropped, for each. With ``magnitude`` the scores are absolute values.

    >>> lowest_together([torch.tensor([0.5, 3.0]), torch.tensor([[1.0, 2.0]])], [None, None], 2)
    [tensor([False,  True]), tensor([[False,  True]])]

    Raises ``MaskError`` when a score is NaN.
    """
    flat, masks = [part.detach().reshape(-1) for part in parts], [None if mask is None else mask.reshape(-1) for mask in kept]
    pool = Pool(flat, masks, magnitude)
    here = all(part.device.type == "cpu" for part in flat) and 0 < dropped < pool.units
    found = lowest_by_bracket(pool, dropped, _lowest_small) if here and pool.units >= LARGE else None
    if found is None:
        scores = torch.cat(flat) if len(flat) > 1 else flat[0]
        keep = (_lowest_small if here else lowest)(scores[None], _together(flat, masks), dropped, magnitude)
        found = list(torch.split(keep[0], [len(part) for part in flat]))
    return [mask.view(part.shape) for mask, part in zip(found, parts, strict=True)]


def _together(parts: Sequence[Tensor], kept: Sequence[Tensor | None]) -> Tensor | None:
    """The masks of several parts as those of one pool, ``[1, units]``."""
    if all(mask is None for mask in kept):
        return None
    return torch.cat([torch.ones_like(part, dtype=torch.bool) if mask is None else mask for part, mask in zip(parts, kept, strict=True)])[
        None
    ]


def lowest_by_sort(scores: Tensor, kept: Tensor | None, dropped: int) -> Tensor:
    """``lowest`` on any device, for ``0 < dropped < units``: deterministic, and with one synchronisation, that which finds NaN."""
    score = torch.sort(scores, dim=1).values[:, dropped - 1 : dropped]
    keep, ties = scores > score, scores == score
    quota = dropped - (scores < score).sum(1, keepdim=True)
    if kept is not None:
        gone = ties & ~kept
        ties &= kept
        order = gone.cumsum(1, dtype=torch.int32)
        keep |= gone & (order > quota)
        quota = (quota - order[:, -1:]).clamp(min=0)
    keep.logical_or_(ties & (ties.cumsum(1, dtype=torch.int32) > quota))
    if int(keep.count_nonzero()) != len(scores) * (scores.shape[1] - dropped):
        refuse_nan(scores)
    return keep


def refuse_nan(scores: Tensor) -> None:
    """Raise ``MaskError`` when a score is NaN; a sum, the cheapest reading, clears the usual case."""
    if bool(scores.sum().isnan()) and (bad := int(scores.isnan().count_nonzero())):
        raise MaskError(f"{bad} of {scores.numel()} scores are NaN, which have no order; find where the run diverged before it prunes")


def _lowest_small(scores: Tensor, kept: Tensor | None, dropped: int, magnitude: bool = False) -> Tensor:
    """``lowest`` on the CPU, for ``0 < dropped < units``: a block of pools at a time."""
    pools, units = scores.shape
    keep = np.empty((pools, units), dtype=bool)
    rank = _compare if units <= NARROW < pools else _partition

    step = max(1, CHUNK // units)
    for span in (slice(first, first + step) for first in range(0, pools, step)):
        block = widened(scores[span]).numpy()
        if np.isnan(block.max()):
            refuse_nan(scores)
        rank(np.abs(block) if magnitude else block, None if kept is None else kept[span].numpy(), dropped, keep[span])
    return torch.from_numpy(keep)


def _partition(block: Array, kept: Array | None, dropped: int, keep: Array) -> None:
    """Keep what is above the ``dropped``-th lowest score of its pool, and of the ties those that fall last."""
    pools, units = block.shape
    negated = np.negative(block)  # whose many equal scores, the zeros, come last: first, they make NumPy ten times slower
    negated.partition(units - dropped, axis=1)
    score = -negated[:, units - dropped, None]
    above = np.count_nonzero(np.greater(block, score, out=keep))
    if above != pools * (units - dropped):  # no pool can keep more than its share, so else every one keeps exactly that
        _settle_ties(block, kept, score, dropped, keep)


def _settle_ties(block: Array, kept: Array | None, score: Array, dropped: int, keep: Array) -> None:
    pools, units = block.shape
    quota = dropped - np.count_nonzero(block < score, axis=1)
    ties = np.flatnonzero(block == score)
    for places in [ties] if kept is None else [ties[~(was := kept.take(ties))], ties[was]]:
        pool = places // units
        count = np.bincount(pool, minlength=pools)
        order = np.arange(len(places)) - (np.cumsum(count) - count)[pool]
        keep.reshape(-1)[places[order >= quota[pool]]] = True
        quota = np.maximum(quota - count, 0)


def _compare(block: Array, kept: Array | None, dropped: int, keep: Array) -> None:
    """Keep the units than which at least ``dropped`` others are lower, by comparing each with each: a column for each place in the pools."""
    units = block.shape[1]
    columns, known = np.ascontiguousarray(block.T), None if kept is None else np.ascontiguousarray(kept.T)
    lower = np.empty(columns.shape, dtype=np.uint8)
    lower[:] = np.arange(units - 1, -1, -1)[:, None]  # as if all that come later were lower
    for left, right in combinations(range(units), 2):
        first = np.less_equal(columns[left], columns[right])
        if known is not None:
            first &= (columns[left] != columns[right]) | (known[left] <= known[right])
        lower[right] += first.view(np.uint8)
        lower[left] -= first.view(np.uint8)
    for unit, stays in enumerate(lower >= dropped):
        keep[:, unit] = stays

"""The k lowest of a pool, exactly: kernels that rank by bracketing one order statistic instead of sorting.

A mask needs to know which units are lowest, not in which order. So a large pool on the CPU is read once, in chunks that stay in the
cache. A small sample, the same every time, brackets the k-th lowest score between two values; the reading keeps what is above the
lower one, and notes the few scores between the two, of which the lowest then fall as in a small pool. When the bracket misses, or falls
on a score that many units share, the pool is partitioned as a whole: that costs time, never exactness. One thread does it, so
that no barrier stalls it on a busy machine.

The tie law, here and everywhere: of the units that share the k-th lowest score, those already dropped fall first, then the others, in
index order within each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from limbeck.errors import MaskError

Array = npt.NDArray[Any]

CHUNK = 1 << 17  # elements: the scores and two masks of them fit the second-level cache
LARGE = 1 << 17  # a pool from this size on is bracketed; a smaller one is partitioned as it is
DEVIATIONS = 4.0  # half the bracket's width, in standard deviations of a sample's rank
SPREAD = 2654435761  # Knuth's multiplier: scatters the sample, so that no period in the weights can bias it


@torch.no_grad()
def lowest(scores: Tensor, kept: Tensor | None, dropped: int) -> Tensor:
    """Keep all but the ``dropped`` lowest units of every pool; ``scores``, ``kept`` and the result are ``[pools, units]``.

    >>> lowest(torch.tensor([[3.0, 1.0, 1.0, 2.0]]), torch.tensor([[True, True, False, True]]), 1)
    tensor([[ True,  True, False,  True]])

    Raises ``MaskError`` when a score is NaN.
    """
    scores, (pools, units) = scores.detach(), scores.shape
    if dropped in (0, units):
        refuse_nan(scores)
        return torch.full_like(scores, dropped == 0, dtype=torch.bool)
    if scores.device.type != "cpu":
        return lowest_by_sort(scores, kept, dropped)
    if units < LARGE:
        return _lowest_rows(scores, kept, dropped)
    masks = [_lowest_of_large(scores[pool], None if kept is None else kept[pool], dropped, magnitude=False) for pool in range(pools)]
    return torch.stack(masks) if pools > 1 else masks[0][None]


@torch.no_grad()
def lowest_magnitude(weight: Tensor, kept: Tensor | None, dropped: int) -> Tensor:
    """Keep all but the ``dropped`` elements of ``weight`` that are smallest in magnitude: ``lowest`` of ``weight.abs()`` as one pool, without that copy.

    ``kept`` and the result, bool, have the weight's shape.

    >>> lowest_magnitude(torch.tensor([[0.5, -0.1], [-2.0, 0.2]]), None, 2)
    tensor([[ True, False],
            [ True, False]])

    Raises ``MaskError`` when a weight is NaN.
    """
    values, kept = weight.detach().reshape(-1), None if kept is None else kept.reshape(-1)
    if weight.device.type == "cpu" and len(values) >= LARGE and 0 < dropped < len(values):
        return _lowest_of_large(values, kept, dropped, magnitude=True).view(weight.shape)
    return lowest(values.abs()[None], None if kept is None else kept[None], dropped).view(weight.shape)


def lowest_by_sort(scores: Tensor, kept: Tensor | None, dropped: int) -> Tensor:
    """``lowest`` on any device, for ``0 < dropped < units``: deterministic, and with one synchronisation, that which finds NaN."""
    keep = _above(scores, kept, torch.sort(scores, dim=1).values[:, dropped - 1 : dropped], dropped)
    if int(keep.count_nonzero()) != len(scores) * (scores.shape[1] - dropped):
        refuse_nan(scores)
    return keep


def refuse_nan(scores: Tensor) -> None:
    """Raise ``MaskError`` when a score is NaN; a sum, the cheapest reading, clears the usual case."""
    if bool(scores.sum().isnan()) and (bad := int(scores.isnan().count_nonzero())):
        raise MaskError(f"{bad} of {scores.numel()} scores are NaN, which have no order; find where the run diverged before it prunes")


def _above(scores: Tensor, kept: Tensor | None, score: Tensor, dropped: int) -> Tensor:
    """Keep what is above the ``dropped``-th lowest score of its pool, ``[pools, 1]``, and of the ties those that fall last."""
    keep, ties = scores > score, scores == score
    quota = dropped - (scores < score).sum(1, keepdim=True)
    if kept is not None:
        gone = ties & ~kept
        ties &= kept
        order = gone.cumsum(1, dtype=torch.int32)
        keep |= gone & (order > quota)
        quota = (quota - order[:, -1:]).clamp(min=0)
    return keep.logical_or_(ties & (ties.cumsum(1, dtype=torch.int32) > quota))


def _lowest_rows(scores: Tensor, kept: Tensor | None, dropped: int) -> Tensor:
    """``lowest`` for pools that fit the cache: a partition of a block of rows at a time."""
    pools, units = scores.shape
    keep = torch.empty(pools, units, dtype=torch.bool)
    step = max(1, CHUNK // units)
    for first in range(0, pools, step):
        block, part = _widened(scores[first : first + step]), keep[first : first + step]
        score = np.partition(block.numpy(), dropped - 1, axis=1)[:, dropped - 1 : dropped]
        kept_units = np.count_nonzero(np.greater(block.numpy(), score, out=part.numpy()))
        if kept_units == part.shape[0] * (units - dropped):  # no row can keep more than its share, so every row keeps exactly that
            continue
        part.copy_(_above(block, None if kept is None else kept[first : first + step], torch.from_numpy(score), dropped))
        if int(part.count_nonzero()) != part.shape[0] * (units - dropped):
            refuse_nan(scores)
    return keep


def _lowest_of_large(values: Tensor, kept: Tensor | None, dropped: int, magnitude: bool) -> Tensor:
    """The mask of one pool on the CPU, for ``0 < dropped < units``; all are ``[units]``."""
    units = len(values)
    low, high = _bracket(values, dropped, magnitude)
    keep, flags = torch.empty(units, dtype=torch.bool), np.empty(CHUNK, dtype=bool)
    above_low, below_high, between, places = 0, 0, [], []
    for span, part in _chunks(values, magnitude):
        above = np.greater(part, low, out=keep[span].numpy())
        below = np.less(part, high, out=flags[: part.size])
        above_low += int(np.count_nonzero(above))
        below_high += int(np.count_nonzero(below))
        found = np.flatnonzero(np.logical_and(above, below, out=below))
        between.append(part[found])
        places.append(found + span.start)
    scores, place = torch.from_numpy(np.concatenate(between)), torch.from_numpy(np.concatenate(places))
    if above_low + below_high - len(scores) != units:  # NaN is neither above nor below; a bracket without width comes here too
        refuse_nan(values)
    quota = dropped - (units - above_low)
    if not 0 <= quota <= len(scores):
        return _lowest_rows((values.abs() if magnitude else values)[None], None if kept is None else kept[None], dropped)[0]
    if quota == len(scores):
        keep[place] = False
    elif quota:
        keep[place] = _lowest_rows(scores[None], None if kept is None else kept[place][None], quota)[0]
    return keep


def _bracket(values: Tensor, rank: int, magnitude: bool) -> tuple[Any, Any]:
    """Two scores between which the ``rank``-th lowest almost surely lies, from a scattered sample that is the same every time."""
    units = values.numel()
    step = max(1, units // (8 * math.isqrt(units)))
    place = np.arange(units // step)
    sample = _widened(values[torch.from_numpy(place * step + place * SPREAD % step)]).numpy()
    if magnitude:
        np.abs(sample, out=sample)
    share, size = rank / units, sample.size
    reach = DEVIATIONS * math.sqrt(size * share * (1 - share)) + 2
    first, last = math.floor(size * share - reach), math.ceil(size * share + reach)
    sample.partition((max(first, 0), min(last, size - 1)))
    bottom, top = sample.dtype.type(-math.inf), sample.dtype.type(math.inf)
    return (sample[first] if first >= 0 else bottom), (sample[last] if last < size else top)


def _chunks(values: Tensor, magnitude: bool) -> Iterator[tuple[slice, Array]]:
    """The scores in cache-sized pieces, as float32 or float64; a piece may be overwritten when the next one is asked for."""
    buffer = np.empty(min(CHUNK, values.numel()), dtype=np.float64 if values.dtype == torch.float64 else np.float32)
    for first in range(0, values.numel(), CHUNK):
        piece = _widened(values[first : first + CHUNK]).numpy()
        yield slice(first, first + CHUNK), np.abs(piece, out=buffer[: piece.size]) if magnitude else piece


def _widened(scores: Tensor) -> Tensor:
    """float16 and bfloat16, which numpy lacks or is slow at, as float32: the order stays."""
    return scores if scores.dtype in (torch.float32, torch.float64) else scores.to(torch.float32)

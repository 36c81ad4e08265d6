"""The k lowest of a pool, exactly: kernels that rank by finding one order statistic instead of sorting.

A mask needs to know which units are lowest, not in which order. So a large pool on the CPU is read twice, in chunks that stay in the
cache: once to find the k-th lowest score, and once to compare with it. A small fixed sample brackets that score between two values;
the first reading counts what lies at or under the lower one and collects the few scores between the two, and the score is an order
statistic of these few. When the bracket misses, which costs time and never exactness, the whole pool is partitioned. Both readings
are shared out to as many threads as torch has; numpy works without the interpreter's lock, and its comparisons are several times faster
than torch's.

The tie law, here and everywhere: of the units that share the k-th lowest score, those already dropped fall first, then the others, in
index order within each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from limbeck.errors import MaskError

Array = npt.NDArray[Any]
T = TypeVar("T")

CHUNK = 1 << 17  # elements: scores, two masks and a copy of them fit the second-level cache
LARGE = 1 << 17  # a pool from this size on is bracketed; a smaller one is partitioned as it is
DEVIATIONS = 4.0  # half the bracket's width, in standard deviations of a sample's rank
SPREAD = 2654435761  # Knuth's multiplier: scatters the sample, so that no period in the weights can bias it


@dataclass(frozen=True)
class Cut:
    """The k-th lowest score of a pool, how many scores are below it, and how many equal it."""

    score: Any
    below: int
    equal: int


@torch.no_grad()
def lowest(scores: Tensor, kept: Tensor | None, dropped: int) -> Tensor:
    """Keep all but the ``dropped`` lowest units of every pool; ``scores``, ``kept`` and the result are ``[pools, units]``.

    >>> lowest(torch.tensor([[3.0, 1.0, 1.0, 2.0]]), torch.tensor([[True, True, False, True]]), 1)
    tensor([[ True,  True, False,  True]])

    Raises ``MaskError`` when a score is NaN.
    """
    scores, (pools, units) = scores.detach(), scores.shape
    if dropped in (0, units):
        refuse_nan(scores, "scores")
        return torch.full_like(scores, dropped == 0, dtype=torch.bool)
    if scores.device.type != "cpu":
        return lowest_by_sort(scores, kept, dropped)
    if units < LARGE:
        return _lowest_rows(scores, kept, dropped)
    keep = torch.empty(pools, units, dtype=torch.bool)
    for pool in range(pools):
        _lowest_flat(scores[pool].contiguous(), None if kept is None else kept[pool].contiguous(), dropped, keep[pool], magnitude=False)
    return keep


@torch.no_grad()
def lowest_magnitude(weight: Tensor, kept: Tensor | None, dropped: int, out: Tensor | None = None) -> Tensor:
    """Keep all but the ``dropped`` elements of ``weight`` that are smallest in magnitude: ``lowest`` of ``weight.abs()`` as one pool, without that copy.

    ``kept`` and the result, bool, have the weight's shape. The result is written into ``out``, contiguous, when it is given; that may be
    ``kept`` itself, and a renewal then allocates nothing large.

    >>> lowest_magnitude(torch.tensor([[0.5, -0.1], [-2.0, 0.2]]), None, 2)
    tensor([[ True, False],
            [ True, False]])

    Raises ``MaskError`` when a weight is NaN; ``out`` then holds no mask.
    """
    keep = torch.empty(weight.shape, dtype=torch.bool, device=weight.device) if out is None else out
    if weight.device.type != "cpu" or dropped in (0, weight.numel()):
        rows = weight.detach().abs().reshape(1, -1)
        return keep.copy_(lowest(rows, None if kept is None else kept.reshape(1, -1), dropped).view(weight.shape))
    _lowest_flat(weight.detach().reshape(-1), None if kept is None else kept.reshape(-1), dropped, keep.view(-1), magnitude=True)
    return keep


def lowest_by_sort(scores: Tensor, kept: Tensor | None, dropped: int) -> Tensor:
    """``lowest`` on any device, for ``0 < dropped < units``: deterministic, and with one synchronisation, that which finds NaN."""
    keep = _above(scores, kept, torch.sort(scores, dim=1).values[:, dropped - 1 : dropped], dropped)
    if int(keep.count_nonzero()) != len(scores) * (scores.shape[1] - dropped):
        refuse_nan(scores, "scores")
    return keep


def refuse_nan(values: Tensor, what: str) -> None:
    """Raise ``MaskError`` when one of ``values`` is NaN; a sum, the cheapest reading, clears the usual case."""
    if bool(values.sum().isnan()) and (bad := int(values.isnan().count_nonzero())):
        raise MaskError(f"{bad} of {values.numel()} {what} are NaN, which have no order; find where the run diverged before it prunes")


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
            refuse_nan(scores, "scores")
    return keep


def _lowest_flat(values: Tensor, kept: Tensor | None, dropped: int, out: Tensor, magnitude: bool) -> None:
    """Write the mask of one pool on the CPU, for ``0 < dropped < units``; all are ``[units]``."""
    cut = _cut(values, dropped, magnitude)
    keep, quota = out.numpy(), dropped - cut.below
    if quota < cut.equal:
        above = _write_with_ties(values, None if kept is None else kept.numpy(), cut, quota, keep, magnitude)
    else:

        def write(starts: range) -> int:
            return sum(_count(np.greater(part, cut.score, out=keep[span])) for span, part in _chunks(values, magnitude, starts))

        above = sum(_by_thread(write, values.numel()))
    if cut.below + cut.equal + above != values.numel():
        refuse_nan(values, "weights" if magnitude else "scores")


def _write_with_ties(values: Tensor, kept: Array | None, cut: Cut, quota: int, keep: Array, magnitude: bool) -> int:
    """Write the mask when only ``quota`` of the ties fall; return how many scores are above the cut. ``keep`` may be ``kept``."""
    gone_quota = 0
    if kept is not None:
        gone_quota = min(quota, sum(_count((part == cut.score) > kept[span]) for span, part in _chunks(values, magnitude)))
        quota -= gone_quota
    above = 0
    for span, part in _chunks(values, magnitude):
        ties = np.equal(part, cut.score)
        gone = np.greater(ties, kept[span]) if kept is not None else np.zeros_like(ties)
        np.greater(ties, gone, out=ties)
        gone_quota, quota = _clear_first(gone, gone_quota), _clear_first(ties, quota)
        above += _count(np.greater(part, cut.score, out=keep[span]))
        keep[span] |= gone
        keep[span] |= ties
    return above


def _clear_first(flags: Array, quota: int) -> int:
    """Clear the first ``quota`` that are set; return what is left of the quota."""
    there = _count(flags)
    if quota >= there:
        flags[:] = False
    elif quota:
        flags[: int(np.flatnonzero(flags)[quota - 1]) + 1] = False
    return max(0, quota - there)


def _cut(values: Tensor, rank: int, magnitude: bool) -> Cut:
    """The ``rank``-th lowest score, counted from 1."""
    if values.numel() < LARGE:
        return _cut_by_partition(values, rank, magnitude)
    low, high = _bracket(values, rank, magnitude)

    def read(starts: range) -> tuple[int, list[Array]]:
        at_most, between = 0, []
        flags = np.empty((2, CHUNK), dtype=bool)
        for _, part in _chunks(values, magnitude, starts):
            under = np.less_equal(part, low, out=flags[0, : part.size])
            inside = np.less(part, high, out=flags[1, : part.size])
            at_most += _count(under)
            between.append(part[np.flatnonzero(np.greater(inside, under, out=inside))])
        return at_most, between

    shares = _by_thread(read, values.numel())
    at_most = sum(count for count, _ in shares)
    candidates = np.concatenate([part for _, between in shares for part in between])
    if 0 < rank - at_most <= candidates.size:
        score = np.partition(candidates, rank - at_most - 1)[rank - at_most - 1]
        return Cut(score, at_most + _count(candidates < score), _count(candidates == score))
    edge = low if rank <= at_most else high  # many units share one score, zero for one, and the sample's ranks fell on it
    below = sum(_count(part < edge) for _, part in _chunks(values, magnitude))
    equal = sum(_count(part == edge) for _, part in _chunks(values, magnitude))
    return Cut(edge, below, equal) if below < rank <= below + equal else _cut_by_partition(values, rank, magnitude)


def _cut_by_partition(values: Tensor, rank: int, magnitude: bool) -> Cut:
    scores = np.concatenate([part.copy() for _, part in _chunks(values, magnitude)])
    score = np.partition(scores, rank - 1)[rank - 1]
    return Cut(score, _count(scores < score), _count(scores == score))


def _bracket(values: Tensor, rank: int, magnitude: bool) -> tuple[Any, Any]:
    """Two scores between which the ``rank``-th lowest almost surely lies, from a scattered sample that is the same every time."""
    units = values.numel()
    step = max(1, units // (16 * math.isqrt(units)))
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


def _by_thread(work: Callable[[range], T], units: int) -> list[T]:
    """Share the starts of a pool's chunks out to torch's number of threads; the results in the order of the units."""
    starts = range(0, units, CHUNK)
    share = max(1, math.ceil(len(starts) / torch.get_num_threads()))
    shares = [starts[first : first + share] for first in range(0, len(starts), share)]
    if len(shares) == 1:
        return [work(starts)]
    with ThreadPoolExecutor(len(shares)) as threads:
        return list(threads.map(work, shares))


def _chunks(values: Tensor, magnitude: bool, starts: range | None = None) -> Iterator[tuple[slice, Array]]:
    """The scores in cache-sized pieces, as float32 or float64; a piece may be overwritten when the next one is asked for."""
    buffer = np.empty(min(CHUNK, values.numel()), dtype=np.float64 if values.dtype == torch.float64 else np.float32)
    for first in range(0, values.numel(), CHUNK) if starts is None else starts:
        piece = _widened(values[first : first + CHUNK]).numpy()
        yield slice(first, first + CHUNK), np.abs(piece, out=buffer[: piece.size]) if magnitude else piece


def _widened(scores: Tensor) -> Tensor:
    """float16 and bfloat16, which numpy lacks or is slow at, as float32: the order stays."""
    return scores if scores.dtype in (torch.float32, torch.float64) else scores.to(torch.float32)


def _count(flags: Array) -> int:
    return int(np.count_nonzero(flags))

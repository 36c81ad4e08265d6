"""The k lowest of a large pool, which may lie in several tensors: the k-th lowest score is bracketed instead of sought.

The pool is read once, in chunks that stay in the cache. A small sample, the same every time, brackets the k-th lowest score between two
values; the reading keeps what is above the lower one, and notes the few scores between the two, of which the lowest then fall. Where
the bracket misses, or falls on a score that many units share, there is no answer: that costs time, never exactness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]

CHUNK = 1 << 17  # elements that are read at a time: the scores and two masks of them stay in the cache
DEVIATIONS = 3.5  # half the bracket's width, in standard deviations of a sample's rank
SPREAD = 2654435761  # Knuth's multiplier: scatters the sample, so that no period in the weights can bias it

Span = tuple[int, slice]  # which part, and where in it
Choose = Callable[[Tensor, Tensor | None, int], Tensor]


class Pool(NamedTuple):
    """Scores that compete with each other, in parts: CPU tensors ``[units]``, contiguous, each with its mask so far or None."""

    parts: Sequence[Tensor]
    kept: Sequence[Tensor | None]
    magnitude: bool
    """The scores are the parts' absolute values."""

    @property
    def units(self) -> int:
        """How many units compete."""
        return sum(len(part) for part in self.parts)


class Between(NamedTuple):
    """The scores of one span that lie between two, and their places in its part."""

    span: Span
    scores: Array
    places: Array


class Reading(NamedTuple):
    """What the reading found."""

    above_low: int
    below_high: int
    between: list[Between]


def lowest_by_bracket(pool: Pool, dropped: int, choose: Choose) -> list[Tensor] | None:
    """Keep all but the ``dropped`` lowest, for ``0 < dropped < units``: a mask a part, or None where the bracket fails or a score is NaN.

    ``choose(scores, kept, dropped)``, all ``[1, units]``, decides about the scores between, in the order of parts and places.
    """
    low, high = bracket(pool, dropped)
    keep = [np.empty(len(part), dtype=bool) for part in pool.parts]
    spans = [(part, slice(first, first + CHUNK)) for part, values in enumerate(pool.parts) for first in range(0, len(values), CHUNK)]
    reading = _read(pool, keep, low, high, spans)
    scores = np.concatenate([found.scores for found in reading.between])
    quota = dropped - (pool.units - reading.above_low)
    if reading.above_low + reading.below_high - len(scores) != pool.units or not 0 <= quota <= len(
        scores
    ):  # NaN is neither above nor below
        return None
    if quota:
        _drop(pool, keep, reading.between, lambda kept: choose(torch.from_numpy(scores)[None], kept, quota))
    return [torch.from_numpy(mask) for mask in keep]


def _drop(pool: Pool, keep: Sequence[Array], between: Sequence[Between], choose: Callable[[Tensor | None], Tensor]) -> None:
    kept = None
    if any(mask is not None for mask in pool.kept):
        masks = [None if mask is None else mask.numpy() for mask in pool.kept]
        known = [np.ones(len(places), dtype=bool) if (mask := masks[span[0]]) is None else mask[places] for span, _, places in between]
        kept = torch.from_numpy(np.concatenate(known))[None]
    verdict, first = choose(kept)[0].numpy(), 0
    for (part, _), _, places in between:
        keep[part][places] = verdict[first : first + len(places)]
        first += len(places)


def _read(pool: Pool, keep: Sequence[Array], low: Any, high: Any, spans: Sequence[Span]) -> Reading:
    """Keep what is above ``low``; count it, count what is below ``high``, and note what is both."""
    flags, buffer = np.empty(CHUNK, dtype=bool), np.empty(CHUNK if pool.magnitude else 0, dtype=np.float32)
    above_low, below_high, between = 0, 0, []
    for part, span in spans:
        scores = widened(pool.parts[part][span]).numpy()
        if pool.magnitude:
            scores = np.abs(scores, out=buffer[: scores.size] if scores.dtype == buffer.dtype else None)
        above = np.greater(scores, low, out=keep[part][span])
        below = np.less(scores, high, out=flags[: scores.size])
        above_low += int(np.count_nonzero(above))
        below_high += int(np.count_nonzero(below))
        found = np.flatnonzero(np.logical_and(above, below, out=below))
        between.append(Between((part, span), scores[found], found + span.start))
    return Reading(above_low, below_high, between)


def bracket(pool: Pool, rank: int) -> tuple[Any, Any]:
    """Two scores between which the ``rank``-th lowest almost surely lies."""
    sample = _negated_sample(pool)  # negated, because many zeros in front make NumPy's partition ten times slower
    share, size = 1 - rank / pool.units, sample.size
    reach = DEVIATIONS * math.sqrt(size * share * (1 - share)) + 2
    first, last = math.floor(size * share - reach), math.ceil(size * share + reach)
    low, high, rest = sample.dtype.type(-math.inf), sample.dtype.type(math.inf), sample
    if first >= 0:
        sample.partition(first)  # one place at a time, which NumPy has vectorized
        high, rest = -sample[first], sample[first:]
    if last < size:
        rest.partition(last - max(first, 0))
        low = -rest[last - max(first, 0)]
    return low, high


def _negated_sample(pool: Pool) -> Array:
    """Scores from scattered places, the same every time; so many that reading them and sorting out the scores between cost the least."""
    units = pool.units
    step = max(1, units // int(2 * units ** (2 / 3)))
    place = np.arange(units // step, dtype=np.uint64)
    place = (place * step + ((place * SPREAD & 0xFFFFFFFF) * step >> 32)).view(np.int64)
    starts = [0, *accumulate(len(part) for part in pool.parts)]
    cuts = np.searchsorted(place, starts)
    picked = [
        widened(part.index_select(0, torch.from_numpy(place[first:last] - start))).numpy()
        for part, start, first, last in zip(pool.parts, starts, cuts, cuts[1:], strict=False)
    ]
    sample: Array = np.concatenate(picked)
    if pool.magnitude:
        np.abs(sample, out=sample)
    return np.negative(sample, out=sample)


def widened(scores: Tensor) -> Tensor:
    """float16 and bfloat16, which numpy lacks or is slow at, as float32: the order stays."""
    return scores if scores.dtype in (torch.float32, torch.float64) else scores.to(torch.float32)

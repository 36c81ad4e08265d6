"""Searches for a range: the least divergence of a histogram, and the least error of values once they are quantized."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.quantization.affine import Mode, fake_quantize, qparams
from limbeck.tile import FILTERS

COARSE, FINE = 16, 8
"""Into how many parts the whole range is cut, and each part around the best of them once more."""

Fractions = tuple[Tensor, Tensor]
"""Of the lower and of the upper bound, ``[groups]`` each."""


def least_divergence(counts: NDArray[np.int64], levels: int) -> float:
    """How many bins of a histogram of magnitudes are kept, plus a half: where the Kullback-Leibler divergence is least; in widths of a bin.

    For every ``i`` from ``levels`` to all bins: P is the first ``i`` bins with everything beyond added to the last of them; Q is those bins, without
    what is beyond, joined into ``levels`` and spread again over the bins of each level that were not empty. ``sum p * log(p / q)`` of the two, each
    divided by its sum, is the divergence; it is infinite where a bin of P is not empty and Q's is. Level ``k`` holds the bins from ``k * i // levels``
    on. Of equal divergences the largest ``i`` is taken. Nothing is clipped where there are no more bins than levels.

    Source: Migacz 2017, "8-bit Inference with TensorRT", with two changes. ``i = all bins`` is a candidate too, which always has a finite divergence. And
    at least half of the values must lie within: where the first bins are empty, as behind a sigmoid, a last bin that holds all there is would be found
    to be like itself. All candidates are computed together, from running sums.

    >>> least_divergence(np.array([40, 30, 20, 10, 5, 0, 1, 0, 0, 1]), 4), least_divergence(np.array([5, 3, 1]), 4)
    (5.5, 3.5)
    """
    used = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 0
    if used <= levels:
        return used + 0.5
    bins = counts[:used].astype(np.float64)
    total, filled, entropy = (np.concatenate([[0.0], np.cumsum(each)]) for each in (bins, bins > 0, _x_log_x(bins)))
    kept = np.arange(max(levels, int(np.searchsorted(total, total[-1] / 2))), used + 1)
    edges = np.arange(levels + 1) * kept[:, None] // levels
    within, not_empty = np.diff(total[edges]), np.diff(filled[edges])
    outside = total[-1] - total[kept]
    last = bins[kept - 1]
    own = entropy[kept] - _x_log_x(last) + _x_log_x(last + outside)
    log_level = np.log(np.divide(within, not_empty, out=np.ones_like(within), where=within > 0))
    crossed = (within * log_level).sum(1) + outside * log_level[:, -1]
    divergence = (own - crossed) / total[-1] - np.log(total[-1]) + np.log(total[kept])
    divergence[(outside > 0) & (last == 0)] = np.inf
    return float(kept[len(kept) - 1 - np.argmin(divergence[::-1])]) + 0.5


def without_zeros(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """A histogram of magnitudes whose first bin, where zeros are counted, is like the second.

    >>> without_zeros(np.array([900, 3, 2])).tolist(), without_zeros(np.array([5, 0])).tolist()
    ([3, 3, 2], [5, 0])
    """
    return np.concatenate([counts[1:2], counts[1:]]) if counts[1:].any() else counts


def _x_log_x(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * np.log(np.maximum(x, 1))


def least_error(
    values: Tensor, counts: Tensor | None, whole: tuple[Tensor, Tensor], integers: tuple[int, Mode], power: float
) -> tuple[Tensor, Tensor]:
    """For each group the range whose quantization has the least ``sum counts * abs(error) ** power``; two tensors ``[groups]``.

    ``values`` are ``[groups, n]``, seen ``counts`` times each; ``whole`` is the range of all, and ``integers`` are bits and mode. Candidates are fractions of
    the whole range: sixteenths, and then around the best of them 128ths. Both ends shrink together; in an asymmetric mode then the upper one alone, and
    then the lower one. The whole range is a candidate, so the error is never above that of none.

    Source: the initialization of LAPQ (Nahshan et al. 2019, arXiv 1911.07190), which minimizes the same norm.
    """
    bits, mode = integers
    low, high = whole[0].clamp(max=0), whole[1].clamp(min=0)
    if mode.is_symmetric:
        high = torch.maximum(-low, high)
        low = -high

    def error(fractions: Fractions) -> Tensor:
        params = qparams(low * fractions[0], high * fractions[1], bits, mode, FILTERS)
        off = (fake_quantize(values, params) - values).abs_().pow_(power)
        return (off if counts is None else off.mul_(counts)).sum(1, dtype=torch.float64)

    best = torch.ones_like(low), torch.ones_like(high)
    least = error(best)
    for moved in ((True, True),) if mode.is_symmetric else ((True, True), (False, True), (True, False)):
        for part in range(1, COARSE):
            best, least = _better(
                error, best, least, [at.new_full(at.shape, part / COARSE) if moves else at for at, moves in zip(best, moved, strict=True)]
            )
        middle = best
        for part in range(1 - FINE, FINE):
            shift = part / COARSE / FINE
            best, least = _better(
                error, best, least, [(at + shift).clamp(0, 1) if moves else at for at, moves in zip(middle, moved, strict=True)]
            )
    return low * best[0], high * best[1]


def _better(error: Callable[[Fractions], Tensor], best: Fractions, least: Tensor, tried: list[Tensor]) -> tuple[Fractions, Tensor]:
    """For each group the better of two ranges, and its error."""
    found = error((tried[0], tried[1]))
    wins = found < least
    return (torch.where(wins, tried[0], best[0]), torch.where(wins, tried[1], best[1])), torch.where(wins, found, least)

"""Histograms whose bins are powers of two wide and start at zero, so that a coarser one is exactly the sum of a finer one's bins.

The range need not be known beforehand: where a larger number comes, bins are joined in pairs, and the counts are those of a histogram that had been as
coarse from the start. So the order of batches does not matter, and one pass over the data is enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, ConfigDict, Field
from torch import Tensor

BINS = 2048
"""At most so many on either side of zero, and at least half as many on the longer one."""
_FINEST = -126  # the exponent of the width for a tensor of zeros: every other one is coarser

Counts = NDArray[np.int64]
Sums = NDArray[np.float64]


def _apart(text: Any) -> Any:
    """``(256, 3, 32, 32)`` and ``4 0 17``, as files hold shapes and counts, taken apart."""
    return text.strip("()[] ").replace(",", " ").split() if isinstance(text, str) else text


WholeNumbers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_apart)]


@dataclass(frozen=True)
class Histogram:
    """``counts[i]`` values lie in ``[(first + i) * width, (first + i + 1) * width)``; ``width`` is a power of two.

    >>> Histogram.of(torch.tensor([-1.0, 0.25, 1.5, 1.9995]), bins=4)
    Histogram(width=0.5, first=-2, counts=(1, 0, 1, 0, 0, 2))
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    width: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    first: int
    counts: WholeNumbers

    @classmethod
    def of(cls, values: Tensor, bins: int = BINS) -> Histogram:
        """The histogram of all elements; raises ``ValueError`` for NaN and infinity."""
        running = Running(bins)
        running.add(values)
        return running.histogram()

    @property
    def centers(self) -> Sums:
        """The middles of the bins.

        >>> Histogram(0.5, -1, (3, 4)).centers
        array([-0.25,  0.25])
        """
        return np.asarray((np.arange(self.first, self.first + len(self.counts)) + 0.5) * self.width, dtype=np.float64)

    def magnitudes(self) -> Counts:
        """How many values lie in each bin of their absolute value, from 0 on.

        >>> Histogram(0.5, -2, (1, 0, 1, 0, 0, 2)).magnitudes()
        array([1, 1, 0, 2])
        """
        places = np.arange(self.first, self.first + len(self.counts))
        return np.bincount(np.where(places < 0, -1 - places, places), weights=self.counts).astype(np.int64)


class Running:
    """A histogram that grows, with the sum of the values in each bin.

    >>> running = Running(4)
    >>> running.add(torch.tensor([0.25, 0.5]))
    >>> running.add(torch.tensor([7.0]))
    >>> running.histogram(), running.deviation(31 / 12)
    (Histogram(width=2.0, first=0, counts=(2, 0, 0, 1)), 2.944444...)
    """

    def __init__(self, bins: int = BINS) -> None:
        if bins < 2 or bins & (bins - 1):
            raise ValueError(f"{bins} bins; give a power of two, as {BINS}")
        self._bins = bins
        self._exponent = _FINEST
        self._counts: Counts = np.zeros(2 * bins, dtype=np.int64)
        self._sums: Sums = np.zeros(2 * bins, dtype=np.float64)

    def add(self, values: Tensor) -> None:
        """Count the elements; raises ``ValueError`` for NaN and infinity."""
        values = values.detach().reshape(-1)
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        if not len(values):
            return
        largest = float(values.abs().max())
        if not math.isfinite(largest):
            raise ValueError("values that are NaN or infinite have no place in a histogram; look where they come from")
        self._coarsen(max(_FINEST, math.frexp(largest)[1] - self._bins.bit_length() + 1) if largest else _FINEST)
        places = (values * 2.0**-self._exponent).floor_().to(torch.int64).add_(self._bins)
        self._counts += torch.bincount(places, minlength=2 * self._bins).cpu().numpy()
        self._sums += torch.bincount(places, values.double(), minlength=2 * self._bins).cpu().numpy()

    def _coarsen(self, exponent: int) -> None:
        """Join bins until their width is ``2 ** exponent`` at least."""
        joined = min(exponent - self._exponent, 62)  # from some point on all are in the two bins beside zero
        if joined <= 0:
            return
        places = (np.arange(-self._bins, self._bins) >> joined) + self._bins
        self._counts = np.bincount(places, weights=self._counts, minlength=2 * self._bins).astype(np.int64)
        self._sums = np.bincount(places, weights=self._sums, minlength=2 * self._bins).astype(np.float64)
        self._exponent = exponent

    def histogram(self) -> Histogram:
        """What was counted so far, without empty bins at the ends; zero always lies in it, or at its edge."""
        found = np.flatnonzero(self._counts)
        first = min(int(found[0]) if len(found) else self._bins, self._bins)
        last = max(int(found[-1]) if len(found) else self._bins, self._bins)
        return Histogram(2.0**self._exponent, first - self._bins, tuple(self._counts[first : last + 1].tolist()))

    def deviation(self, mean: float) -> float:
        """The mean of ``abs(x - mean)``: exact but for the values in the bin that holds ``mean``.

        Of those the sum is known, and the least that it allows is taken: below the truth by at most half a bin's width times their share.
        """
        middles = np.divide(self._sums, self._counts, out=np.full(len(self._sums), mean), where=self._counts > 0)
        return float(np.abs(middles - mean) @ self._counts) / max(1, int(self._counts.sum()))


def weighted(histograms: Iterable[Histogram]) -> tuple[Tensor, Tensor]:
    """The centers of the bins and their counts, two tensors ``[histograms, bins]``; shorter ones end in bins of count 0."""
    rows: list[tuple[Any, tuple[int, ...]]] = [(histogram.centers, histogram.counts) for histogram in histograms]
    longest = max(len(counts) for _, counts in rows)
    centers, counts = torch.zeros(len(rows), longest), torch.zeros(len(rows), longest)
    for row, (middles, numbers) in enumerate(rows):
        centers[row, : len(numbers)] = torch.as_tensor(middles, dtype=torch.float32)
        counts[row, : len(numbers)] = torch.tensor(numbers, dtype=torch.float32)
    return centers, counts

"""Where a range is cut before it is quantized: fewer outliers, smaller steps. Functions from what was observed of a tensor to ``(low, high)``.

A clipping sees the statistics of many batches (``stats.TensorStats.observed``) or one tensor, such as a weight or an activation at run time
(``OfTensor``), which measures only what is asked for. All numbers are tensors of one shape, ``[groups]``, or ``[]`` for statistics.

Sources: ``distiller/quantization/q_utils.py`` (names and formulas of the first five); Banner, Nahshan, Hoffer and Soudry 2018, "ACIQ" (arXiv 1810.05723);
Migacz 2017, "8-bit Inference with TensorRT" (KL); Nahshan et al. 2019, "Loss Aware Post-training Quantization" (LAPQ, arXiv 1911.07190), for the norms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor

from limbeck.errors import did_you_mean
from limbeck.quantization.affine import Mode
from limbeck.quantization.histogram import Histogram, weighted
from limbeck.quantization.thresholds import least_divergence, least_error, without_zeros
from limbeck.tile import TENSOR, Tile

Range = tuple[Tensor, Tensor]
_POWER = re.compile(r"l[1-9]\d?(\.\d+)?")
_MANY = 1 << 16  # elements of one group, from which on a histogram of them is searched

ACIQ_LAPLACE = (1.86, 2.83, 3.89, 5.03, 6.2, 7.41, 8.64, 9.89)
ACIQ_LAPLACE_POSITIVE = (2.83, 3.89, 5.02, 6.2, 7.41, 8.64, 9.89, 11.16)
ACIQ_GAUSS = (1.24, 1.71, 2.15, 2.55, 2.93, 3.28, 3.61, 3.92)
ACIQ_GAUSS_POSITIVE = (1.71, 2.15, 2.55, 2.93, 3.28, 3.61, 3.92, 4.2)
"""The clipping, in units of ``b`` or of the standard deviation, that costs the least squared error with 1 to 8 bits; "positive" for one half of it."""


@dataclass(frozen=True)
class Grid:
    """What a range is clipped for: the numbers of bits, the mode, and options of single clippings.

    ``half_range`` says that no value is negative, as behind a ReLU (ACIQ, asymmetric); ``n_stds`` is how many standard deviations are kept (``n_std``).
    """

    bits: int = 8
    mode: Mode = Mode.SYMMETRIC
    half_range: bool = False
    n_stds: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", Mode(self.mode))  # by any of its names


class Observed(Protocol):
    """What may be known of a tensor, for each of its groups; what is not known raises ``ValueError`` when it is asked for."""

    @property
    def min(self) -> Tensor:
        """The lowest value."""

    @property
    def max(self) -> Tensor:
        """The highest value."""

    @property
    def avg_min(self) -> Tensor:
        """The mean, over samples, of each one's lowest value."""

    @property
    def avg_max(self) -> Tensor:
        """The mean, over samples, of each one's highest value."""

    @property
    def mean(self) -> Tensor:
        """The mean."""

    @property
    def std(self) -> Tensor:
        """The standard deviation, with n - 1 in its denominator."""

    @property
    def b(self) -> Tensor:
        """The mean absolute deviation from the mean, a Laplace distribution's parameter."""

    @property
    def floor(self) -> Tensor:
        """Below what an asymmetric range of ACIQ does not begin: Distiller takes ``min`` of a tensor, ``avg_min`` of statistics."""

    def histograms(self) -> list[Histogram]:
        """A histogram of each group."""

    def samples(self) -> tuple[Tensor, Tensor | None]:
        """Values ``[groups, n]``, and how often each was seen; None for once."""


Clipping = Callable[[Observed, Grid], Range]


class OfTensor:
    """A tensor as something observed, group by group of ``tile``; each number is computed when it is first asked for.

    With one group, ``avg_min`` and ``avg_max`` are means over the slices of the first axis, the samples of a batch, as in Distiller; where a slice is a
    single number, and with several groups, they are ``min`` and ``max``.

    >>> seen = OfTensor(torch.tensor([[-1.0, 3.0], [0.0, 6.0]]))
    >>> seen.min, seen.avg_max, seen.b
    (tensor([-1.]), tensor([4.5000]), tensor([2.5000]))

    Raises ``ValueError`` for a tensor without elements.
    """

    def __init__(self, tensor: Tensor, tile: Tile = TENSOR) -> None:
        if not tensor.numel():
            raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has no elements, and so no range; leave it out")
        values = tensor.detach()
        self._groups = tile.fold(values.to(torch.promote_types(values.dtype, torch.float32)))
        is_batch = len(self._groups) == 1 and values.dim() > 1 and values.numel() > len(values)
        self._samples = values.reshape(len(values), -1) if is_batch else None

    @cached_property
    def min(self) -> Tensor:
        """The lowest value of each group."""
        return self._groups.amin(1)

    @cached_property
    def max(self) -> Tensor:
        """The highest value of each group."""
        return self._groups.amax(1)

    @cached_property
    def avg_min(self) -> Tensor:
        """The mean of the samples' lowest values."""
        return self.min if self._samples is None else self._samples.amin(1).to(self._groups.dtype).mean(0, keepdim=True)

    @cached_property
    def avg_max(self) -> Tensor:
        """The mean of the samples' highest values."""
        return self.max if self._samples is None else self._samples.amax(1).to(self._groups.dtype).mean(0, keepdim=True)

    @cached_property
    def mean(self) -> Tensor:
        """The mean of each group."""
        return self._groups.mean(1)

    @cached_property
    def std(self) -> Tensor:
        """The standard deviation of each group; 0 for a single value."""
        return self._groups.std(1) if self._groups.shape[1] > 1 else torch.zeros_like(self.mean)

    @cached_property
    def b(self) -> Tensor:
        """The mean absolute deviation of each group."""
        return (self._groups - self.mean[:, None]).abs_().mean(1)

    @property
    def floor(self) -> Tensor:
        """The lowest value of each group."""
        return self.min

    def histograms(self) -> list[Histogram]:
        """A histogram of each group."""
        return [Histogram.of(group) for group in self._groups]

    def samples(self) -> tuple[Tensor, Tensor | None]:
        """The values themselves; of a single large group the middles of its histogram's bins."""
        if len(self._groups) > 1 or self._groups.shape[1] < _MANY:
            return self._groups, None
        values, counts = weighted(self.histograms())
        return values.to(self._groups.device), counts.to(self._groups.device)


def none(seen: Observed, grid: Grid) -> Range:
    """From the lowest to the highest value: nothing is clipped.

    >>> none(OfTensor(torch.tensor([-1.0, 2.0])), Grid())
    (tensor([-1.]), tensor([2.]))
    """
    return seen.min, seen.max


def average(seen: Observed, grid: Grid) -> Range:
    """From the samples' mean lowest to their mean highest value."""
    return seen.avg_min, seen.avg_max


def n_std(seen: Observed, grid: Grid) -> Range:
    """``n_stds`` standard deviations on both sides of the mean, within what was seen; symmetric: ``abs(mean) + n_stds * std`` on both sides of 0.

    >>> n_std(OfTensor(torch.tensor([-2.0, -1.0, 1.0, 2.0, 10.0])), Grid(mode=Mode.ASYMMETRIC_SIGNED, n_stds=1.0))    # mean 2, variance 90 / 4
    (tensor([-2.]), tensor([6.7434]))

    Raises ``ValueError`` without ``n_stds``.
    """
    if grid.n_stds is None or not grid.n_stds > 0:
        raise ValueError(f"clipping 'n_std' with n_stds={grid.n_stds}; give the number of standard deviations to keep, above 0")
    reach = grid.n_stds * seen.std
    if grid.mode.is_symmetric:
        return _symmetric(seen.mean.abs() + reach)
    low = torch.maximum(seen.min, seen.mean - reach)
    return low, torch.maximum(low, torch.minimum(seen.max, seen.mean + reach))


def laplace(seen: Observed, grid: Grid) -> Range:
    """ACIQ for values that are Laplace distributed: ``alpha * b`` around the mean, alpha by the number of bits.

    Symmetric: ``abs(mean) + alpha * b`` on both sides of 0. Asymmetric: from ``max(floor, mean - alpha * b)``, ``2 * alpha * b`` wide, even if that
    exceeds the highest value; with ``half_range`` it is half as wide, with an alpha of its own.

    >>> laplace(OfTensor(torch.tensor([[-1.0, 1.0, -2.0, 2.0]])), Grid(bits=4))                 # alpha 5.03, b 1.5
    (tensor([-7.5450]), tensor([7.5450]))

    Raises ``ValueError`` for more than 8 bits.
    """
    return _aciq(seen, grid, ACIQ_LAPLACE, ACIQ_LAPLACE_POSITIVE, seen.b)


def gauss(seen: Observed, grid: Grid) -> Range:
    """ACIQ for values that are normally distributed: as ``laplace``, with the standard deviation in place of ``b``.

    >>> gauss(OfTensor(torch.tensor([0.0, 2.0, 4.0])), Grid(bits=2, mode=Mode.ASYMMETRIC_UNSIGNED))      # mean 2, deviation 2, alpha 1.71
    (tensor([0.]), tensor([6.8400]))

    Raises ``ValueError`` for more than 8 bits.
    """
    return _aciq(seen, grid, ACIQ_GAUSS, ACIQ_GAUSS_POSITIVE, seen.std)


def _aciq(seen: Observed, grid: Grid, full: tuple[float, ...], positive: tuple[float, ...], spread: Tensor) -> Range:
    if not 1 <= grid.bits <= len(full):
        raise ValueError(
            f"ACIQ's clippings 'laplace' and 'gauss' are known for 1 to {len(full)} bits, not {grid.bits}; take 'mse' or 'none'"
        )
    if grid.mode.is_symmetric:
        return _symmetric(seen.mean.abs() + full[grid.bits - 1] * spread)
    reach = (positive if grid.half_range else full)[grid.bits - 1] * spread
    low = torch.maximum(seen.floor, seen.mean - reach)
    return low, low + (reach if grid.half_range else 2 * reach)


def _symmetric(most: Tensor) -> Range:
    return -most, most


def divergence(seen: Observed, grid: Grid) -> Range:
    """TensorRT's: the magnitude at which the clipped histogram diverges least (Kullback and Leibler) from what its quantized self looks like.

    The magnitude bounds both sides; an asymmetric range stays within what was seen. See ``thresholds.least_divergence``. Zeros, of which a ReLU leaves
    many, do not count: the first bin is taken to be like the second (as in NVIDIA's pytorch-quantization).

    Raises ``ValueError`` for statistics without histograms.
    """
    one_sided = bool(((seen.min >= 0) | (seen.max <= 0)).all())
    levels = 2 ** (grid.bits if one_sided and not grid.mode.is_symmetric else grid.bits - 1)
    kept = [least_divergence(without_zeros(histogram.magnitudes()), levels) * histogram.width for histogram in seen.histograms()]
    most = torch.minimum(torch.maximum(-seen.min, seen.max), seen.min.new_tensor(kept).reshape(seen.min.shape))
    return _symmetric(most) if grid.mode.is_symmetric else (torch.maximum(seen.min, -most), torch.minimum(seen.max, most))


def norm(seen: Observed, grid: Grid, power: float) -> Range:
    """The range with the least sum of ``abs(error) ** power`` once it is quantized, found by search; see ``thresholds.least_error``.

    >>> low, high = norm(OfTensor(torch.tensor([[-1.0, 0.5, 1.0] * 50 + [8.0]])), Grid(bits=2, mode=Mode.SYMMETRIC_RESTRICTED), 1)
    >>> bool(high < 2)
    True

    Raises ``ValueError`` for statistics without histograms.
    """
    values, counts = seen.samples()
    low, high = least_error(values, counts, (seen.min.reshape(-1), seen.max.reshape(-1)), (grid.bits, grid.mode), power)
    return low.reshape(seen.min.shape), high.reshape(seen.min.shape)


CLIPPINGS: Mapping[str, Clipping] = {
    "none": none,
    "avg": average,
    "n_std": n_std,
    "gauss": gauss,
    "laplace": laplace,
    "kl": divergence,
    "mse": partial(norm, power=2),
    "l1": partial(norm, power=1),
    "l2": partial(norm, power=2),
    "l3": partial(norm, power=3),
}
"""By the names of options and files; Distiller's are the first five, in capitals. ``mse`` and ``l2`` are one."""


def named_clipping(name: str) -> Clipping:
    """The clipping of a name, in letters of either size; ``l2.5`` and the like are norms of any power from 1 on.

    >>> named_clipping("LAPLACE") is laplace
    True

    Raises ``ValueError`` for a name that is none.
    """
    found = CLIPPINGS.get(name.lower())
    if found is None and _POWER.fullmatch(name.lower()):
        found = partial(norm, power=float(name[1:]))
    if found is None:
        raise ValueError(f"no clipping is named '{name}'{did_you_mean(name.lower(), CLIPPINGS) or '; there are ' + ', '.join(CLIPPINGS)}")
    return found

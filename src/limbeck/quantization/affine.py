"""Real numbers as integers of few bits: ``x ~ (q - zero_point) * scale``, one scale for each group of a tile.

``scale`` is the step between neighbours, as in torch. Distiller multiplies by its scale and subtracts its zero point, so that its numbers are
``1 / scale`` and ``-zero_point``; ``QParams.ancestor_scale`` and ``ancestor_zero_point`` give them. With ``n`` bits and ``L = 2 ** n`` its scales are:

============================  ==========================  ======================================  ====================
mode                          q from, to                  Distiller's scale, ``1 / scale``        zero point
============================  ==========================  ======================================  ====================
``symmetric``                 ``-L/2``, ``L/2 - 1``       ``((L - 1) / 2) / max(-low, high)``     0
``symmetric_restricted``      ``-(L/2 - 1)``, ``L/2 - 1`` ``(L/2 - 1) / max(-low, high)``         0
``asymmetric_signed``         ``-L/2``, ``L/2 - 1``       ``(L - 1) / (high - low)``              puts ``low`` lowest
``asymmetric_unsigned``       0, ``L - 1``                ``(L - 1) / (high - low)``              puts ``low`` lowest
============================  ==========================  ======================================  ====================

Source: Jacob et al. 2017 (arXiv 1712.05877) for the scheme, ``distiller/quantization/q_utils.py`` for the four modes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from limbeck.tile import TENSOR, Tile

MOST_BITS = 16


class Mode(StrEnum):
    """How a range becomes integers; Distiller's names in capitals mean the same.

    >>> Mode("SYMMETRIC") is Mode.SYMMETRIC, str(Mode.ASYMMETRIC_SIGNED)
    (True, 'asymmetric_signed')
    """

    SYMMETRIC = "symmetric"
    SYMMETRIC_RESTRICTED = "symmetric_restricted"
    ASYMMETRIC_SIGNED = "asymmetric_signed"
    ASYMMETRIC_UNSIGNED = "asymmetric_unsigned"

    @classmethod
    def _missing_(cls, value: object) -> Mode | None:
        return next((mode for mode in cls if isinstance(value, str) and mode.value == value.lower()), None)

    @property
    def is_symmetric(self) -> bool:
        """Whether zero lies in the middle, at integer 0."""
        return self in (Mode.SYMMETRIC, Mode.SYMMETRIC_RESTRICTED)


def integers(bits: int, mode: Mode | str) -> tuple[int, int]:
    """The lowest and the highest integer of a mode.

    >>> integers(8, "symmetric"), integers(8, "symmetric_restricted"), integers(4, "asymmetric_unsigned")
    ((-128, 127), (-127, 127), (0, 15))

    Raises ``ValueError`` for bits outside 1 to 16, and for the restricted mode with 1, which has no integer but 0.
    """
    mode = Mode(mode)
    least = 2 if mode is Mode.SYMMETRIC_RESTRICTED else 1
    if not isinstance(bits, int) or not least <= bits <= MOST_BITS:
        raise ValueError(f"{bits} bits in mode '{mode}'; give a whole number from {least} to {MOST_BITS}")
    if mode is Mode.ASYMMETRIC_UNSIGNED:
        return 0, 2**bits - 1
    half = 2 ** (bits - 1)
    return (1 - half if mode is Mode.SYMMETRIC_RESTRICTED else -half), half - 1


class Spread(NamedTuple):
    """``1 / scale``, ``scale``, the zero point, and the lowest and the highest integer as counted from it."""

    inverse: Any
    scale: Any
    zero_point: Any
    below: Any
    above: Any


@dataclass(frozen=True, eq=False)
class QParams:
    """How the groups of a tensor are quantized: ``x ~ (q - zero_point) * scale`` with whole numbers ``low <= q <= high``.

    ``scale`` (float, above 0) and ``zero_point`` (int32, from ``low`` to ``high``) have one shape: ``[groups]``, in the order of ``tile.fold``, or ``[]``
    for one group. Zero is always one of the numbers that are represented: it stays exactly zero.

    Raises ``ValueError`` for shapes that differ, an empty range of integers, and zero points outside of it.
    """

    scale: Tensor
    zero_point: Tensor
    low: int
    high: int
    tile: Tile = TENSOR

    def __post_init__(self) -> None:
        if self.scale.shape != self.zero_point.shape:
            raise ValueError(
                f"scales of shape {tuple(self.scale.shape)} beside zero points of shape {tuple(self.zero_point.shape)}; give one each"
            )
        if self.low >= self.high:
            raise ValueError(f"integers from {self.low} to {self.high} are no range; give the lower one first")
        if bool(((self.zero_point < self.low) | (self.zero_point > self.high)).any()):
            raise ValueError(
                f"a zero point is not among the integers from {self.low} to {self.high}, so zero would not stay zero; take qparams()"
            )

    @property
    def ancestor_scale(self) -> Tensor:
        """Distiller's scale, by which it multiplies: ``1 / scale``.

        >>> qparams(-4.0, 2.0, 8, "symmetric").ancestor_scale
        tensor(31.8750)
        """
        return 1 / self.scale

    @property
    def ancestor_zero_point(self) -> Tensor:
        """Distiller's zero point, which it subtracts: ``-zero_point``."""
        return -self.zero_point

    @property
    def limits(self) -> tuple[Tensor, Tensor]:
        """The lowest and the highest real number that is represented, each in the shape of ``scale``.

        >>> qparams(0.0, 6.0, 8, "asymmetric_unsigned").limits
        (tensor(0.), tensor(6.))
        """
        return (self.low - self.zero_point) * self.scale, (self.high - self.zero_point) * self.scale

    @cached_property
    def spread(self) -> Spread:
        """What elements are computed with: plain numbers for one group, else tensors ``[groups, 1]``."""
        zero_point = self.zero_point.to(self.scale.dtype)
        numbers = (1 / self.scale, self.scale, zero_point, self.low - zero_point, self.high - zero_point)
        if self.scale.dim() == 0 or (self.scale.numel() == 1 and self.tile == TENSOR):
            return Spread(*[number.item() for number in numbers])
        return Spread(*[number.reshape(-1, 1) for number in numbers])

    def to(self, device: torch.device | str) -> QParams:
        """The same on another device."""
        return replace(self, scale=self.scale.to(device), zero_point=self.zero_point.to(device))


def ranges(tensor: Tensor, tile: Tile = TENSOR) -> tuple[Tensor, Tensor]:
    """The lowest and the highest element of each group of ``tile``: two tensors ``[groups]``.

    >>> ranges(torch.tensor([[-1.0, 2.0], [3.0, 5.0]]), Tile((1,)))
    (tensor([-1.,  3.]), tensor([2., 5.]))

    Raises ``ValueError`` for a tensor without elements, and when the groups do not fill it.
    """
    if not tensor.numel():
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has no elements, and so no range; leave it out")
    low, high = tile.fold(tensor.detach()).aminmax(dim=1)
    return low, high


def qparams(low: Tensor | float, high: Tensor | float, bits: int, mode: Mode | str = Mode.SYMMETRIC, tile: Tile = TENSOR) -> QParams:
    """The scale and zero point by which ``bits`` bits span ``[low, high]``, extended to hold 0; one for each element of ``low`` and ``high``.

    A range of nothing but 0 has scale 1. Steps that are too small to be divided by become the smallest that is not.

    >>> found = qparams(-1.0, 3.0, 8, "asymmetric_unsigned")          # 255 steps for a width of 4; 0 lies 63.75 of them above the lowest
    >>> found.scale, found.zero_point
    (tensor(0.0157), tensor(64, dtype=torch.int32))
    >>> weight = torch.tensor([[-1.0, 2.0], [3.0, 5.0]])
    >>> qparams(*ranges(weight, Tile((1,))), 8, "symmetric_restricted", Tile((1,))).scale * 127
    tensor([2., 5.])

    Raises ``ValueError`` for bounds that are not finite, that are crossed, or whose shapes differ, and for bits outside 1 to 16.
    """
    mode = Mode(mode)
    first, last = integers(bits, mode)
    low, high = _bounds(low, high)
    bottom, top = low.clamp(max=0), high.clamp(min=0)
    if mode.is_symmetric:
        width, steps = torch.maximum(-bottom, top), (last - first) / 2
    else:
        width, steps = top - bottom, last - first
    scale = torch.where(width > 0, (width / steps).clamp(min=torch.finfo(width.dtype).tiny), 1.0)
    if not bool(torch.isfinite(scale).all()):
        raise ValueError(f"a range from {float(low.min())} to {float(high.max())} is too wide to be divided into steps; clip it")
    zero_point = torch.zeros_like(scale) if mode.is_symmetric else (first - torch.round(bottom / scale)).clamp(first, last)
    return QParams(scale, zero_point.to(torch.int32), first, last, tile)


def _bounds(low: Tensor | float, high: Tensor | float) -> tuple[Tensor, Tensor]:
    """Both as tensors of float32 at least, once they are found to be a range."""
    both = [bound.detach() if isinstance(bound, Tensor) else torch.tensor(bound, dtype=torch.float32) for bound in (low, high)]
    dtype = torch.promote_types(torch.promote_types(both[0].dtype, both[1].dtype), torch.float32)
    bottom, top = (bound.to(dtype) for bound in both)
    if bottom.shape != top.shape:
        raise ValueError(f"lower bounds of shape {tuple(bottom.shape)} beside upper ones of shape {tuple(top.shape)}; give one each")
    if not bool((torch.isfinite(bottom) & torch.isfinite(top)).all()):
        raise ValueError(
            f"a range from {_shown(bottom)} to {_shown(top)} is not finite: what is quantized holds NaN or infinity, or nothing was measured"
        )
    if bool((bottom > top).any()):
        raise ValueError(f"a range from {_shown(bottom)} to {_shown(top)} is empty; give the lower bound first")
    return bottom, top


def _shown(bounds: Tensor) -> object:
    return float(bounds) if bounds.numel() == 1 else f"{float(bounds.min())} ({bounds.numel()} groups)"


def quantize(x: Tensor, params: QParams) -> Tensor:
    """The integers, held as floats of ``params.scale``'s type or wider: ``clamp(round(x / scale) + zero_point)``, halves to even.

    As in torch's kernels ``x`` is multiplied by ``1 / scale``, and the two agree to the bit, with one exception: ``torch.quantize_per_tensor`` adds the
    zero point before it rounds, which at exact halves takes the other neighbour where the zero point is odd; ``torch.fake_quantize_*`` do as is done
    here. NaN stays NaN, where torch makes an integer of it.

    >>> quantize(torch.tensor([-9.0, -0.26, 0.25, 0.75]), QParams(torch.tensor(0.5), torch.tensor(3, dtype=torch.int32), 0, 15))
    tensor([0., 2., 3., 5.])

    Raises ``ValueError`` for a tensor that has other groups than ``params``.
    """
    return _by_group(x, params, lambda values, by: _rounded(values, by).add_(by.zero_point))


def dequantize(q: Tensor, params: QParams) -> Tensor:
    """The real numbers that integers stand for: ``(q - zero_point) * scale``.

    >>> dequantize(torch.tensor([0, 3, 15]), QParams(torch.tensor(0.5), torch.tensor(3, dtype=torch.int32), 0, 15))
    tensor([-1.5000,  0.0000,  6.0000])

    Raises ``ValueError`` for a tensor that has other groups than ``params``.
    """
    return _by_group(q, params, lambda values, by: (values - by.zero_point).mul_(by.scale))


def fake_quantize(x: Tensor, params: QParams) -> Tensor:
    """``dequantize(quantize(x))`` in the type of ``x``: what is left of ``x`` once it was integers.

    >>> fake_quantize(torch.tensor([-9.0, 0.0, 0.3, 9.0]), qparams(-1.0, 1.0, 2, "symmetric_restricted"))
    tensor([-1.,  0.,  0.,  1.])

    Raises ``ValueError`` for a tensor that has other groups than ``params``.
    """
    return _by_group(x, params, lambda values, by: _rounded(values, by).mul_(by.scale)).to(x.dtype)


def counted(x: Tensor, params: QParams) -> Tensor:
    """The integers as counted from the zero point, ``quantize(x) - zero_point``: what products are made of. None is -0.

    >>> counted(torch.tensor([-1.0, 0.0, 3.0]), qparams(-1.0, 3.0, 8, "asymmetric_unsigned"))
    tensor([-64.,   0., 191.])
    """
    return _by_group(x, params, _rounded)


def _rounded(values: Tensor, by: Spread) -> Tensor:
    """The integers as counted from the zero point; none is -0."""
    steps: Tensor = values * by.inverse
    return steps.round_().clamp_(by.below, by.above).add_(0.0)


def _by_group(x: Tensor, params: QParams, change: Callable[[Tensor, Spread], Tensor]) -> Tensor:
    """``change`` done to every group of ``x`` with its own scale and zero point."""
    values, by = x.to(torch.promote_types(x.dtype, params.scale.dtype)), params.spread
    if isinstance(by.scale, float):
        return change(values, by)
    groups = params.tile.fold(values)
    if len(groups) != len(by.scale):
        raise ValueError(
            f"a tensor of shape {tuple(x.shape)} has {len(groups)} groups of {params.tile}, and there are {len(by.scale)} scales; "
            "take the range of this tensor"
        )
    return params.tile.unfold(change(groups, by), x.shape)


def as_multiplier_and_shift(scale: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """A factor as a whole number of ``bits`` bits and a shift to the right: ``scale ~ multiplier * 2 ** -shift``, both as int64 in the shape of ``scale``.

    ``shift = floor(log2((2 ** bits - 1) / scale))`` and ``multiplier = floor(scale * 2 ** shift)``, computed exactly; integer hardware
    multiplies so. The multiplier is below ``scale * 2 ** shift`` by less than 1.

    >>> as_multiplier_and_shift(torch.tensor(0.3), 8)                  # 0.3 * 512 = 153.6
    (tensor(153), tensor(9))

    Raises ``ValueError`` for a scale that is not above 0 and finite, and for bits outside 2 to 31.
    """
    if not 2 <= bits <= 31:
        raise ValueError(f"a multiplier of {bits} bits; give a number from 2 to 31")
    if not bool(((scale > 0) & torch.isfinite(scale)).all()):
        raise ValueError(f"a scale of {float(scale.min())} cannot be multiplied by; scales are above 0 and finite")
    mantissa, exponent = torch.frexp(scale.double())  # mantissa from 0.5 to below 1
    filled = mantissa * 2**bits
    too_large = filled > 2**bits - 1
    multiplier = torch.where(too_large, filled / 2, filled).floor()
    return multiplier.to(torch.int64), bits - exponent.to(torch.int64) - too_large.to(torch.int64)

"""Integer arithmetic held in floats: exact, because whole numbers to ``2 ** 24`` are float32's own, and those to ``2 ** 53`` float64's.

A tensor is held by a layer as counts ``n = q - zero_point``, so that ``x ~ n * scale``. A product of tensors is then a product of counts, with the product
of the scales as its step, and a sum of products is one of integers. It becomes the layer's output by one multiplication, ``round(n * step / scale)``,
cut to the integers of the output.

Source: Jacob et al. 2017 (arXiv 1712.05877); ``distiller/quantization/range_linear.py`` for what each layer computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from limbeck.errors import QuantizationError
from limbeck.quantization.affine import Mode, QParams, Spread, as_multiplier_and_shift, qparams
from limbeck.quantization.clipping import Grid, OfTensor, named_clipping
from limbeck.quantization.settings import Setting

EXACT = {torch.float32: 2**24, torch.float64: 2**53}
"""Up to where all whole numbers are represented."""


@dataclass(frozen=True)
class Measured:
    """A range that is taken of every tensor as it comes, where there are no statistics: dynamic quantization."""

    bits: int
    mode: Mode
    clipping: str = "none"
    n_stds: float | None = None
    half_range: bool = False

    def of(self, tensor: Tensor) -> QParams:
        """The scale and zero point for a tensor.

        >>> Measured(8, Mode.ASYMMETRIC_UNSIGNED).of(torch.tensor([[-1.0, 3.0]])).zero_point
        tensor(64, dtype=torch.int32)
        """
        low, high = named_clipping(self.clipping)(OfTensor(tensor), Grid(self.bits, self.mode, self.half_range, self.n_stds))
        return qparams(low.reshape(()), high.reshape(()), self.bits, self.mode)


Known = QParams | Measured


@dataclass(frozen=True)
class Numbers:
    """By which numbers a layer computes: those of its inputs, in the order of its arguments, of its weight and of its output; None for floats."""

    inputs: tuple[Known | None, ...] = ()
    weight: QParams | None = None
    output: Known | None = None


class Target(NamedTuple):
    """Where sums end: the lowest and the highest count of the output, and its scale."""

    below: float
    above: float
    scale: float


def target(params: QParams, setting: Setting) -> Target:
    """Of an output; one that is rectified has no count below zero."""
    by = params.spread
    return Target(0.0 if setting.clip_half_range else by.below, by.above, by.scale)


def counts(x: Tensor, by: Spread) -> Tensor:
    """A tensor in counts of its scale; what is outside of its range is cut."""
    steps: Tensor = x * by.inverse
    return steps.round_().clamp_(by.below, by.above)


def real_(sums: Tensor, factor: float | Tensor, out: Target, dtype: torch.dtype) -> Tensor:
    """Sums in steps of their own to the numbers of the output, in place: ``factor`` is how many of the output's steps one of theirs is."""
    found = sums.mul_(factor).round_().clamp_(out.below, out.above)
    return (found if found.dtype == dtype else found.to(dtype)).mul_(out.scale)


def factor_of(step: Tensor, scale: Tensor, setting: Setting) -> Tensor:
    """``step / scale`` in float64; where a setting says so as integer hardware multiplies, by a whole number and a shift.

    >>> factor_of(torch.tensor(0.3), torch.tensor(1.0), Setting(scale_approx_mult_bits=8)) * 512
    tensor(153., dtype=torch.float64)
    """
    factor = step.double() / scale.double()
    if setting.scale_approx_mult_bits is None:
        return factor
    multiplier, shift = as_multiplier_and_shift(factor, setting.scale_approx_mult_bits)
    return torch.ldexp(multiplier.double(), -shift)


def largest(params: Known) -> tuple[float, float]:
    """The lowest and the highest count that a tensor may have."""
    if isinstance(params, QParams):
        return params.spread.below, params.spread.above
    span = 2.0**params.bits
    return -span, span


def refuse_training(module: nn.Module, name: str) -> None:
    """Raise ``QuantizationError`` where a quantized layer is trained: rounding has no gradient."""
    if module.training:
        raise QuantizationError(f"'{name}' is quantized and can only be evaluated; call model.eval()")


def carry_over(wrapper: nn.Module, module: nn.Module) -> None:
    """Let a wrapper have the sizes and options of the module in whose place it stands: a model may ask for them."""
    for key, value in vars(module).items():
        if not key.startswith("_") and key != "training" and isinstance(value, int | float | str | tuple):
            setattr(wrapper, key, value)
    wrapper.train(module.training)

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
FACTORS = 2**8
"""Up to where they are in bfloat16 too, to which matrix products may round what they multiply (TF32: to ``2 ** 11``), as torch is set."""
COUNTS = "_limbeck_counts"
"""The attribute by which a tensor brings its counts to the next layer."""
PART = 1 << 18
"""Elements that stay in the cache between the passes over them."""


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
        if not tensor.numel():
            return qparams(torch.zeros(()), torch.zeros(()), self.bits, self.mode)
        low, high = named_clipping(self.clipping)(OfTensor(tensor), Grid(self.bits, self.mode, self.half_range, self.n_stds))
        return qparams(low.reshape(()).cpu(), high.reshape(()).cpu(), self.bits, self.mode)  # where the weight's scales are


Known = QParams | Measured


@dataclass(frozen=True)
class Numbers:
    """By which numbers a layer computes: those of its inputs, in the order of its arguments, of its weight and of its output; None for floats."""

    inputs: tuple[Known | None, ...] = ()
    weight: QParams | None = None
    output: Known | None = None
    carries: bool = False
    """Whether another layer computes with the counts of the output."""


class Target(NamedTuple):
    """Where sums end: the lowest and the highest count of the output, and its scale."""

    below: float
    above: float
    scale: float
    carried: Spread | None = None
    """What the counts are told by to the layers that read them; None where no layer does."""


def target(params: QParams, setting: Setting, carries: bool = False) -> Target:
    """Of an output; one that is rectified has no count below zero."""
    by = params.spread
    return Target(0.0 if setting.clip_half_range else by.below, by.above, by.scale, by if carries else None)


def counts(x: Tensor, by: Spread) -> Tensor:
    """A tensor in counts of its scale, which are not to be written to; what is outside of its range is cut.

    Those that the layer before has left on the tensor are taken from there: they are what would be found. They are left alone where the tensor was written to
    since.
    """
    left = getattr(x, COUNTS, None)
    if left is not None and left[0] is by and x._version == left[2]:
        known: Tensor = left[1]
        return known
    steps: Tensor = x * by.inverse
    return steps.round_().clamp_(by.below, by.above)


def real_(sums: Tensor, factor: float | Tensor, out: Target, dtype: torch.dtype) -> Tensor:
    """Sums in steps of their own to the numbers of the output, in place: ``factor`` is how many of the output's steps one of theirs is.

    A large tensor is gone through in parts that stay in the cache.
    """
    parts = torch.split(sums, max(1, len(sums) * PART // sums.numel())) if _is_long(sums, factor, out, dtype) else (sums,)
    for part in parts:
        part.mul_(factor).round_()
        found = real_counts_(part, out, dtype)
    return sums if len(parts) > 1 else found


def _is_long(sums: Tensor, factor: float | Tensor, out: Target, dtype: torch.dtype) -> bool:
    across = isinstance(factor, float) or factor.dim() < sums.dim()
    return sums.numel() > 2 * PART and sums.device.type == "cpu" and across and out.carried is None and sums.dtype == dtype


def real_counts_(n: Tensor, out: Target, dtype: torch.dtype) -> Tensor:
    """Counts of the output, yet to be cut, to its numbers; where a layer will read them, they are left on the result."""
    n = n.clamp_(out.below, out.above)
    n = n if n.dtype == dtype else n.to(dtype)
    if out.carried is None or torch.is_inference_mode_enabled():  # tensors of that mode do not tell whether they were written to
        return n.mul_(out.scale)
    found = n * out.scale
    setattr(found, COUNTS, (out.carried, n, found._version))
    return found


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


def needs_double(reach: float, factors: float, dtype: torch.dtype = torch.float32) -> bool:
    """Whether a sum of products that may come to ``reach`` is only exact in float64; ``factors`` is the largest of what is multiplied.

    >>> needs_double(2.0**24, 255.0), needs_double(2.0**25, 255.0), needs_double(2.0**20, 1023.0)
    (False, True, True)
    """
    return reach > EXACT[dtype] or (dtype != torch.float64 and factors > FACTORS)


def refuse_training(module: nn.Module, name: str) -> None:
    """Raise ``QuantizationError`` where a quantized layer is trained: rounding has no gradient."""
    if module.training:
        raise QuantizationError(f"'{name}' is quantized and can only be evaluated; call model.eval()")


def refuse_half(module: nn.Module, name: str) -> None:
    """Raise ``QuantizationError`` for a layer that computes with integers and is trained, or runs under autocast, whose short floats do not hold them."""
    refuse_training(module, name)
    raise QuantizationError(
        f"'{name}' computes with integers, which the short floats of autocast do not hold; evaluate outside of torch.autocast"
    )


def carry_over(wrapper: nn.Module, module: nn.Module) -> None:
    """Let a wrapper have the sizes and options of the module in whose place it stands: a model may ask for them."""
    for key, value in vars(module).items():
        if not key.startswith("_") and key != "training" and isinstance(value, int | float | str | tuple):
            setattr(wrapper, key, value)
    wrapper.train(module.training)

"""Layers with weights in integers: ``Linear``, convolutions, embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import QuantizationError
from limbeck.quantization.affine import Mode, QParams, Spread, counted, fake_quantize, qparams
from limbeck.quantization.integers import (
    Known,
    Measured,
    Numbers,
    Target,
    carry_over,
    counts,
    factor_of,
    largest,
    needs_double,
    real_,
    refuse_half,
    refuse_training,
    target,
)
from limbeck.quantization.settings import Setting
from limbeck.tile import CHANNELS, FILTERS, TENSOR, Tile

Operation = Callable[[Tensor, Tensor, Tensor | None], Tensor]
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS: Any = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}


def weight_tile(module: nn.Module, setting: Setting) -> Tile:
    """What shares a scale in a layer's weight: the tensor, or an output channel (a row of an embedding).

    Raises ``ValueError`` for the channels of a transposed convolution in groups.
    """
    if not setting.per_channel_wts:
        return TENSOR
    if not isinstance(module, TRANSPOSED):
        return FILTERS
    if module.groups > 1:
        raise ValueError("per_channel_wts has no meaning for a transposed convolution in groups; override it with false")
    return CHANNELS


def operation_of(module: Any) -> Operation:
    """What a layer does with (input, weight, bias), as a function that does not hold the layer's own weight."""
    if isinstance(module, nn.Linear):
        return F.linear
    function = next(function for kind, function in CONVOLUTIONS.items() if isinstance(module, kind))
    options = {"stride": module.stride, "dilation": module.dilation, "groups": module.groups}
    if isinstance(module, TRANSPOSED):
        return partial(function, padding=module.padding, output_padding=module.output_padding, **options)
    if module.padding_mode == "zeros":
        return partial(function, padding=module.padding, **options)
    return partial(_padded, function=partial(function, **options), pads=module._reversed_padding_repeated_twice, mode=module.padding_mode)


def _padded(x: Tensor, weight: Tensor, bias: Tensor | None, *, function: Operation, pads: list[int], mode: str) -> Tensor:
    return function(F.pad(x, pads, mode=mode), weight, bias)


class Constants(NamedTuple):
    """What a call with known ranges needs."""

    input: Spread
    output: Target
    wide: bool
    """Whether sums may leave float32's whole numbers."""
    most: float
    """What sums are cut to; 0 where they cannot get there."""
    factor: float
    """Of sums to counts of the output; 0 where it is one for each channel."""


class QuantizedWeighted(nn.Module):
    r"""A ``Linear`` or convolution that computes with integers.

    ::

        n = cut(round(x / s_x))                      counts of the input, of the weight (by tensor or by channel), of the bias in steps of s_x * s_w
        y = s_y * cut(round((sum n * n_w + n_b) * s_x * s_w / s_y))

    ``integers`` holds the counts of the weight. Sums are exact: they are made in float64 where they could leave float32's whole numbers, which is
    known from the weights, and where torch may be set to round what it multiplies (TF32, bfloat16) to fewer bits than these have. They are cut to
    ``bits_accum``. There is no ``weight``: what would compute with it behind the layer's back fails.
    """

    integers: Tensor
    sums: Tensor
    float_weight: Tensor | None
    float_bias: Tensor | None
    shift: Tensor | None
    factors: Tensor | None

    def __init__(self, name: str, module: nn.Module, setting: Setting, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        carry_over(self, module)
        self.name, self.setting = name, setting
        self._operation = operation_of(module)
        self._tile = CHANNELS if isinstance(module, TRANSPOSED) else FILTERS
        self._along = (-1,) if isinstance(module, nn.Linear) else (-1, *[1] * (weight.dim() - 2))
        self._dtype = weight.dtype
        self._numbers = Numbers()
        self._constants: Constants | None = None
        self.register_buffer("float_weight", weight.detach(), persistent=False)
        self.register_buffer("float_bias", None if bias is None else bias.detach(), persistent=False)
        self.register_buffer("sums", None, persistent=False)
        self.register_buffer("shift", None)
        self.register_buffer("factors", None)

    def settle(self, numbers: Numbers) -> None:
        """Compute by these numbers from now on."""
        if numbers.weight is not self._numbers.weight:
            self._hold(numbers.weight)
        self._numbers = numbers
        source, output = numbers.inputs[0], numbers.output
        self._constants = None
        if isinstance(source, QParams) and isinstance(output, QParams):
            step = self._step(source)
            self.shift, wide, most = self._shift(source, step)
            factor = factor_of(step, output.scale.to(step.device), self.setting)
            single = factor.numel() == 1
            self.factors = None if single else factor.reshape(self._along).to(torch.float64 if wide else self._dtype)
            self._constants = Constants(
                source.spread, target(output, self.setting, numbers.carries), wide, most, float(factor) if single else 0.0
            )
            self._widen(wide)

    def _hold(self, params: QParams | None) -> None:
        """The counts of the weight, and for each channel the sum of those above and of those below zero."""
        if self.float_weight is None or params is None:
            raise QuantizationError(f"the floats of '{self.name}.weight' are gone; prepare the model with save_fp_weights=True")
        weight = counted(self.float_weight, params.to(self.float_weight.device))
        rows = self._tile.fold(weight)
        self.sums = torch.stack([rows.clamp(min=0).sum(1, dtype=torch.float64), rows.clamp(max=0).sum(1, dtype=torch.float64)])
        self.integers = nn.Parameter(weight, requires_grad=False)

    def _widen(self, wide: bool) -> None:
        dtype = torch.float64 if wide else self._dtype
        if self.integers.dtype != dtype:
            self.integers = nn.Parameter(self.integers.to(dtype), requires_grad=False)

    def _step(self, source: QParams) -> Tensor:
        """What one means in a sum of products: ``[]``, or ``[channels]``."""
        assert self._numbers.weight is not None
        step = source.scale.double() * self._numbers.weight.scale.double()
        return (step.reshape(()) if step.numel() == 1 else step).to(self.integers.device)

    def _shift(self, source: Known, step: Tensor) -> tuple[Tensor | None, bool, float]:
        """The bias in steps of the sums, whether they need float64, and what they are cut to."""
        most = 2.0 ** (self.setting.bits_accum - 1) - 1
        shift = _bias_counts(self.float_bias, step, self.setting)
        below, above = largest(source)
        added, taken = self.sums[0], self.sums[1]
        reach = torch.maximum(added * above + taken * below, -(added * below + taken * above)).max()
        if shift is not None:
            reach = reach + shift.abs().max()
        wide = needs_double(float(reach), max(-below, above, float(self.integers.abs().max())), self._dtype)
        dtype = torch.float64 if wide else self._dtype
        return None if shift is None else shift.to(dtype), wide, most if bool(reach > most) else 0.0

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:  # noqa: A002  # as torch.nn calls it
        """As the layer in whose place this stands; ``output_size`` is for transposed convolutions."""
        if self.training or torch.is_autocast_enabled(input.device.type):
            refuse_half(self, self.name)
        by = self._constants
        operation = self._operation if output_size is None else self._sized(input, output_size)
        if by is None:
            return self._measured(input, operation)
        n = counts(input, by.input)
        sums = operation(n.double() if by.wide else n, self.integers, self.shift)
        if by.most:
            sums.clamp_(-by.most - 1, by.most)
        return real_(sums, by.factor or self.factors, by.output, input.dtype)  # type: ignore[arg-type]

    def _sized(self, x: Tensor, output_size: Sequence[int]) -> Operation:
        """The operation of a transposed convolution whose output has this size, given with or without its batch and channels; torch refuses others."""
        given: Any = self._operation
        wanted, options = output_size[-len(self._along) + 1 :], given.keywords
        least = [
            (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1
            for size, stride, padding, dilation, kernel in zip(
                x.shape[-len(wanted) :], options["stride"], options["padding"], options["dilation"], self.integers.shape[2:], strict=True
            )
        ]
        return partial(given, output_padding=[most - each for most, each in zip(wanted, least, strict=True)])

    def _measured(self, x: Tensor, operation: Operation) -> Tensor:
        """With ranges that are taken of the input and of the sums."""
        source, output = self._numbers.inputs[0], self._numbers.output
        source = source.of(x) if isinstance(source, Measured) else source
        assert source is not None
        assert output is not None
        step = self._step(source)
        shift, wide, most = self._shift(source, step)
        self._widen(wide)
        n = counts(x, source.spread)
        sums = operation(n.double() if wide else n, self.integers, shift)
        if most:
            sums.clamp_(-most - 1, most)
        step = step.reshape(self._along) if step.numel() > 1 else step
        if isinstance(output, Measured):
            values = sums * step
            output = output.of(values.relu_() if self.setting.clip_half_range else values)
        factor = factor_of(step, output.scale.to(step.device), self.setting)
        return real_(sums, factor.to(sums.dtype), target(output, self.setting), x.dtype)

    def bias_values(self) -> Tensor | None:
        """What the integers of the bias stand for; None without a bias, and where their step is that of each input as it comes."""
        source = self._numbers.inputs[0]
        return self.shift.double() * self._step(source) if isinstance(source, QParams) and self.shift is not None else None

    def forget(self) -> None:
        """Let go of the weight's floats: another range for it cannot be set any more."""
        self.float_weight = None

    def extra_repr(self) -> str:
        """What the module shows of itself."""
        return f"{self.name}, {self.setting.bits_activations} bits, weights of {self.setting.bits_weights}"


def _bias_counts(bias: Tensor | None, step: Tensor, setting: Setting) -> Tensor | None:
    """A bias in steps of the sums, in float64: rounded, first to its own range where it has one, or as it is."""
    if bias is None:
        return None
    if setting.bits_bias is None:
        return bias.double() / step
    if setting.bits_bias <= 16:
        bias = fake_quantize(bias, bias_params(bias, setting.bits_bias))
    most = 2.0 ** (setting.bits_accum - 1)
    return (bias.double() / step).round().clamp(-most, most - 1)


def bias_params(bias: Tensor, bits: int) -> QParams:
    """The range of a bias that has one of its own."""
    return qparams(bias.amin().cpu(), bias.amax().cpu(), bits, Mode.SYMMETRIC)


class QuantizedEmbedding(nn.Module):
    """An ``Embedding`` whose rows are what integers stand for: ``weight`` holds those numbers, and what is looked up is on the weight's own scale."""

    weight: Tensor
    float_weight: Tensor | None

    def __init__(self, name: str, module: nn.Embedding, setting: Setting, weight: Tensor) -> None:
        super().__init__()
        carry_over(self, module)
        self.name, self.setting = name, setting
        self.padding_idx = module.padding_idx
        self._numbers = Numbers()
        self.register_buffer("float_weight", weight.detach(), persistent=False)

    def settle(self, numbers: Numbers) -> None:
        """Look up by these numbers from now on."""
        if numbers.weight is not self._numbers.weight:
            if self.float_weight is None or numbers.weight is None:
                raise QuantizationError(f"the floats of '{self.name}.weight' are gone; prepare the model with save_fp_weights=True")
            self.weight = nn.Parameter(fake_quantize(self.float_weight, numbers.weight.to(self.float_weight.device)), requires_grad=False)
        self._numbers = numbers

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # as torch.nn calls it
        """Numbers of words to their vectors, ``[.., features]``."""
        if self.training:
            refuse_training(self, self.name)
        return F.embedding(input, self.weight, self.padding_idx)

    def forget(self) -> None:
        """Let go of the weight's floats: another range for it cannot be set any more."""
        self.float_weight = None

    def extra_repr(self) -> str:
        """What the module shows of itself."""
        return f"{self.name}, weights of {self.setting.bits_weights} bits"

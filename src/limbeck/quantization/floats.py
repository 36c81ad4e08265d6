"""Layers that compute with floats: those whose output alone is quantized, and those of floats of fewer or more bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import QuantizationError
from limbeck.quantization.affine import QParams, fake_quantize
from limbeck.quantization.integers import PART, Known, Measured, Numbers, Target, carry_over, counts, real_counts_, refuse_training, target
from limbeck.quantization.settings import Setting


class Around(nn.Module):
    """What stands in the place of a layer that goes on computing, ``layer``: what a model reads of it is that one's, as the buffer of an encoding."""

    def __getattr__(self, name: str) -> Any:
        """What the module itself lacks. Raises ``AttributeError`` where the layer lacks it too."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            layer = self.__dict__.get("_modules", {}).get("layer")
            if layer is None or name.startswith("__"):
                raise
            return getattr(layer, name)


class FakeQuantized(Around):
    """A layer that computes with floats, and whose output, and inputs where it is so set, are rounded to what integers stand for; its weight too.

    ``layer`` is the module itself, or, where it has a weight that is quantized, one like it. With ``make_identity`` it is an ``Identity``.
    """

    float_weight: Tensor | None

    def __init__(self, name: str, module: nn.Module, layer: nn.Module, setting: Setting, weight: Tensor | None = None) -> None:
        super().__init__()
        carry_over(self, module)
        self.name, self.setting = name, setting
        self.layer = layer
        self._numbers = Numbers()
        self._output: Target | None = None
        self._inverse = 1.0
        self.register_buffer("float_weight", None if weight is None else weight.detach(), persistent=False)

    def settle(self, numbers: Numbers) -> None:
        """Compute by these numbers from now on."""
        if numbers.weight is not self._numbers.weight and numbers.weight is not None:
            if self.float_weight is None:
                raise QuantizationError(f"the floats of '{self.name}.weight' are gone; prepare the model with save_fp_weights=True")
            values = fake_quantize(self.float_weight, numbers.weight.to(self.float_weight.device))
            self.layer.weight = nn.Parameter(values, requires_grad=False)
        self._numbers = numbers
        self._output = None
        if isinstance(numbers.output, QParams):
            self._output = target(numbers.output, self.setting, numbers.carries)
            self._inverse = numbers.output.spread.inverse

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the layer in whose place this stands."""
        if self.training:
            refuse_training(self, self.name)
        if self._numbers.inputs:
            given = [_rounded_input(x, known) for x, known in zip_longest((*args, *kwargs.values()), self._numbers.inputs)]
            args, kwargs = tuple(given[: len(args)]), dict(zip(kwargs, given[len(args) :], strict=False))
        found = self.layer(*args, **kwargs)
        if self._numbers.output is None:
            return found.relu() if self.setting.clip_half_range else found
        return _each(found, self._rounded)

    def _rounded(self, y: Tensor) -> Tensor:
        if self._output is not None:
            return _rounded(y, self._inverse, self._output)
        assert isinstance(self._numbers.output, Measured)
        y = y.relu() if self.setting.clip_half_range else y
        params = self._numbers.output.of(y)
        return _rounded(y, params.spread.inverse, target(params, self.setting))

    def forget(self) -> None:
        """Let go of the weight's floats: another range for it cannot be set any more."""
        self.float_weight = None

    def extra_repr(self) -> str:
        """What the module shows of itself."""
        return f"{self.name}, {self.setting.bits_activations} bits"


def _rounded(y: Tensor, inverse: float, out: Target) -> Tensor:
    steps: Tensor = y * inverse
    return real_counts_(steps.round_(), out, y.dtype)


def _rounded_input(x: Any, known: Known | None) -> Any:
    if known is None or not isinstance(x, Tensor) or not x.is_floating_point():
        return x
    by = (known.of(x) if isinstance(known, Measured) else known).spread
    return counts(x, by) * by.scale


def _each(found: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A result, or the members of a tuple, changed where they are tensors of floats."""
    if isinstance(found, tuple | list):
        members = [_each(member, change) for member in found]
        return type(found)(*members) if hasattr(found, "_fields") else type(found)(members)
    return change(found) if isinstance(found, Tensor) and found.is_floating_point() else found


class FloatingPoint(Around):
    """A layer whose inputs, parameters and output are floats of 16 or 64 bits.

    16: all three are rounded to float16, and sums are made in float32, as the matrix units of GPUs do. 64: float64 throughout; the output is of the
    model's own type.
    """

    def __init__(self, name: str, module: nn.Module, setting: Setting, dtype: torch.dtype) -> None:
        super().__init__()
        carry_over(self, module)
        self.name, self.setting = name, setting
        self._change: Callable[[Tensor], Tensor] = Tensor.double if setting.fpq_module == 64 else half
        self._dtype = dtype
        held = {**module._parameters, **module._buffers}
        floats = {key: value.detach() for key, value in held.items() if value is not None and value.is_floating_point()}
        self.layer = with_tensors(module, {key: self._change(value) for key, value in floats.items()})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the layer in whose place this stands."""
        if self.training:
            refuse_training(self, self.name)
        changed = {name: _each(value, self._change) for name, value in kwargs.items()}
        found = self.layer(*[_each(value, self._change) for value in args], **changed)
        if self.setting.fpq_module == 64:
            return _each(found, lambda y: y.to(self._dtype))
        return _each(found, _half_)

    def extra_repr(self) -> str:
        """What the module shows of itself."""
        return f"{self.name}, {self.setting.fpq_module} bits"


def with_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A module like this one that holds other tensors under its parameters' and buffers' names; what is not named is shared.

    >>> layer = nn.Linear(2, 2)
    >>> with_tensors(layer, {"weight": torch.zeros(2, 2)}).bias is layer.bias
    True
    """
    made = copy(module)
    made._parameters, made._buffers = dict(module._parameters), dict(module._buffers)
    for name, tensor in tensors.items():
        if name in made._parameters:
            made._parameters[name] = nn.Parameter(tensor, requires_grad=False)
        else:
            made._buffers[name] = tensor
    return made


def _half_(x: Tensor) -> Tensor:
    """As ``half``, of a layer's own output: a large one is written to, part by part in the cache, because fresh memory costs more than the rounding."""
    if x.numel() <= 2 * PART or x.device.type != "cpu" or not x.is_contiguous():
        return half(x)
    for part in torch.split(x.view(-1), PART):
        part.copy_(part.half())
    return x


def half(x: Tensor) -> Tensor:
    """A tensor rounded to what float16 represents, in its own type; beyond 65,504 it is infinite.

    >>> half(torch.tensor([1.0, 1.0004, 1e6]))
    tensor([1., 1., inf])
    """
    return x.half().to(x.dtype)

"""Sums, products and concatenations of several inputs in integers."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import prod

import torch
from torch import Tensor, nn

from limbeck.errors import QuantizationError
from limbeck.quantization.affine import QParams, Spread
from limbeck.quantization.eltwise import EltwiseSub, Stack
from limbeck.quantization.integers import (
    EXACT,
    Measured,
    Numbers,
    Target,
    carry_over,
    counts,
    factor_of,
    largest,
    needs_double,
    real_,
    real_counts_,
    refuse_half,
    refuse_training,
    target,
)
from limbeck.quantization.settings import Setting


class QuantizedSum(nn.Module):
    r"""``EltwiseAdd`` or ``EltwiseSub`` in integers: every input is first brought to the steps of the output.

    ::

        y = s_y * cut(sum round(n_i * s_i / s_y))
    """

    def __init__(self, name: str, module: nn.Module, setting: Setting) -> None:
        super().__init__()
        carry_over(self, module)
        self.name, self.setting = name, setting
        self._sign = -1 if isinstance(module, EltwiseSub) else 1

    def settle(self, numbers: Numbers) -> None:
        """Compute by these numbers from now on."""
        self._terms, self._output = _to_output(numbers, self.setting)
        reach = sum(max(-by.below, by.above) * factor for by, factor in self._terms)
        self._wide = reach > EXACT[torch.float32]
        most = 2.0 ** (self.setting.bits_accum - 1) - 1
        self._most = most if reach > most else 0.0

    def forward(self, *inputs: Tensor) -> Tensor:
        """As the module in whose place this stands."""
        if self.training or len(inputs) != len(self._terms):
            _refuse(self, self.name, len(self._terms), inputs)
        total: Tensor | None = None
        for x, (by, factor) in zip(inputs, self._terms, strict=True):
            n = _rescaled(x, by, factor, self._wide)
            total = n if total is None else torch.add(total, n, alpha=self._sign)
        assert total is not None
        if self._most:
            total = total.clamp(-self._most - 1, self._most)
        return real_counts_(total, self._output, inputs[0].dtype)

    def extra_repr(self) -> str:
        """What the module shows of itself."""
        return f"{self.name}, {self.setting.bits_activations} bits"


class QuantizedConcat(nn.Module):
    """``Concat`` or ``Stack`` in integers: every input is brought to the steps of the output, ``s_y * cut(round(n_i * s_i / s_y))``."""

    dim: int

    def __init__(self, name: str, module: nn.Module, setting: Setting) -> None:
        super().__init__()
        carry_over(self, module)
        self.name, self.setting = name, setting
        self._join: Callable[..., Tensor] = torch.stack if isinstance(module, Stack) else torch.cat

    def settle(self, numbers: Numbers) -> None:
        """Compute by these numbers from now on."""
        self._terms, self._output = _to_output(numbers, self.setting)

    def forward(self, *inputs: Tensor) -> Tensor:
        """As the module in whose place this stands."""
        if self.training or len(inputs) != len(self._terms):
            _refuse(self, self.name, len(self._terms), inputs)
        parts = [_rescaled(x, by, factor, False) for x, (by, factor) in zip(inputs, self._terms, strict=True)]
        return real_counts_(self._join(parts, self.dim), self._output, inputs[0].dtype)

    def extra_repr(self) -> str:
        """What the module shows of itself."""
        return f"{self.name}, {self.setting.bits_activations} bits"


class QuantizedProduct(nn.Module):
    r"""``EltwiseMult``, ``Matmul`` or ``BatchMatmul`` in integers.

    ::

        y = s_y * cut(round((product, or sum of products, of n_i) * (product of s_i) / s_y))

    Matrix products may be given no ranges: they are then taken of each input and output.
    """

    def __init__(self, name: str, operation: Callable[[Tensor, Tensor], Tensor], module: nn.Module, setting: Setting) -> None:
        super().__init__()
        carry_over(self, module)
        self.name, self.setting = name, setting
        self._operation = operation
        self._elementwise = operation is torch.mul

    def settle(self, numbers: Numbers) -> None:
        """Compute by these numbers from now on."""
        self._numbers = numbers
        ends = [max(-low, high) for low, high in (largest(known) for known in numbers.inputs if known is not None)]
        self._reach, self._factors = prod(ends), max(ends)
        self._most = 2.0 ** (self.setting.bits_accum - 1) - 1
        self._known: tuple[list[Spread], float, Target] | None = None
        inputs = [known for known in numbers.inputs if isinstance(known, QParams)]
        if len(inputs) == len(numbers.inputs) and isinstance(numbers.output, QParams):
            self._known = self._constants(inputs, numbers.output)

    def _constants(self, inputs: list[QParams], output: QParams) -> tuple[list[Spread], float, Target]:
        step = reduce(torch.mul, [params.scale.double().cpu() for params in inputs])
        factor = float(factor_of(step, output.scale.cpu(), self.setting))
        return [params.spread for params in inputs], factor, target(output, self.setting, self._numbers.carries)

    def forward(self, *inputs: Tensor) -> Tensor:
        """As the module in whose place this stands."""
        if self.training or len(inputs) != len(self._numbers.inputs):
            _refuse(self, self.name, len(self._numbers.inputs), inputs)
        if not self._elementwise and torch.is_autocast_enabled(inputs[0].device.type):
            refuse_half(self, self.name)
        if self._known is None:
            return self._measured(inputs)
        spreads, factor, output = self._known
        return real_(self._sums(inputs, spreads), factor, output, inputs[0].dtype)

    def _sums(self, inputs: tuple[Tensor, ...], spreads: list[Spread]) -> Tensor:
        reach = self._reach if self._elementwise else self._reach * inputs[0].shape[-1]
        n = [counts(x, by) for x, by in zip(inputs, spreads, strict=True)]
        if needs_double(reach, 0.0 if self._elementwise else self._factors):
            n = [each.double() for each in n]
        sums = reduce(self._operation, n)
        return sums.clamp_(-self._most - 1, self._most) if reach > self._most else sums

    def _measured(self, inputs: tuple[Tensor, ...]) -> Tensor:
        known = [known.of(x) if isinstance(known, Measured) else known for x, known in zip(inputs, self._numbers.inputs, strict=True)]
        params = [each for each in known if each is not None]
        sums = self._sums(inputs, [each.spread for each in params])
        output = self._numbers.output
        if isinstance(output, Measured):
            values = sums * float(reduce(torch.mul, [each.scale.double() for each in params]))
            output = output.of(values.relu_() if self.setting.clip_half_range else values)
        assert output is not None
        _, factor, out = self._constants(params, output)
        return real_(sums, factor, out, inputs[0].dtype)

    def extra_repr(self) -> str:
        """What the module shows of itself."""
        return f"{self.name}, {self.setting.bits_activations} bits"


def _to_output(numbers: Numbers, setting: Setting) -> tuple[list[tuple[Spread, float]], Target]:
    """For each input its spread, and how many steps of the output one of its own is."""
    output = numbers.output
    assert isinstance(output, QParams)
    terms = []
    for params in numbers.inputs:
        assert isinstance(params, QParams)
        same = bool(params.scale == output.scale)
        terms.append((params.spread, 1.0 if same else float(factor_of(params.scale, output.scale, setting))))
    return terms, target(output, setting, numbers.carries)


def _rescaled(x: Tensor, by: Spread, factor: float, wide: bool) -> Tensor:
    n = counts(x, by)
    n = n.double() if wide else n
    return n if factor == 1.0 else (n * factor).round_()


def _refuse(module: nn.Module, name: str, wanted: int, inputs: tuple[Tensor, ...]) -> None:
    refuse_training(module, name)
    raise QuantizationError(
        f"'{name}' was calibrated with {wanted} inputs and is called with {len(inputs)}; collect statistics of this model, with such inputs; "
        f"one that is no tensor of floats is not counted, and needs overrides {{{name}: {{bits_activations: null}}}}"
    )

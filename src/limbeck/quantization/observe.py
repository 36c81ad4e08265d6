"""Statistics of every layer, collected while a model is evaluated, by hooks that leave no trace on it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck._forward import Eye, part_by_part
from limbeck.errors import QuantizationError
from limbeck.names import canonical, unwrap
from limbeck.quantization.histogram import BINS, Running
from limbeck.quantization.stats import LayerStats, Stats, TensorStats

_HELD = 1 << 16
"""Elements that are counted together: many small tensors, as those of a recurrent cell, cost no more than a large one, and a large one stays in cache."""


class Tally:
    """The running statistics of one input or output, exact in one pass but for ``b``; see ``Running.deviation``.

    Means and squares are summed in float64, batch by batch (Chan, Golub and LeVeque 1979). A sample is a slice of the first axis; a tensor whose slices are
    single numbers is one sample, as in Distiller.

    >>> tally = Tally()
    >>> tally.add(torch.tensor([[-1.0, 3.0], [0.0, 6.0]]))
    >>> tally.add(torch.tensor([[2.0, 2.0]]))
    >>> found = tally.stats()
    >>> found.min, found.max, found.avg_min, found.mean, found.b
    (-1.0, 6.0, 0.333333..., 2.0, 1.666666...)
    """

    def __init__(self, bins: int = BINS) -> None:
        self._running = Running(bins)
        self._waiting: list[Tensor] = []
        self._held = 0
        self._shape: tuple[int, ...] = ()
        self._min, self._max = math.inf, -math.inf
        self._samples = self._count = 0
        self._lowest = self._highest = self._mean = self._squares = 0.0

    def add(self, tensor: Tensor) -> None:
        """Take a copy of a tensor, which the model may change afterwards. Raises ``ValueError`` for NaN and infinity, at once or at a later call."""
        if not tensor.numel():
            return
        rows = tensor.detach().reshape(len(tensor) if tensor.dim() > 1 and tensor.numel() > len(tensor) else 1, -1)
        if self._waiting and (self._waiting[0].shape[1], self._waiting[0].dtype, self._waiting[0].device) != (
            rows.shape[1],
            rows.dtype,
            rows.device,
        ):
            self.count()
        self._shape = tuple(tensor.shape)
        if rows.numel() >= _HELD:
            self.count()
            self._count_parts(rows)
            return
        self._waiting.append(rows.clone(memory_format=torch.contiguous_format))
        self._held += rows.numel()
        if self._held >= _HELD:
            self.count()

    def count(self) -> None:
        """Count what waits; raises ``ValueError`` for NaN and infinity."""
        if not self._waiting:
            return
        rows = torch.cat(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
        self._waiting, self._held = [], 0
        self._count_parts(rows)

    def _count_parts(self, rows: Tensor) -> None:
        for part in torch.split(rows, max(1, _HELD // rows.shape[1])):
            self._count_rows(part)

    def _count_rows(self, rows: Tensor) -> None:
        self._running.add(rows)
        lowest, highest = rows.amin(1), rows.amax(1)
        self._min, self._max = min(self._min, float(lowest.min())), max(self._max, float(highest.max()))
        self._samples += len(rows)
        self._lowest += float(lowest.sum(dtype=torch.float64))
        self._highest += float(highest.sum(dtype=torch.float64))
        values = rows.to(torch.float64, copy=True).reshape(-1)
        new, before, mean = len(values), self._count, float(values.mean())
        shift = mean - self._mean
        values.sub_(mean)
        self._count = before + new
        self._mean += shift * new / self._count
        self._squares += float(values.dot(values)) + shift**2 * before * new / self._count

    def stats(self) -> TensorStats:
        """What was seen so far."""
        self.count()
        return TensorStats(
            min=self._min,
            max=self._max,
            avg_min=self._lowest / self._samples,
            avg_max=self._highest / self._samples,
            mean=self._mean,
            std=math.sqrt(self._squares / max(1, self._count - 1)),
            b=self._running.deviation(self._mean),
            shape=self._shape,
            histogram=self._running.histogram(),
        )


class Collector:
    """What ``collect_stats`` gives: ``stats`` is what was seen so far."""

    def __init__(self, bins: int = BINS) -> None:
        self._bins = bins
        self._inputs: dict[str, dict[int, Tally]] = {}
        self._outputs: dict[str, Tally] = {}

    @property
    def stats(self) -> Stats:
        """The statistics of all layers that ran, in the order in which they first did.

        Raises ``QuantizationError`` when none did, and for NaN or infinity, with the layer's name.
        """
        if not self._inputs:
            raise QuantizationError("no layer of the model ran, so there are no statistics; evaluate the model within collect_stats")
        layers = {}
        for name, inputs in self._inputs.items():
            seen = {place: _told(f"input {place}", name, tally) for place, tally in sorted(inputs.items())}
            output = self._outputs.get(name)
            layers[name] = LayerStats(seen, None if output is None else _told("output", name, output))
        return Stats(layers)

    def _before(self, name: str, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Of a layer that is about to run: an in-place one has not changed its input yet."""
        if module.training:
            raise QuantizationError(
                f"'{name}' is in training mode, in which it computes something else; call model.eval() before statistics are collected"
            )
        inputs = self._inputs.setdefault(name, {})
        for place, value in enumerate((*args, *kwargs.values())):
            for tensor in _tensors(value):
                if place not in inputs:
                    inputs[place] = Tally(self._bins)
                _add(inputs[place], tensor, f"input {place}", name)

    def _after(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        for tensor in _tensors(output):
            if name not in self._outputs:
                self._outputs[name] = Tally(self._bins)
            _add(self._outputs[name], tensor, "output", name)


def _tensors(value: Any) -> list[Tensor]:
    """The floating-point tensors with elements of an argument or result: itself, or the members of a tuple; of a packed sequence its data."""
    members = (value,) if isinstance(value, Tensor) else value if isinstance(value, tuple | list) else ()
    return [member for member in members if isinstance(member, Tensor) and member.is_floating_point() and member.numel()]


def _add(tally: Tally, tensor: Tensor, side: str, name: str) -> None:
    try:
        tally.add(tensor)
    except ValueError as error:
        raise _not_finite(side, name) from error


def _told(side: str, name: str, tally: Tally) -> TensorStats:
    try:
        return tally.stats()
    except ValueError as error:
        raise _not_finite(side, name) from error


def _not_finite(side: str, name: str) -> QuantizationError:
    return QuantizationError(
        f"{side} of '{name}' holds NaN or infinity, from which no range can be taken; look at the model and its inputs"
    )


@contextmanager
def collect_stats(model: nn.Module, bins: int = BINS) -> Iterator[Collector]:
    """Collect statistics of every layer while the model is evaluated within the ``with`` block; once is enough.

    A layer is a module without children. One that runs several times, as the parts of an unrolled recurrent cell do, adds up. Inputs are copied before the
    layer runs, so one that works in place is seen right. Histograms have up to ``bins`` bins, a power of two, on either side of zero.
    What ``torch.compile`` made, which would run no hooks, stands aside meanwhile.

    Calibrate with training or validation data: ranges that were chosen on the test set flatter its result.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True)).eval()
    >>> with collect_stats(model) as collected, torch.no_grad():
    ...     _ = model(torch.ones(2, 4))
    >>> sorted(collected.stats.layers), collected.stats["1"].output.min >= 0, collected.stats["0"].inputs[0].max
    (['0', '1'], True, 1.0)

    Raises ``QuantizationError`` for a model in training mode, for one that holds ``DataParallel``, whose copies would run at once, and for NaN.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.DataParallel):
            what, remedy = (f"'{name}'", f"model.{name} = model.{name}.module") if name else ("the model", "collect_stats(model.module)")
            raise QuantizationError(f"{what} is DataParallel, whose copies run at once; take the module inside: {remedy}")
    collector = Collector(bins)
    with ExitStack() as hooks:
        hooks.enter_context(part_by_part())
        for name, module in unwrap(model).named_modules():
            if next(module.children(), None) is None:
                before, after = partial(collector._before, canonical(name)), partial(collector._after, canonical(name))
                hooks.enter_context(module.register_forward_pre_hook(Eye(before), with_kwargs=True))
                hooks.enter_context(module.register_forward_hook(Eye(after)))
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and asking would import it
            hooks.enter_context(torch.compiler.set_stance("force_eager"))
        yield collector

"""How much of each layer's signal is left in a quantized model, measured beside the model that it was made of."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck._forward import Eye, part_by_part
from limbeck.errors import QuantizationError
from limbeck.names import canonical
from limbeck.quantization.rows import decibels

Run = Callable[[nn.Module], object]
"""Runs a model on one batch."""
Bounds = tuple[float, float]


@dataclass
class _Pair:
    """Of one layer: outputs of the reference that wait for their twins, and the sums of squares so far."""

    bounds: Bounds | None
    waiting: deque[Tensor] = field(default_factory=deque)
    signal: float = 0.0
    noise: float = 0.0
    seen: int = 0


def signal_to_noise(
    reference: nn.Module, quantized: nn.Module, runs: Iterable[Run], layers: Mapping[str, str], bounds: Mapping[str, Bounds] | None = None
) -> dict[str, float]:
    """The signal-to-noise ratio of layers' outputs against a float model, in decibels, over the batches of ``runs``: ``sum x**2 / sum (q - x)**2``.

    ``layers`` are names of the quantized model, each with that of the layer in ``reference`` that computes the same. Each batch runs through the reference
    and then through the quantized model, so noise includes what comes from earlier layers. ``bounds`` are those of layers outside of which their output
    makes no difference, as before a ReLU: both are cut there. A layer that did not run is left out. Both models are in evaluation mode.

    >>> layer = nn.Linear(2, 2, bias=False)
    >>> coarse = nn.Linear(2, 2, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.eye(2)), coarse.weight.copy_(0.9 * torch.eye(2))
    >>> net, its_twin = nn.Sequential(layer).eval(), nn.Sequential(coarse).eval()
    >>> round(signal_to_noise(net, its_twin, [lambda model: model(torch.ones(1, 2))], {"0": "0"})["0"], 3)
    20.0

    Raises ``QuantizationError`` for a layer that one of the models lacks, and for one that ran more often, or on another shape, in one of them.
    """
    pairs = {name: _Pair((bounds or {}).get(name)) for name in layers}
    with ExitStack() as hooks, torch.no_grad(), part_by_part():
        _watch(hooks, reference, {other: [pairs[name] for name in layers if layers[name] == other] for other in layers.values()}, _hold)
        _watch(hooks, quantized, {name: [pair] for name, pair in pairs.items()}, _compare)
        for run in runs:
            for model in (reference, quantized):
                run(model)
            for name, pair in pairs.items():
                if pair.waiting:
                    raise QuantizationError(f"'{layers[name]}' ran {len(pair.waiting)} times more than '{name}' of the quantized model did")
    return {name: decibels(pair.signal, pair.noise) for name, pair in pairs.items() if pair.seen}


def _watch(hooks: ExitStack, model: nn.Module, pairs: Mapping[str, list[_Pair]], see: Callable[[str, _Pair, Tensor], None]) -> None:
    modules = {canonical(name): module for name, module in model.named_modules()}
    for name, own in pairs.items():
        if name not in modules:
            raise QuantizationError(f"the model has no layer '{name}' to compare; take the layers from its named_modules()")
        hooks.enter_context(modules[name].register_forward_hook(Eye(partial(_seen, name, own, see))))


def _seen(
    name: str, pairs: list[_Pair], see: Callable[[str, _Pair, Tensor], None], module: nn.Module, args: Any, output: Any
) -> None:  # fmt: skip
    if isinstance(output, Tensor) and output.is_floating_point():
        for pair in pairs:
            see(name, pair, output.detach())


def _hold(name: str, pair: _Pair, output: Tensor) -> None:
    pair.waiting.append(_cut(output, pair.bounds).clone())


def _compare(name: str, pair: _Pair, output: Tensor) -> None:
    if not pair.waiting:
        raise QuantizationError(f"'{name}' of the quantized model ran more often than its twin did; compare models of one structure")
    expected = pair.waiting.popleft()
    if expected.shape != output.shape:
        raise QuantizationError(f"the output of '{name}' has the shape {tuple(output.shape)}, and its twin's {tuple(expected.shape)}")
    expected = expected.double()
    pair.signal += float(expected.square().sum())
    pair.noise += float((_cut(output, pair.bounds).double() - expected).square().sum())
    pair.seen += 1


def _cut(output: Tensor, bounds: Bounds | None) -> Tensor:
    return output if bounds is None else output.clamp(*bounds)

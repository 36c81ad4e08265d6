"""A thinning tried on a copy of the model: it must take the shapes that the plan foresees, and compute what the model does."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.events import Coupled
from limbeck.graph import Inputs, Node, arguments, capture, propagate
from limbeck.graph.labels import Value, varying
from limbeck.recipes import Recipe
from limbeck.thinning.apply import apply
from limbeck.thinning.plan import tensors

TOLERANCE = 1e-5
"""Of the largest result, in single precision; where numbers are coarser, 16 of their steps."""


@dataclass(frozen=True)
class Trouble:
    """What went wrong with a thinned copy, and the lines of code it went through, innermost first."""

    text: str
    lines: tuple[str, ...] = ()


def check(
    recipe: Recipe,
    model: nn.Module,
    example_inputs: Inputs,
    values: Mapping[str, Tensor] | None = None,
    units: Coupled | None = None,
) -> Trouble | None:
    """Whether a thinned copy of a model computes what the model does, on the inputs and on random ones like them; None when it does.

    With the model's ``units`` each operation of the copy must also have a result of the shape that is left of the model's: code that cuts, or
    counts heads, by a number of its own would else go wrong without an error, and on inputs all alike (zeros) without a difference.
    ``values`` take the place of some of the model's where the recipe cuts vectors.
    """
    model = model if values is None else _with_cut(recipe, model, values)
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            expected = _results(model.eval(), example_inputs)
            thinned = copy.deepcopy(model)
            apply(recipe, thinned)
            try:
                found = _results(thinned, example_inputs)
            except Exception as error:
                frames = reversed(traceback.extract_tb(error.__traceback__))
                text = f"fails: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
                return Trouble(text, tuple(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames))
            trouble = (_astray(units, recipe, thinned, example_inputs) if units else None) or _apart(expected, found)
            other = None if trouble else _random(example_inputs)
            return trouble or (None if other is None else _apart(_results(model, other), _results(thinned, other)))
    finally:
        for module, mode in modes:
            module.training = mode


def _with_cut(recipe: Recipe, model: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """The model, or, where what is cut of its vectors has other ``values``, a copy that has them there."""
    own, cuts = tensors(model), [cut for cut in recipe.cuts if len(values[cut.tensor].shape) == 1]
    places = {cut.tensor: torch.ones(cut.size, dtype=torch.bool).index_fill(0, torch.tensor(cut.kept), value=False) for cut in cuts}
    if all(torch.equal(own[name][gone], values[name][gone]) for name, gone in places.items()):
        return model
    changed = copy.deepcopy(model)
    for name, tensor in tensors(changed).items():
        if name in places:
            tensor[places[name]] = values[name][places[name]]
    return changed


def _results(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    args, kwargs = arguments(inputs)
    return list(_flat(model(*args, **kwargs)))


def _flat(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, Mapping):
        for value in result.values():
            yield from _flat(value)
    elif isinstance(result, (list, tuple)):
        for value in result:
            yield from _flat(value)


def _random(inputs: Inputs) -> Inputs | None:
    """Inputs of the same shapes whose real numbers are random; None where none are real."""
    chance = torch.Generator().manual_seed(0)

    def drawn(value: Any) -> Any:
        real = isinstance(value, Tensor) and value.is_floating_point()
        return torch.randn(value.shape, generator=chance).to(value) if real else value

    values = list(inputs.values() if isinstance(inputs, Mapping) else inputs)
    if not any(isinstance(value, Tensor) and value.is_floating_point() for value in values):
        return None
    return {name: drawn(value) for name, value in inputs.items()} if isinstance(inputs, Mapping) else [drawn(value) for value in inputs]


def _apart(expected: list[Tensor], found: list[Tensor]) -> Trouble | None:
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape:
            return Trouble(f"gives a result of shape {tuple(other.shape)}, not {tuple(one.shape)}")
        scale = max(1.0, float(one.abs().max())) if one.numel() else 1.0
        steps = 16 * torch.finfo(one.dtype).eps if one.is_floating_point() else 0.0
        if not torch.allclose(one.double(), other.double(), rtol=0, atol=max(TOLERANCE, steps) * scale, equal_nan=True):
            return Trouble(f"differs by {float((one.double() - other.double()).abs().max()):.1e}")
    return None


def _astray(units: Coupled, recipe: Recipe, thinned: nn.Module, example_inputs: Inputs) -> Trouble | None:
    """The first operation of the copy whose result has not the shape that its units leave."""
    classes = units.coupling.classes
    gone = torch.zeros(1 + max((unit for places in classes.values() for unit in places), default=0), dtype=torch.bool)
    for cut in recipe.cuts:
        kept = set(cut.kept)
        gone[[classes[cut.tensor, cut.axis][place] for place in range(cut.size) if place not in kept]] = True
    flow, nodes = propagate(units.graph, {}, units.coupling), capture(thinned, example_inputs).nodes
    for node, other in zip(units.graph.nodes, nodes, strict=False):
        if node.operation != other.operation:
            return Trouble(f"runs {other.operation} in place of {node.where}", (node.line,))
        values = flow.values[node.name]
        for value, shape in zip(values if isinstance(values, list) else [values], other.shapes, strict=False):
            sizes = _sizes(value, gone) if isinstance(value, Value) else {}
            if shape is not None and any(shape[axis] != size for axis, size in sizes.items()):
                left = tuple(sizes.get(axis, size) for axis, size in enumerate(shape))
                return Trouble(f"gives {_told(node)} of shape {shape}, not {left}", (node.line,))
    return None


def _told(node: Node) -> str:
    return f"'{node.name}'" if node.kind == "tensor" else f"a result of {node.where}"


def _sizes(value: Value, gone: Tensor) -> dict[int, int]:
    """How many positions are left along the axes that have units."""
    sizes = {}
    for axis in {axis for layer in value.layers for axis in varying(layer)}:
        layers = [layer for layer in value.layers if axis in varying(layer)]
        alive = reduce(torch.logical_and, [(layer < 0) | ~gone[layer.clamp(min=0)] for layer in layers])
        sizes[axis] = int(alive.movedim(axis, 0).reshape(alive.shape[axis], -1).any(1).sum())
    return sizes

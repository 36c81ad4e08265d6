"""Which units live and die together: labels sent through a graph, operation by operation."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from limbeck.graph.capture import Graph, Node, Ref
from limbeck.graph.flow import Call, Flow, lookup
from limbeck.graph.labels import FIXED, UNKNOWN, Value, varying
from limbeck.graph.layers import LAYERS
from limbeck.graph.mixing import MIXING
from limbeck.graph.operations import OPERATIONS, SHARING, Rule, elementwise, unfollowed
from limbeck.graph.recurrent import RECURRENT

RULES: Mapping[str, Rule] = {**OPERATIONS, **MIXING, **LAYERS, **RECURRENT}
SILENT = ("_assert", "sym_", "_guards")


@dataclass(frozen=True)
class Coupling:
    """The classes of units: what is removed together, or stays."""

    classes: Mapping[tuple[str, int], tuple[int, ...]]
    """By parameter or buffer and axis: the class of each position."""
    frozen: Mapping[int, tuple[str, ...]]
    """Why a class must stay."""
    produced: frozenset[tuple[str, int]]
    """The axes that compute units; the others read or follow them."""
    assumed: Mapping[str, frozenset[int]]
    """Operations that cut at given numbers, taken to follow their input's size, and the classes that rely on it."""

    lines: Mapping[str, frozenset[int]]
    """The classes that pass each ``file:line`` of the model's code."""

    def units(self, name: str, axis: int = 0) -> tuple[int, ...]:
        """The class of each position along an axis of a parameter."""
        return self.classes[name, axis]

    def members(self, unit: int) -> dict[tuple[str, int], tuple[int, ...]]:
        """All that lives and dies with a class: the positions along axes of parameters and buffers."""
        return dict(self._members[unit])

    @cached_property
    def labels(self) -> dict[tuple[str, int], Tensor]:
        """``classes`` as tensors, int64 ``[positions]``."""
        return {key: torch.tensor(units, dtype=torch.int64) for key, units in self.classes.items()}

    @cached_property
    def computing(self) -> frozenset[str]:
        """The parameters that compute units along some axis; what is added or multiplied element by element does not."""
        return frozenset(name for name, _ in self.produced)

    @cached_property
    def _members(self) -> dict[int, dict[tuple[str, int], tuple[int, ...]]]:
        found: dict[int, dict[tuple[str, int], tuple[int, ...]]] = {}
        for key, classes in self.classes.items():
            for place, unit in enumerate(classes):
                places = found.setdefault(unit, {})
                places[key] = (*places.get(key, ()), place)
        return found


def coupling(graph: Graph) -> Coupling:
    """The coupled units of a graph.

    >>> import torch
    >>> from torch import nn
    >>> from limbeck.graph import capture
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    >>> coupled = coupling(capture(net, (torch.zeros(1, 1, 4, 4),)))
    >>> [(name, axis, places) for (name, axis), places in coupled.members(coupled.units("0.weight")[1]).items()]
    [('0.weight', 0, (1,)), ('0.bias', 0, (1,)), ('1.weight', 0, (1,)), ('1.bias', 0, (1,)), ('3.weight', 1, (4, 5, 6, 7)),
     ('1.running_mean', 0, (1,)), ('1.running_var', 0, (1,))]
    >>> coupled.frozen[coupled.units("3.weight")[0]]
    ("it is the model's output",)
    """
    return summary(propagate(graph, {}))


def summary(flow: Flow) -> Coupling:
    """The classes at the end of a propagation."""
    roots = flow.classes.roots()
    classes = {key: tuple(roots[labels].tolist()) for key, labels in flow.axes.items()}
    assumed = {where: frozenset(roots[labels[labels >= 0]].tolist()) for where, labels in flow.assumed.items()}
    return Coupling(classes, flow.classes.frozen(), frozenset(flow.produced), assumed, _lines(flow))


def _lines(flow: Flow) -> dict[str, frozenset[int]]:
    lines: dict[str, set[int]] = {}
    for node in flow.graph.nodes:
        for value in [flow.values[node.name], *[lookup(flow, argument) for argument in node.args]]:
            for layer in value.layers if isinstance(value, Value) and node.line else ():
                lines.setdefault(node.line, set()).update(flow.classes.rooted(layer[layer != FIXED]).tolist())
    return {line: frozenset(classes) for line, classes in lines.items()}


def propagate(
    graph: Graph, tensors: Mapping[str, Tensor], settled: Coupling | None = None, leading: bool = False, training: bool = False
) -> Flow:
    """Send labels, and what ``tensors`` tell of constants, through a graph; with ``settled`` constants alone, the labels being those classes.

    ``leading`` takes biases and norms to change nothing where a unit is zero; ``training`` knows a constant only where training computes it too.
    """
    flow = Flow(graph, tensors, None if settled is None else settled.labels, leading, training)
    for node in graph.nodes:
        flow.values[node.name] = _value(flow, node)
    if settled is None:
        _refuse_attention_modules(flow)
        while any(_even(flow, layer, why) for layer, why in flow.joints):
            pass
    return flow


def _value(flow: Flow, node: Node) -> Any:
    if node.kind == "tensor":
        return replace(flow.stored[flow.graph.stored[node.name]], base=node.name)
    if node.kind == "input":
        return Value(node.shapes[0], base=node.name) if node.shapes[0] is not None else None
    args, kwargs = lookup(flow, node.args), {key: lookup(flow, value) for key, value in node.kwargs.items()}
    call = Call(node, args, kwargs)
    if node.kind == "output":
        for value in call.values():
            flow.freeze(value, "it is the model's output")
        return None
    if node.target is operator.getitem:
        return args[0][args[1]] if isinstance(args[0], list) else args[0]
    if node.operation.startswith(SILENT):
        return None
    result = _rule(node)(flow, call)
    return _remembered(flow, call, result)


def _rule(node: Node) -> Rule:
    rule = RULES.get(node.operation)
    if rule is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
        return elementwise
    return rule or unfollowed


def _remembered(flow: Flow, call: Call, result: Any) -> Any:
    """Results carry the memory they may share; a write into memory spoils what was known of all that shares it."""
    first = call.args[0] if call.args and isinstance(call.args[0], Value) else None
    writes = call.node.operation.endswith("_") and not call.node.operation.endswith("__")
    if isinstance(result, list):
        return [replace(value, base=first.base if first else call.node.name) if isinstance(value, Value) else value for value in result]
    if not isinstance(result, Value):
        return result
    result = replace(result, base=first.base if first and (writes or RULES.get(call.node.operation) in SHARING) else call.node.name)
    if writes and first is not None:
        unknown = torch.tensor(UNKNOWN, dtype=torch.float64)
        for name, value in flow.values.items():
            if isinstance(value, Value) and value.base == result.base:
                flow.values[name] = replace(value, known=unknown)
            elif isinstance(value, list):
                flow.values[name] = [replace(v, known=unknown) if isinstance(v, Value) and v.base == result.base else v for v in value]
        written = call.node.args[0]
        if isinstance(written, Ref):
            flow.values[written.name] = result
    return result


def _refuse_attention_modules(flow: Flow) -> None:
    """``nn.MultiheadAttention`` computes queries, keys and values that are together as wide as its input: its heads cannot go alone."""
    for module in flow.graph.modules.values():
        if module.type == "MultiheadAttention":
            for (name, axis), labels in flow.axes.items():
                if name.startswith(f"{module.name}." if module.name else ""):
                    flow.classes.freeze(labels, f"nn.MultiheadAttention '{module.name}' keeps its heads as wide as its input (axis {axis})")


def _even(flow: Flow, layer: Tensor, why: str) -> bool:
    """A grid of units must stay one whichever go: where it is none yet, the lines along its shortest axis become one unit each."""
    labels = layer
    for axis in range(labels.dim()):
        roots = flow.classes.rooted(labels)
        if bool((roots == roots.narrow(axis, 0, 1)).all()):
            labels = labels.narrow(axis, 0, 1)
    if len(varying(labels)) < 2:
        return False
    if bool((labels == FIXED).any()):
        flow.classes.freeze(labels, f"{why} mixes units with what is not followed")
        flow.classes.unite(labels, labels.reshape(-1)[labels.reshape(-1) != FIXED][0], why)
        return False
    shortest = min(varying(labels), key=lambda axis: labels.shape[axis])
    flow.classes.unite_along(labels, shortest, why)
    return True

"""Which units a model can do without, and which vectors fall silent with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.graph.capture import Graph, Ref
from limbeck.graph.coupling import Coupling, propagate
from limbeck.graph.flow import Flow, Use


def removable(flow: Flow, coupling: Coupling, leave: Collection[int] = ()) -> Tensor:
    """The largest set of classes that can go together, bool ``[classes]``: at each place that reads one, it is zero or weighs nothing.

    ``flow`` has followed what is zero, with the classes of ``coupling``; frozen classes and those in ``leave`` stay, and the first of an axis that
    would lose all its units.
    """
    gone = torch.zeros(1 + max((int(units.max()) for units in coupling.labels.values() if len(units)), default=0), dtype=torch.bool)
    for use in flow.uses:
        gone[use.labels[use.labels >= 0]] = True
    gone[torch.tensor([*coupling.frozen, *leave], dtype=torch.int64)] = False
    _settle(flow.uses, gone)
    while revived := _emptied(coupling, gone) or _too_narrow(flow.graph, coupling, gone):
        gone[torch.tensor(sorted(revived))] = False
        _settle(flow.uses, gone)
    return gone


def _settle(uses: Collection[Use], gone: Tensor) -> None:
    """Take back, in place, what is still read, until nothing is."""
    while True:
        held = [use.labels[_holds(use, gone)] for use in uses]
        kept = torch.cat([torch.zeros(0, dtype=torch.int64), *held])
        if not len(kept):
            return
        gone[kept] = False


def _holds(use: Use, gone: Tensor) -> Tensor:
    """``[inputs]``: which units that should go are still read by a row that remains."""
    going = _of(gone, use.labels) & use.incoming
    if not bool(going.any()):
        return going
    return going & (use.weighs & ~_of(gone, use.rows).unsqueeze(1)).any(0)


def _of(gone: Tensor, units: Tensor) -> Tensor:
    return torch.where(units >= 0, gone[units.clamp(min=0)], False)


def _emptied(coupling: Coupling, gone: Tensor) -> set[int]:
    """The first class of each axis that would lose all its units."""
    return {int(units[0]) for units in coupling.labels.values() if len(units) and bool(gone[units].all())}


def _too_narrow(graph: Graph, coupling: Coupling, gone: Tensor) -> set[int]:
    """A unit of each LSTM that would be no wider than its projection: torch tells by the widths whether it projects."""
    found = set()
    for name, module in graph.modules.items():
        projection = f"{name}.weight_hr_l0" if name else "weight_hr_l0"
        if module.type == "LSTM" and projection in graph.tensors:
            outputs, hidden = ([bool(gone[unit]) for unit in coupling.units(projection, axis)] for axis in (0, 1))
            if hidden.count(False) <= outputs.count(False) and any(hidden):
                found.add(coupling.units(projection, 1)[hidden.index(True)])
    return found


@dataclass(frozen=True)
class Silence:
    """What becomes of a model when weights are masked."""

    vectors: Mapping[str, Tensor]
    """Bool, True = kept: of each bias, and each scale or shift of a norm, the positions whose unit still computes something."""
    flow: Flow


def silence(graph: Graph, coupling: Coupling, kept: Mapping[str, Tensor]) -> Silence:
    """The vectors that follow the units of masked weights, which belong to an operation that is given, or computes, nothing but zero without them.

    ``kept`` are masks of weights of two dimensions or more, True = kept, by canonical name.

    >>> from torch import nn
    >>> from limbeck.graph import capture, coupling
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 1))
    >>> graph = capture(net, (torch.zeros(1, 1, 4, 4),))
    >>> keep = torch.tensor([True, False]).reshape(2, 1, 1, 1).expand(2, 1, 3, 3)
    >>> {name: kept.tolist() for name, kept in silence(graph, coupling(graph), {"0.weight": keep}).vectors.items()}
    {'0.bias': [True, False], '1.weight': [True, False], '1.bias': [True, False], '3.bias': [True]}
    """
    flow = propagate(graph, {name: _reduced(keep) for name, keep in kept.items()}, coupling, leading=True)
    vectors: dict[str, Tensor] = {}
    for vector in flow.vectors:
        if vector.silent.dim() == 1 and not graph.tensors[vector.name].buffer:
            vectors[vector.name] = ~vector.silent | vectors.get(vector.name, torch.zeros_like(vector.silent))
    return Silence(vectors, flow)


def scales(graph: Graph) -> frozenset[str]:
    """The names of the norms' scales."""
    places = {"batch_norm": 1, "instance_norm": 1, "group_norm": 2}
    found = [node.args[place] for node in graph.nodes if (place := places.get(node.operation)) and len(node.args) > place]
    return frozenset(graph.stored[argument.name] for argument in found if isinstance(argument, Ref) and argument.name in graph.stored)


def _reduced(keep: Tensor) -> Tensor:
    """``[out, in, 1, ..]``: which kernels of a mask keep anything."""
    keep = keep.cpu()
    return keep.flatten(2).any(2).reshape(*keep.shape[:2], *[1] * (keep.dim() - 2)) if keep.dim() > 2 else keep

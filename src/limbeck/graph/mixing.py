"""How labels and constants pass through operations that mix elements: reductions, pooling, padding, what is normalised over an axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from limbeck.graph.flow import Call, Flow, Use, read
from limbeck.graph.labels import FIXED, UNKNOWN, Value, join, squeezed, varying
from limbeck.graph.operations import Rule, elementwise, table, unpinned


def reduce(flow: Flow, call: Call) -> Any:
    """A mean, a maximum, a sum: over units only a sum lets any go."""
    rank, name = len(call.x.shape), call.node.operation
    given = call.arg(1, "dim")
    if isinstance(given, Value):
        return elementwise(flow, call)
    every = range(rank) if isinstance(given, bool) else given or range(rank)
    axes = {axis % rank for axis in ([given] if isinstance(given, int) and not isinstance(given, bool) else every)}
    value, known = call.x, call.x.constants
    for axis in axes:
        if name == "sum" and any(varying(layer) == {axis} for layer in value.layers):
            labels = flow.row(value, axis, call.where)
            flow.uses.append(summed(call.where, labels, read(flow, value, axis)))
            value = replace(value, layers=flow.rest(value, axis))
        else:
            value = flow.pin(value, axis, f"{call.where} reduces over units")
    keep = len(call.shape) == rank
    layers = tuple(_reduced(layer, axes, keep) for layer in value.layers if not varying(layer) & axes)
    constant = known if name in {"mean", "amax", "amin", "max", "min"} else torch.where(known == 0, 0.0, UNKNOWN)
    known = _reduced(constant, axes, keep) if name in REDUCED and not varying(known) & axes else torch.tensor(UNKNOWN, dtype=torch.float64)
    result = unpinned(flow, call, layers, known)
    if len(call.node.shapes) > 1:
        return [result, replace(result, floating=False, known=torch.tensor(UNKNOWN, dtype=torch.float64))]
    return result


REDUCED = {"mean", "amax", "amin", "max", "min", "sum"}


def _reduced(tensor: Tensor, axes: set[int], keep: bool) -> Tensor:
    return tensor if keep else tensor.reshape([size for axis, size in enumerate(tensor.shape) if axis not in axes])


def summed(where: str, labels: Tensor, incoming: Tensor) -> Use:
    """A use in which every unit weighs."""
    return Use(where, labels, ~(incoming == 0), torch.ones(1, len(labels), dtype=torch.bool), torch.tensor([FIXED]))


def normalise(flow: Flow, call: Call) -> Value:
    """``softmax`` and the like: an axis of units that are normalised together must stay."""
    value = flow.pin(call.x, call.arg(1, "dim", -1), f"{call.where} normalises over units")
    return unpinned(flow, call, value.layers)


def gate(flow: Flow, call: Call) -> Value:
    """``glu``: the halves lose the same units."""
    axis = call.arg(1, "dim", -1) % len(call.x.shape)
    pairs = [layer.chunk(2, axis) if axis in varying(layer) else (layer, layer) for layer in call.x.layers]
    halves = [Value(call.shape, tuple(pair[index] for pair in pairs)) for index in range(2)]
    if call.shape[axis] == 1:
        flow.pin(call.x, axis, f"{call.where} cuts units from each other")
    first = call.x.constants.expand(call.x.shape).chunk(2, axis)[0]
    return unpinned(flow, call, join(flow.classes, halves, call.shape, call.where), squeezed(torch.where(first == 0, 0.0, UNKNOWN)))


def spatial(axes: int | None = None) -> Rule:
    """Pooling, resizing: the last ``axes`` axes are mixed (all after the second where none are given), the units of the others are kept."""

    def rule(flow: Flow, call: Call) -> Any:
        rank = len(call.x.shape)
        count = rank - 2 if axes is None else axes
        value, known = call.x, call.x.constants
        for axis in range(rank - count, rank):
            value = flow.pin(value, axis, f"{call.where} mixes units")
        layers = tuple(layer for layer in value.layers if not varying(layer) & set(range(rank - count, rank)))
        constant = known if call.node.operation.startswith(("max_pool", "adaptive")) else torch.where(known == 0, 0.0, UNKNOWN)
        constant = constant if not varying(known) & set(range(rank - count, rank)) else torch.tensor(UNKNOWN, dtype=torch.float64)
        result = unpinned(flow, call, layers, constant)
        return [result, replace(result, floating=False)] if len(call.node.shapes) > 1 else result

    return rule


def pad(flow: Flow, call: Call) -> Value:
    """``pad``: along labelled axes what is added is fixed."""
    amounts, mode, fill = call.arg(1, "pad"), call.arg(2, "mode", "constant"), call.arg(3, "value") or 0.0
    if call.node.operation == "constant_pad_nd":
        mode, fill = "constant", call.arg(2, "value", 0.0)
    if mode != "constant":
        mixed: Value = spatial(len(amounts) // 2)(flow, call)
        return mixed
    rank = len(call.shape)
    touched = {rank - 1 - index // 2 for index, amount in enumerate(amounts) if amount}
    layers = []
    for layer in call.x.layers:
        inner = [amount if rank - 1 - index // 2 in varying(layer) else 0 for index, amount in enumerate(amounts)]
        layers.append(torch.constant_pad_nd(layer, inner, FIXED) if touched & varying(layer) else layer)
    known = torch.constant_pad_nd(call.x.constants.expand(call.x.shape), amounts, fill)
    return unpinned(flow, call, tuple(layers), squeezed(known))


MIXING: Mapping[str, Rule] = {
    **table(reduce, "mean sum amax amin max min std var logsumexp argmax prod"),
    **table(normalise, "softmax log_softmax _softmax _log_softmax cumsum"),
    **table(gate, "glu"),
    **table(spatial(1), "max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d max_pool1d_with_indices"),
    **table(spatial(2), "max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d max_pool2d_with_indices"),
    **table(spatial(3), "max_pool3d avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d max_pool3d_with_indices"),
    **table(spatial(), "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_bicubic2d upsample_linear1d"),
    **table(pad, "pad constant_pad_nd"),
}

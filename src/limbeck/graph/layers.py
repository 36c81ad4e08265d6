"""How units pass through operations with weights: which axis of which weight computes them, and which reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from limbeck.graph.flow import Call, Flow, Use, read
from limbeck.graph.labels import FIXED, UNKNOWN, Value, join, varying
from limbeck.graph.mixing import summed
from limbeck.graph.operations import Rule, table, unfollowed, unpinned

AGREES = 1e-6
"""How far a constant in training may be from the one in evaluation, in float32 steps about ten."""


def product(flow: Flow, call: Call, x: Value, weight: Value, bias: Value | None) -> Value:
    """``x @ weight.T + bias``: the last axis of x ``[.., inputs]`` is read, weight ``[outputs, inputs]`` computes the result's last."""
    why = call.where
    columns = flow.row(weight, 1, why)
    joint = [layer for layer in x.layers if len(x.shape) - 1 in varying(layer)]
    for layer in joint or [torch.full((1,), FIXED)]:
        flow.classes.unite(layer, columns, f"{why} reads an axis that is not followed")
    for layer in joint:
        for other in varying(layer) - {len(x.shape) - 1}:
            flow.classes.unite_along(layer, other, why)
    rows = flow.row(weight, 0, why)
    flow.produce(weight, 0)
    if bias is not None:
        flow.classes.unite(rows, flow.row(bias, -1, why), why)
    incoming = ~(read(flow, x, -1) == 0)
    weighs = ~(weight.known.expand(weight.shape) == 0)
    flow.uses.append(Use(why, columns, incoming, weighs, rows))
    silent = ~(weighs & incoming).any(1)
    shift = flow.vector(bias, 0.0, silent)
    known = torch.where(_nothing(x, -1), _sum(torch.ones_like(silent), shift), _sum(silent, shift))
    layers = [layer for layer in x.layers if len(x.shape) - 1 not in varying(layer)]
    if len(rows) > 1:
        layers.append(rows.reshape([1] * (len(call.shape) - 1) + [-1]))
    return unpinned(flow, call, tuple(layers), known)


def _sum(silent: Tensor, bias: Value | None) -> Tensor:
    """``[rows]``: the bias where nothing that comes in weighs, else unknown."""
    constant = torch.zeros(1, dtype=torch.float64) if bias is None else bias.known.expand(bias.shape).reshape(-1)
    return torch.where(silent, constant, UNKNOWN)


def linear(flow: Flow, call: Call) -> Value:
    """``linear(x, weight, bias)``."""
    return product(flow, call, call.x, call.args[1], call.arg(2, "bias"))


def _turned(value: Value) -> Value:
    """A matrix with its axes exchanged. It is no longer the stored tensor."""
    return replace(
        value, shape=value.shape[::-1], layers=tuple(layer.mT for layer in value.layers), known=value.known.expand(value.shape).mT
    )


def matmul(flow: Flow, call: Call) -> Value:
    """``matmul``, ``mm``, ``bmm``: with a matrix on the right as ``linear``; else the units of both are read, the batch's meet."""
    left, right = call.args[0], call.args[1]
    if len(right.shape) == 2 and len(left.shape) >= 2:
        flow.produce(right, 1)
        return product(flow, call, left, replace(_turned(right), stored=""), None)
    if min(len(left.shape), len(right.shape)) < 3:
        return _refused(flow, call)
    return _batched(flow, call, left, right)


def addmm(flow: Flow, call: Call) -> Value:
    """``bias + x @ weight``."""
    return product(flow, call, call.args[1], replace(_turned(call.args[2]), stored=""), call.x)


def _refused(flow: Flow, call: Call) -> Value:
    value: Value = unfollowed(flow, call)
    return value


def _batched(flow: Flow, call: Call, left: Value, right: Value) -> Value:
    """Both are computed: an axis of units split over batch and sum (heads) goes by whole heads."""
    why, rank = call.where, len(call.shape)
    left, right = left.aligned(rank), right.aligned(rank)
    left = _heads(flow, left, rank - 1, why)
    right = _heads(flow, right, rank - 2, why)
    one, other = flow.row(left, rank - 1, why), flow.row(right, rank - 2, why)
    if bool((one != FIXED).any() | (other != FIXED).any()):
        flow.classes.unite(one, other, f"{why} reads an axis that is not followed")
        zero = (read(flow, left, rank - 1) == 0) | (read(flow, right, rank - 2) == 0)
        flow.uses.append(summed(why, torch.where(one == FIXED, other, one), torch.where(zero, 0.0, UNKNOWN)))
    parts = [
        replace(left, layers=flow.rest(left, rank - 1), shape=(*left.shape[:-1], 1)),
        replace(right, layers=flow.rest(right, rank - 2), shape=(*right.shape[:-2], 1, right.shape[-1])),
    ]
    layers = join(flow.classes, parts, call.shape, why)
    zero = _nothing(left, rank - 1) | _nothing(right, rank - 2)
    return unpinned(flow, call, layers, torch.where(zero, 0.0, UNKNOWN).to(torch.float64))


def _nothing(value: Value, axis: int) -> Tensor:
    """Where all along an axis is zero, for every input."""
    return (value.constants == 0).all(axis, keepdim=True)


def _heads(flow: Flow, value: Value, axis: int, why: str) -> Value:
    """Units that spread over ``axis`` and batch axes become one along ``axis``."""
    layers = []
    for layer in value.layers:
        if axis in varying(layer) and len(varying(layer)) > 1:
            flow.classes.unite_along(layer, axis, why)
            layer = layer.narrow(axis, 0, 1)  # noqa: PLW2901  # one unit for each head
        layers.append(layer)
    return replace(value, layers=tuple(layers))


def attention(flow: Flow, call: Call) -> Value:
    """``scaled_dot_product_attention``: ``[.., heads, tokens, features]``; heads go whole, features of q and k stay (they set the scale)."""
    why = call.where
    query, key, value = (call.args[index] for index in range(3))
    if call.kwargs.get("enable_gqa"):
        return _refused(flow, call)
    parts = []
    for part in (query, key):
        pinned = flow.pin(flow.pin(part, -2, f"{why} attends over units"), -1, f"{why} scales by the number of features of a head")
        whole = tuple(layer for layer in pinned.layers if not varying(layer) & {len(part.shape) - 1, len(part.shape) - 2})
        parts.append(replace(part, shape=(*part.shape[:-2], 1, 1), layers=whole))
    pinned = flow.pin(value, -2, f"{why} attends over units")
    parts.append(replace(pinned, shape=(*value.shape[:-2], 1, value.shape[-1]), layers=flow.rest(pinned, -2)))
    mask = call.arg(3, "attn_mask")
    if isinstance(mask, Value):
        parts.append(replace(mask, shape=(*mask.shape[:-2], 1, 1), layers=()))
    layers = join(flow.classes, parts, (*call.shape[:-2], 1, call.shape[-1]), why)
    return unpinned(flow, call, layers, torch.where(_nothing(value, -2), 0.0, UNKNOWN).to(torch.float64))


def convolution(axes: int, transposed: bool = False) -> Rule:
    """A convolution over ``axes`` axes; where it has groups they go whole."""

    def rule(flow: Flow, call: Call) -> Value:
        x, weight, bias = call.x, call.args[1], call.arg(2, "bias")
        groups, why = call.arg(6, "groups", 1), call.where
        axis = len(x.shape) - axes - 1
        for spread in range(axis + 1, len(x.shape)):
            x = flow.pin(x, spread, f"{why} mixes units")
        channels, incoming = flow.row(x, axis, why), ~(read(flow, x, axis) == 0)
        out = 1 if transposed else 0
        weighs = ~(weight.constants == 0).flatten(2).all(2).expand(weight.shape[:2])
        weighs = _by_row(weighs, groups) if transposed else weighs
        flow.produce(weight, out)
        if groups == 1:
            rows, columns = flow.row(weight, out, why), flow.row(weight, 1 - out, why)
            flow.classes.unite(channels, columns, f"{why} reads an axis that is not followed")
            flow.uses.append(Use(why, columns, incoming, weighs, rows))
        else:
            rows = _groups(flow, call, channels, groups, out)
            incoming = incoming.reshape(groups, 1, -1).expand(groups, len(rows) // groups, -1).reshape(len(rows), -1)
        if bias is not None:
            flow.classes.unite(rows, flow.row(bias, 0, why), why)
        shape = [1] * len(call.shape)
        shape[axis] = len(rows)
        layers = (rows.reshape(shape),) if len(rows) > 1 else ()
        silent = ~(weighs & incoming).any(1)
        return unpinned(flow, call, layers, _sum(silent, flow.vector(bias, 0.0, silent)).reshape(shape))

    return rule


def _by_row(weighs: Tensor, groups: int) -> Tensor:
    """``[inputs, outputs of a group] -> [outputs, inputs of a group]``."""
    return weighs.reshape(groups, -1, weighs.shape[1]).transpose(1, 2).reshape(-1, weighs.shape[0] // groups)


def _groups(flow: Flow, call: Call, channels: Tensor, groups: int, out: int) -> Tensor:
    """One unit for each group, with all that it reads and computes; the labels of the result, ``[outputs]``."""
    weight, why = call.args[1], f"{call.where} reads an axis that is not followed"
    outputs = weight.shape[out] * (groups if out else 1)
    units = channels.reshape(groups, -1)
    leading = flow.row(weight, 0, why).reshape(groups, -1)
    flow.classes.unite(units[:, :1], units, why)
    flow.classes.unite(units[:, :1], leading, why)
    flow.classes.freeze(flow.row(weight, 1, why), f"{call.where} reads as many channels in each group")
    return leading[:, :1].expand(groups, outputs // groups).reshape(-1)


def embedding(flow: Flow, call: Call) -> Value:
    """``embedding(weight, index)``: rows are looked up by number and stay; columns are units."""
    weight = call.x
    flow.classes.freeze(flow.row(weight, 0, call.where), f"{call.where} looks rows up by number")
    flow.produce(weight, 1)
    units, lead = flow.row(weight, 1, call.where), [1] * (len(call.shape) - 1)
    layers = (units.reshape([*lead, -1]),) if len(units) > 1 else ()
    return unpinned(flow, call, layers, read(flow, weight, 1).reshape([*lead, -1]))


def batch_norm(flow: Flow, call: Call) -> Value:
    """``batch_norm``, ``instance_norm``: a gain, a shift and two statistics for each unit of the second axis."""
    rank = len(call.shape)
    silent, given = read(flow, call.x, 1) == 0, [value if isinstance(value, Value) else None for value in (call.args[1:5] + [None] * 4)[:4]]
    vectors = [flow.vector(value, neutral, silent) for value, neutral in zip(given[:2], (1.0, 0.0), strict=True)]
    statistics = [None if value is None else value.along(1, rank) for value in (*vectors, *given[2:])]
    layers = join(flow.classes, [call.x, *[value for value in statistics if value is not None]], call.shape, call.where)
    x = replace(call.x, layers=layers)
    for axis in set(range(rank)) - {1}:
        x = flow.pin(x, axis, f"{call.where} normalises over units")  # in training at least
    gain, shift, mean, variance = (
        torch.full((1,) * rank, default, dtype=torch.float64) if value is None else value.known
        for value, default in zip(statistics, (1.0, 0.0, UNKNOWN, UNKNOWN), strict=True)
    )
    epsilon = call.arg(7, "eps", 1e-5)
    known = (call.x.constants - mean) / torch.sqrt(variance + epsilon) * gain + shift
    if flow.training:  # of a constant the batch's mean leaves nothing
        known = torch.where(torch.isclose(known, shift, rtol=AGREES, atol=AGREES), known, UNKNOWN)
    if call.node.operation == "instance_norm" or flow.leading:
        known = torch.where(call.x.constants == 0, shift, UNKNOWN)
    return unpinned(flow, call, x.layers, torch.where(gain == 0, shift, known))


def group_norm(flow: Flow, call: Call) -> Value:
    """``group_norm``: whole groups go."""
    rank, groups = len(call.shape), call.arg(1, "num_groups")
    silent = (read(flow, call.x, 1) == 0).reshape(groups, -1).all(1, keepdim=True).expand(groups, call.shape[1] // groups).reshape(-1)
    gain, shift = (
        None if value is None else value.along(1, rank)
        for value in (flow.vector(call.arg(2, "weight"), 1.0, silent), flow.vector(call.arg(3, "bias"), 0.0, silent))
    )
    layers = join(flow.classes, [call.x, *[value for value in (gain, shift) if value is not None]], call.shape, call.where)
    x = replace(call.x, layers=layers)
    for axis in range(2, rank):
        x = flow.pin(x, axis, f"{call.where} normalises over units")
    units = flow.row(x, 1, call.where).reshape(groups, -1)
    flow.classes.unite(units[:, :1], units, f"{call.where} normalises over units")
    if gain is None and groups < call.shape[1]:
        flow.classes.freeze(units, f"{call.where} has no weights that would tell how many groups are left")
    zero = silent.reshape([1, -1] + [1] * (rank - 2))
    zero = zero | (gain.known == 0) if gain is not None else zero
    constant = shift.known if shift is not None else torch.zeros((1,) * rank, dtype=torch.float64)
    return unpinned(flow, call, x.layers, torch.where(zero, constant, UNKNOWN))


def layer_norm(flow: Flow, call: Call) -> Value:
    """``layer_norm``, ``rms_norm``: the axes that are normalised over, and their gains and shifts, stay."""
    why, value = f"{call.where} normalises over units", call.x
    for axis in range(1, len(call.arg(1, "normalized_shape")) + 1):
        value = flow.pin(value, -axis, why)
    for other in call.values()[1:]:
        flow.freeze(other, why)
    return unpinned(flow, call, value.layers)


def slopes(flow: Flow, call: Call) -> Value:
    """``prelu``: a slope for each unit of the second axis, or one for all."""
    weight = call.args[1]
    spread = weight.along(1, len(call.shape)) if weight.shape[0] > 1 else weight
    layers = join(flow.classes, [call.x, spread], call.shape, call.where)
    return unpinned(flow, call, layers, torch.where(call.x.constants == 0, 0.0, UNKNOWN))


LAYERS: Mapping[str, Rule] = {
    **table(linear, "linear"),
    **table(matmul, "matmul mm bmm"),
    **table(addmm, "addmm"),
    **table(attention, "scaled_dot_product_attention"),
    **{f"conv{axes}d": convolution(axes) for axes in (1, 2, 3)},
    **{f"conv_transpose{axes}d": convolution(axes, transposed=True) for axes in (1, 2, 3)},
    **table(embedding, "embedding"),
    **table(batch_norm, "batch_norm instance_norm"),
    **table(group_norm, "group_norm"),
    **table(layer_norm, "layer_norm rms_norm"),
    **table(slopes, "prelu"),
}

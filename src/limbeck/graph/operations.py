"""How labels and constants pass through operations that have no weights: moves, elementwise ones, reductions, pooling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from limbeck.graph.flow import Call, Flow, moved, relabelled
from limbeck.graph.labels import FIXED, UNKNOWN, Value, broadcast, join, squeezed, uniform, varying

Rule = Callable[[Flow, Call], Any]


def same(flow: Flow, call: Call) -> Value:
    """Its input; numbers that are rounded are not followed."""
    unknown = torch.tensor(UNKNOWN, dtype=torch.float64)
    return call.x if call.node.floating == call.x.floating else replace(call.x, floating=call.node.floating, known=unknown)


def unpinned(flow: Flow, call: Call, layers: tuple[Tensor, ...], known: Tensor | None = None) -> Value:
    """The first result with these layers, and nothing known where nothing is given."""
    return Value(call.shape, layers, torch.tensor(UNKNOWN, dtype=torch.float64) if known is None else known, call.node.floating)


def elementwise(flow: Flow, call: Call) -> Value:
    """Units that meet are one unit; constants are computed."""
    values = call.values()
    if not values or any(len(value.shape) > len(call.shape) for value in values):
        held: Value = unfollowed(flow, call)
        return held
    layers = join(flow.classes, values, call.shape, call.where)
    return unpinned(flow, call, layers, _computed(call, values))


def _computed(call: Call, values: Sequence[Value]) -> Tensor | None:
    """What is constant in an elementwise result."""
    name = call.node.operation.removesuffix("_")
    if not call.node.floating or uniform(values):
        return None
    constants = broadcast(*[value.aligned(len(call.shape)).constants for value in values])
    if name == "where" and len(values) == 3:
        return squeezed(torch.where(constants[1] == constants[2], constants[1], UNKNOWN))
    if name == "masked_fill":
        return squeezed(torch.where(constants[0] == call.arg(2, "value"), constants[0], UNKNOWN))
    unknown = torch.stack([constant.isnan() for constant in constants]).any(0)
    given = iter(constants)
    result = _called(call, lambda _: next(given).nan_to_num(1.0).clone())
    if name == "mul":
        zero = torch.stack([constant == 0 for constant in constants]).any(0)
        return squeezed(torch.where(zero, 0.0, result.masked_fill(unknown, UNKNOWN)))
    return squeezed(result.masked_fill(unknown, UNKNOWN))


def _called(call: Call, replaced: Callable[[Value], Tensor]) -> Tensor:
    assert call.node.target is not None
    args = [replaced(arg) if isinstance(arg, Value) else arg for arg in call.args]
    kwargs = {key: replaced(arg) if isinstance(arg, Value) else arg for key, arg in call.kwargs.items()}
    result: Tensor = call.node.target(*args, **kwargs)
    return result.to(torch.float64)


def dropout(flow: Flow, call: Call) -> Value:
    """Zeros stay zero; other constants do not in training."""
    return call.x if not call.arg(2, "train", False) else replace(call.x, known=torch.where(call.x.known == 0, 0.0, UNKNOWN))


def overwrite(flow: Flow, call: Call) -> Value:
    """``copy_``: the units of both are one; the values are the second's."""
    layers = join(flow.classes, call.values(), call.shape, call.where)
    return unpinned(flow, call, layers, call.args[1].aligned(len(call.shape)).constants)


def blank(flow: Flow, call: Call) -> Value:
    """A tensor made of nothing, or filled anew: its own sizes are its module's affair."""
    values, name = call.values(), call.node.operation
    number = 0.0 if "zero" in name else 1.0 if "ones" in name else UNKNOWN
    layers = values[0].layers if values and name.endswith(("_like", "_")) else ()
    return replace(unpinned(flow, call, layers, torch.tensor(number, dtype=torch.float64)), made=call.node.module)


NUMBERED = {"view", "reshape", "_unsafe_view", "unflatten", "expand", "repeat"}
"""Moves that are given sizes, which may be numbers in the model's code."""


def move(flow: Flow, call: Call) -> Any:
    """Elements that only change places: the operation is run on their labels and constants."""
    layers = [relabelled(call, layer, call.x.shape) for layer in call.x.layers]
    if call.node.operation in NUMBERED:
        for layer in call.x.layers:
            _assume(flow, call, layer)
    known = moved(call, call.x.constants, call.x.shape)
    if not isinstance(known, list):
        kept = tuple(layer for layer in layers if varying(layer))
        return _noted(flow, call, Value(call.shape, kept, known, call.x.floating, base=call.x.base))
    parts = []
    for index, part in enumerate(known):
        shape = call.node.shapes[index] or ()
        kept = tuple(layer[index] for layer in layers if varying(layer[index]))
        parts.append(_noted(flow, call, Value(shape, kept, part, call.x.floating, base=call.x.base)))
    return parts


def _noted(flow: Flow, call: Call, value: Value) -> Value:
    flow.joints.extend((layer, call.where) for layer in value.layers if len(varying(layer)) > 1)
    return value


def pick(flow: Flow, call: Call) -> Any:
    """``select``, ``unbind``: the positions along an axis are named by number, so that it must keep its length."""
    pinned = flow.pin(call.x, call.arg(1, "dim", 0), f"{call.where} picks units by number")
    return move(flow, replace(call, args=[pinned, *call.args[1:]]))


def repeat(flow: Flow, call: Call) -> Any:
    """``repeat_interleave`` by a number; by numbers that a tensor holds it is not followed."""
    return move(flow, call) if all(isinstance(argument, int) for argument in call.args[1:]) else unfollowed(flow, call)


def roll(flow: Flow, call: Call) -> Any:
    """``roll``: what goes round is so many positions, whichever they are, so that the axes must keep their lengths."""
    x = call.x
    for axis in call.arg(2, "dims", ()) or range(len(x.shape)):
        x = flow.pin(x, axis, f"{call.where} moves units by a number of places")
    return move(flow, replace(call, args=[x, *call.args[1:]]))


def shuffle(flow: Flow, call: Call) -> Any:
    """``channel_shuffle``: the groups lose the same units each."""
    groups = flow.row(call.x, 1, call.where).reshape(call.arg(1, "groups"), -1)
    flow.classes.unite(groups[:1], groups, call.where)
    return move(flow, call)


def cut(flow: Flow, call: Call) -> Any:
    """``chunk``, ``split``: parts of equal size lose the same units each; unequal ones must stay."""
    axis = call.arg(2, "dim", 0) % len(call.x.shape)
    parts = move(flow, call)
    sizes = {part.shape[axis] for part in parts}
    if any(axis in varying(layer) for layer in call.x.layers):
        if len(sizes) > 1:
            flow.pin(call.x, axis, f"{call.where} cuts into parts of unequal sizes")
        elif sizes == {1}:
            flow.pin(call.x, axis, f"{call.where} cuts units from each other")
        else:
            _alike(flow, call, parts, axis)
            if call.node.operation != "chunk":
                _assume(flow, call, flow.row(call.x, axis, call.where))
    return parts


def _alike(flow: Flow, call: Call, parts: Sequence[Value], axis: int) -> None:
    first = flow.row(parts[0], axis, call.where)
    for part in parts[1:]:
        flow.classes.unite(first, flow.row(part, axis, call.where), call.where)


def _assume(flow: Flow, call: Call, labels: Tensor) -> None:
    labels = labels.reshape(-1)
    flow.assumed[call.where] = torch.cat((flow.assumed.get(call.where, labels[:0]), labels))


def part(flow: Flow, call: Call) -> Value:
    """``slice``: one of several that cut an axis into equal parts, or a cut at a fixed place."""
    axis, size = call.arg(1, "dim", 0) % len(call.x.shape), 0
    size = call.x.shape[axis]
    value: Value = move(flow, call)
    if value.shape[axis] == size or not any(axis in varying(layer) for layer in call.x.layers):
        return value
    pieces = [_bounds(node.args, size) for node in flow.graph.nodes if node.operation == "slice" and node.args[:2] == call.node.args[:2]]
    pieces = sorted(set(pieces))
    length = pieces[0][1]
    if length and pieces == [(start, start + length, 1) for start in range(0, size, length)]:
        labels = flow.row(call.x, axis, call.where)
        start = _bounds(call.node.args, size)[0]
        flow.classes.unite(labels[:length], labels[start : start + length], call.where)
        _assume(flow, call, flow.row(call.x, axis, call.where))
        return value
    pinned = flow.pin(call.x, axis, f"{call.where} cuts at fixed places")
    result: Value = move(flow, replace(call, args=[pinned, *call.args[1:]]))
    return result


def _bounds(args: Sequence[Any], size: int) -> tuple[int, int, int]:
    start, end, step = slice(*(*args[2:5], None, None, None)[:3]).indices(size)
    return start, end, step


def concatenate(flow: Flow, call: Call) -> Value:
    """``cat``: the axis has the units of all, one after the other; along other axes they meet."""
    parts: list[Value] = [value for value in call.args[0] if len(value.shape) == len(call.shape)]
    axis = call.arg(1, "dim", 0) % len(call.shape)
    rows = [_axis_layer(flow, value, axis, call.where) for value in parts]
    layers = []
    if any(bool((row != FIXED).any()) for row in rows):
        grid = [max(sizes) for sizes in zip(*[_one(row.shape, axis) for row in rows], strict=True)]
        layers.append(torch.cat([row.expand(*grid[:axis], row.shape[axis], *grid[axis + 1 :]) for row in rows], axis))
        flow.joints.extend((layer, call.where) for layer in layers if len(varying(layer)) > 1)
    thin = [replace(value, layers=flow.rest(value, axis), shape=_one(value.shape, axis)) for value in parts]
    layers.extend(join(flow.classes, thin, _one(call.shape, axis), call.where))
    known = torch.cat([value.constants.expand(value.shape) for value in parts], axis)
    return unpinned(flow, call, tuple(layers), squeezed(known))


def _axis_layer(flow: Flow, value: Value, axis: int, why: str) -> Tensor:
    layers = [layer for layer in value.layers if axis in varying(layer)] or [torch.full((1,) * len(value.shape), FIXED)]
    for other in layers[1:]:
        flow.classes.unite(layers[0], other, why)
    return layers[0].expand([size if other == axis else -1 for other, size in enumerate(value.shape)])


def _one(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return tuple(1 if other == axis else size for other, size in enumerate(shape))


def stack(flow: Flow, call: Call) -> Value:
    """``stack``: a new axis, along the others units meet."""
    axis = call.arg(1, "dim", 0) % len(call.shape)
    parts = [
        replace(value, shape=_with_one(value.shape, axis), layers=tuple(layer.unsqueeze(axis) for layer in value.layers))
        for value in call.args[0]
    ]
    parts = [replace(value, known=torch.tensor(UNKNOWN, dtype=torch.float64)) for value in parts]
    known = torch.stack([value.constants.expand(value.shape) for value in call.args[0]], axis)
    return unpinned(flow, call, join(flow.classes, parts, _one(call.shape, axis), call.where), squeezed(known))


def _with_one(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], 1, *shape[axis:])


def unfollowed(flow: Flow, call: Call) -> Any:
    """An operation without a rule: what reaches it must stay."""
    for value in call.values():
        flow.freeze(value, f"{call.where} is not followed")
    results = [None if shape is None else Value(shape) for shape in call.node.shapes]
    return results if len(results) > 1 else results[0]


def table(rule: Rule, names: str) -> dict[str, Rule]:
    """One rule for several operations."""
    return dict.fromkeys(names.split(), rule)


SHARING = (same, dropout, overwrite, move, pick, roll, shuffle, cut, part)
"""Rules of operations whose result may share the memory of their first argument."""

OPERATIONS: Mapping[str, Rule] = {
    **table(same, "contiguous detach detach_ alias to _to_copy type_as float double half bfloat16 lift_fresh lift_fresh_copy"),
    **table(dropout, "dropout dropout_ feature_dropout feature_dropout_ alpha_dropout feature_alpha_dropout"),
    **table(elementwise, "hardswish hardswish_"),
    **table(overwrite, "copy_"),
    **table(blank, "zeros ones full empty arange rand randn new_zeros new_ones new_full new_empty scalar_tensor"),
    **table(blank, "zeros_like ones_like full_like empty_like rand_like randn_like fill_ zero_"),
    **table(move, "view reshape _unsafe_view flatten unflatten permute transpose t numpy_T mT squeeze unsqueeze expand repeat flip"),
    **table(move, "view_as reshape_as expand_as"),
    **table(repeat, "repeat_interleave"),
    **table(roll, "roll"),
    **table(shuffle, "channel_shuffle native_channel_shuffle"),
    **table(move, "movedim moveaxis swapaxes swapdims pixel_shuffle pixel_unshuffle"),
    **table(pick, "select unbind"),
    **table(cut, "chunk split split_with_sizes tensor_split"),
    **table(part, "slice"),
    **table(concatenate, "cat concat concatenate"),
    **table(stack, "stack"),
}

"""What runs through a graph: the value of every node, the classes of labels, and who reads which unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from limbeck.graph.capture import Graph, Node, Ref, Stored
from limbeck.graph.labels import FIXED, UNKNOWN, Classes, Value, squeezed, varying


@dataclass(frozen=True)
class Use:
    """A place where units are summed up: removing one is exact where it is zero, or weighs nothing in all rows that remain."""

    where: str
    labels: Tensor
    """``[inputs]``."""
    incoming: Tensor
    """bool ``[inputs]``: whether the unit's value may be other than zero."""
    weighs: Tensor
    """bool ``[rows, inputs]``."""
    rows: Tensor
    """``[rows]``: the units that the rows compute; ``FIXED`` for what always remains."""


@dataclass(frozen=True)
class Vector:
    """A bias, or the scale or shift of a norm, and which of its positions belong to units that compute nothing."""

    name: str
    silent: Tensor
    """bool ``[size]``."""


class Flow:
    """The state of one propagation through a graph.

    ``settled`` gives the classes that an earlier propagation found, so that only constants are followed. ``leading`` takes vectors of which nothing
    is known to be such that they change nothing where a unit is zero: as they are when they follow it. ``training`` knows a constant only where
    the model in training computes the same: a batch norm then takes the statistics of the batch.
    """

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, Tensor],
        settled: Mapping[tuple[str, int], Tensor] | None = None,
        leading: bool = False,
        training: bool = False,
    ) -> None:
        self.graph = graph
        self.leading = leading
        self.training = training
        self.classes = Classes(settled is not None)
        self._settled = settled or {}
        self.vectors: list[Vector] = []
        self.values: dict[str, Any] = {}
        self.uses: list[Use] = []
        self.joints: list[tuple[Tensor, str]] = []
        """Layers that vary along several axes, each of which must stay a grid when units go."""
        self.produced: dict[tuple[str, int], None] = {}
        """The axes of parameters that compute units, as opposed to reading them."""
        self.assumed: dict[str, Tensor] = {}
        """Operations whose numbers are taken to follow the sizes of their input, with the labels that rely on it."""
        self.stored: dict[str, Value] = {}
        self.axes: dict[tuple[str, int], Tensor] = {}
        for stored in graph.tensors.values():
            self.stored[stored.name] = self._labelled(stored, tensors)

    def _labelled(self, stored: Stored, tensors: Mapping[str, Tensor]) -> Value:
        layers = []
        for axis, size in enumerate(stored.shape):
            labels = self._settled[stored.name, axis] if self.classes.settled else self.classes.fresh(size)
            self.axes[stored.name, axis] = labels
            if size > 1:
                layers.append(labels.reshape([size if other == axis else 1 for other in range(len(stored.shape))]))
        given = next((tensors[name] for name in (stored.name, *stored.aliases) if name in tensors), None)
        known = torch.full((1,) * len(stored.shape), UNKNOWN, dtype=torch.float64)
        if given is not None:
            known = given.detach().to(
                "cpu", torch.float32 if given.dim() > 1 else torch.float64
            )  # weights are many, and held against 0 alone
            known = known.masked_fill(given.cpu(), UNKNOWN) if given.dtype == torch.bool else known
        return Value(stored.shape, tuple(layers), known, stored=stored.name)

    def pin(self, value: Value, axis: int, why: str) -> Value:
        """An axis that must keep its length: rows of a grid of units become one unit each, a plain row of units is frozen."""
        axis %= len(value.shape)
        layers = []
        for layer in value.layers:
            if axis in varying(layer):
                if len(varying(layer)) > 1:
                    self.classes.unite_along(layer, axis, why)
                    layers.append(layer.narrow(axis, 0, 1))
                else:
                    self.classes.freeze(layer, why)
            else:
                layers.append(layer)
        return replace(value, layers=tuple(layers))

    def row(self, value: Value, axis: int, why: str) -> Tensor:
        """The labels along an axis, ``[size]``; ``FIXED`` where it has none. Units that spread over other axes too become one for each place."""
        axis %= len(value.shape)
        rows = []
        for layer in value.layers:
            if axis in varying(layer):
                for other in varying(layer) - {axis}:
                    self.classes.unite_along(layer, other, why)
                    layer = layer.narrow(other, 0, 1)  # noqa: PLW2901  # one unit for each place
                rows.append(layer.reshape(-1))
        for row in rows[1:]:
            self.classes.unite(rows[0], row, why)
        return rows[0] if rows else torch.full((value.shape[axis],), FIXED)

    def rest(self, value: Value, axis: int) -> tuple[Tensor, ...]:
        """The layers that do not vary along an axis."""
        axis %= len(value.shape)
        return tuple(layer for layer in value.layers if axis not in varying(layer))

    def freeze(self, value: Value, why: str) -> None:
        """All units of a value must stay."""
        for layer in value.layers:
            self.classes.freeze(layer, why)

    def vector(self, value: Value | None, neutral: float, silent: Tensor) -> Value | None:
        """A vector as an operation uses it, ``[size]``; ``silent`` says at which positions it is given nothing but zero."""
        if value is None:
            return None
        if value.stored:
            self.vectors.append(Vector(value.stored, silent.expand(value.shape)))
        return self.led(value, neutral)

    def led(self, value: Value, neutral: float) -> Value:
        """A vector; where vectors follow units, what is not known of it changes nothing."""
        return replace(value, known=value.known.masked_fill(value.known.isnan(), neutral)) if self.leading else value

    def produce(self, value: Value, axis: int) -> None:
        """Note that the units along an axis of a parameter are computed by it."""
        if value.stored:
            self.produced[value.stored, axis] = None


def read(flow: Flow, value: Value, axis: int) -> Tensor:
    """What is known along an axis, ``[size]``: NaN where it varies along others too."""
    axis %= len(value.shape)
    known = value.constants
    for other in range(known.dim()):
        if other != axis and known.shape[other] > 1:
            head = known.narrow(other, 0, 1)
            known = torch.where((known == head).all(other, keepdim=True), head, UNKNOWN)
    return known.reshape(-1).expand(value.shape[axis])


def lookup(flow: Flow, argument: Any) -> Any:
    """An argument with the values of the nodes that it names."""
    if isinstance(argument, Ref):
        return flow.values.get(argument.name)
    if isinstance(argument, (list, tuple)):
        return [lookup(flow, item) for item in argument]
    return argument


@dataclass(frozen=True)
class Call:
    """One operation with its arguments looked up."""

    node: Node
    args: list[Any]
    kwargs: Mapping[str, Any]

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """An argument, by its place or its name."""
        return self.args[index] if index < len(self.args) else self.kwargs.get(name, default)

    @property
    def x(self) -> Value:
        """The first argument."""
        value: Value = self.args[0]
        return value

    @property
    def where(self) -> str:
        """For messages."""
        return self.node.where

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first result."""
        return self.node.shapes[0] or ()

    def values(self) -> list[Value]:
        """All tensors among the arguments, those in lists too."""
        return list(_values([*self.args, *self.kwargs.values()]))


def _values(arguments: Any) -> Any:
    for argument in arguments:
        if isinstance(argument, Value):
            yield argument
        elif isinstance(argument, list):
            yield from _values(argument)


SHAPED = {"view": "reshape", "_unsafe_view": "reshape", "view_as": "reshape", "reshape_as": "reshape", "expand_as": "expand"}
"""Moves that are run as another: a view asks for a layout that labels need not have, and one like another tensor for its shape alone."""


def moved(call: Call, tensor: Tensor, shape: tuple[int, ...]) -> Any:
    """The operation run on labels or constants in place of the tensor."""
    assert call.node.target is not None
    full = tensor.reshape((1,) * (len(shape) - tensor.dim()) + tuple(tensor.shape)).expand(shape)
    name = call.node.operation
    found = getattr(full, SHAPED[name])(call.shape) if name in SHAPED else call.node.target(full, *call.args[1:], **call.kwargs)
    return [squeezed(part) for part in found] if isinstance(found, (list, tuple)) else squeezed(found)


def relabelled(call: Call, layer: Tensor, shape: tuple[int, ...]) -> Any:
    """A layer after the operation; an axis keeps its labels though they be all the same, as those of a group are."""
    found, labels = moved(call, torch.arange(layer.numel()).reshape(layer.shape), shape), layer.reshape(-1)
    return [labels[places] for places in found] if isinstance(found, list) else labels[found]

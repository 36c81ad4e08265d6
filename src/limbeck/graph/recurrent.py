"""How units pass through recurrent layers: all gates, the next layer, both directions and a projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.graph.flow import Call, Flow, Use, read
from limbeck.graph.labels import FIXED, UNKNOWN, Value
from limbeck.graph.operations import Rule

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
CANDIDATE = {"lstm": 2, "gru": 2, "rnn_tanh": 0, "rnn_relu": 0}
"""Which gate's rows (i, f, g, o or r, z, n) keep a unit at zero when they are zero and it starts there."""


@dataclass(frozen=True)
class Row:
    """A vector of units that is read: their labels, and whether each may be other than zero."""

    labels: Tensor
    incoming: Tensor

    def also(self, other: Row) -> Row:
        """One vector after the other."""
        return Row(torch.cat((self.labels, other.labels)), torch.cat((self.incoming, other.incoming)))


@dataclass(frozen=True)
class Cell:
    """The weights of one layer in one direction: ``[gates * hidden, inputs]``, ``[gates * hidden, outputs]``, ``[outputs, hidden]``."""

    kind: str
    into: Value
    back: Value
    biases: Sequence[Value]
    projection: Value | None = None

    def gates(self, rows: Tensor) -> Tensor:
        """``[gates * hidden, ..] -> [gates, hidden, ..]``."""
        return rows.reshape(GATES[self.kind], -1, *rows.shape[1:])


def run(flow: Flow, call: Call, cell: Cell, x: Row, starts: Tensor) -> tuple[Row, Row]:
    """What a cell puts out, and its own units: the same unless it projects. ``starts`` ``[hidden]``: whether a state may begin at other than zero."""
    why = f"{call.where} reads an axis that is not followed"
    units = cell.gates(flow.row(cell.into, 0, why))[0]
    for weight in (cell.into, cell.back, *cell.biases):
        flow.classes.unite(units, cell.gates(flow.row(weight, 0, why)), why)
        flow.produce(weight, 0)
    outputs = units if cell.projection is None else flow.row(cell.projection, 0, why)
    columns, back = flow.row(cell.into, 1, why), flow.row(cell.back, 1, why)
    flow.classes.unite(columns, x.labels, why)
    flow.classes.unite(back, outputs, why)
    weighs_in, weighs_back = (_weighs(weight) for weight in (cell.into, cell.back))
    driven = starts | (cell.gates(weighs_in)[CANDIDATE[cell.kind]] & x.incoming).any(1)
    for bias in cell.biases:
        driven = driven | cell.gates(_weighs(flow.led(bias, 0.0)))[CANDIDATE[cell.kind]]
    alive, put_out = _reached(cell, driven, weighs_back)
    for bias in cell.biases:
        flow.vector(bias, 0.0, ~alive.repeat(GATES[cell.kind]))
    flow.uses.append(Use(call.where, columns, x.incoming, weighs_in, units.repeat(GATES[cell.kind])))
    flow.uses.append(Use(call.where, back, put_out, weighs_back, units.repeat(GATES[cell.kind])))
    if cell.projection is not None:
        flow.produce(cell.projection, 0)
        inner = flow.row(cell.projection, 1, why)
        flow.classes.unite(inner, units, why)
        flow.uses.append(Use(call.where, inner, alive, _weighs(cell.projection), outputs))
    return Row(outputs, put_out), Row(units, alive)


def _weighs(weight: Value) -> Tensor:
    return ~(weight.known.expand(weight.shape) == 0)


def _reached(cell: Cell, driven: Tensor, weighs_back: Tensor) -> tuple[Tensor, Tensor]:
    """Which units leave zero at some step, and which outputs: those that are driven, and those that read one of these."""
    alive = driven
    while True:
        put_out = alive if cell.projection is None else (_weighs(cell.projection) & alive).any(1)
        more = alive | (cell.gates(weighs_back)[CANDIDATE[cell.kind]] & put_out).any(1)
        if bool((more == alive).all()):
            return alive, put_out
        alive = more


def layered(kind: str) -> Rule:
    """``lstm``, ``gru``, ``rnn_tanh``, ``rnn_relu`` over a sequence, padded or packed.

    A module has one width for all its layers and directions, so that the same units go in each.
    """

    def rule(flow: Flow, call: Call) -> list[Value]:
        packed = isinstance(call.args[3], list)  # the sizes of the batch come second then
        args = [call.args[0], *call.args[2:]] if packed else list(call.args)
        states, weights, biased, count = _listed(args[1]), args[2], args[3], args[4]
        directions = 2 if args[7] else 1
        cells = _cells(kind, weights, bool(biased), count * directions)
        x = Row(flow.row(args[0], -1, call.where), ~(read(flow, args[0], -1) == 0))
        starts = _starts(cells[0], states)
        first: tuple[Row, Row] | None = None
        last: list[tuple[Tensor, Tensor]] = []
        for layer in range(count):
            found = [run(flow, call, cell, x, starts) for cell in cells[layer * directions : (layer + 1) * directions]]
            for out, own in found:
                first = first or (out, own)
                flow.classes.unite(first[0].labels, out.labels, call.where)
                flow.classes.unite(first[1].labels, own.labels, call.where)
                last.append((out.incoming, own.incoming))
            x = found[0][0] if directions == 1 else found[0][0].also(found[1][0])
        assert first is not None
        for state, row in zip(states, first, strict=False):
            _start(flow, call, state, row)
        hidden, inner = (torch.stack(incoming) for incoming in zip(*last, strict=True))
        rows = [(x.labels, x.incoming), (first[0].labels, hidden), (first[1].labels, inner)]
        return [_value(call, index, labels, incoming) for index, (labels, incoming) in enumerate(rows[: len(call.node.shapes)])]

    return rule


def single(kind: str) -> Rule:
    """``lstm_cell``, ``gru_cell``, ``rnn_tanh_cell``, ``rnn_relu_cell``."""

    def rule(flow: Flow, call: Call) -> list[Value] | Value:
        states = _listed(call.args[1])
        cell = Cell(kind, call.args[2], call.args[3], [value for value in call.args[4:6] if isinstance(value, Value)])
        x = Row(flow.row(call.args[0], -1, call.where), ~(read(flow, call.args[0], -1) == 0))
        out, own = run(flow, call, cell, x, _starts(cell, states))
        for state in states:
            _start(flow, call, state, own)
        values = [_value(call, index, own.labels, out.incoming) for index in range(len(call.node.shapes))]
        return values if len(values) > 1 else values[0]

    return rule


def _listed(state: Any) -> list[Value]:
    return list(state) if isinstance(state, list) else [state]


def _cells(kind: str, weights: Sequence[Value], biased: bool, count: int) -> list[Cell]:
    each = len(weights) // count
    cells = []
    for index in range(count):
        into, back, *others = weights[index * each : (index + 1) * each]
        biases = others[:2] if biased else []
        cells.append(Cell(kind, into, back, biases, others[len(biases)] if len(others) > len(biases) else None))
    return cells


def _starts(cell: Cell, states: Sequence[Value]) -> Tensor:
    """``[hidden]``: whether the state may begin at other than zero. A state that is known of unit by unit has a unit's own answer."""
    hidden = cell.into.shape[0] // GATES[cell.kind]
    starts = torch.zeros(hidden, dtype=torch.bool)
    for state in states:
        zero = (state.constants == 0).reshape(-1, state.constants.shape[-1]).all(0)
        starts = starts | ~(zero.expand(hidden) if len(zero) in {1, hidden} else zero.all().expand(hidden))
    return starts


def _start(flow: Flow, call: Call, state: Value, row: Row) -> None:
    """The state that a recurrence begins with has the same units, unless the module itself made it of nothing."""
    if state.made != call.node.module:
        labels = flow.row(state, -1, call.where)
        flow.classes.unite(labels, row.labels, f"{call.where} begins with a state of a given width")


def _value(call: Call, index: int, labels: Tensor, incoming: Tensor) -> Value:
    """A result whose last axis has these labels; ``incoming`` ``[units]``, or ``[layers * directions, units]`` for one with an axis of them first."""
    shape = call.node.shapes[index] or ()
    spread = [1] * (len(shape) - 1) + [-1]
    first = len(incoming) if incoming.dim() > 1 else 1
    known = torch.where(incoming, UNKNOWN, 0.0).to(torch.float64).reshape([first, *spread[1:]] if len(shape) > 1 else spread)
    layers = (labels.reshape(spread),) if len(labels) > 1 and bool((labels != FIXED).any()) else ()
    return Value(shape, layers, known)


RECURRENT: Mapping[str, Rule] = {**{kind: layered(kind) for kind in GATES}, **{f"{kind}_cell": single(kind) for kind in GATES}}

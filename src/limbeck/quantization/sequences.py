"""Sequences as rows: padded, packed, batch first or not, all as one matrix whose rows stand step by step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from limbeck.quantization.cells import ModularCell, State

Sequences = Tensor | PackedSequence


@dataclass(frozen=True)
class Rows:
    """A batch of sequences: the rows of step 0, then those of step 1, and so on, longer sequences first.

    It is what a ``PackedSequence`` holds. Layers that know nothing of time take all rows at once.
    """

    data: Tensor
    """``[rows, features]``."""
    sizes: tuple[int, ...]
    """How many rows each step has; none has more than the step before."""
    like: Sequences
    """What the rows were read from."""
    batch_first: bool

    @property
    def batch(self) -> int:
        """How many sequences there are."""
        return self.sizes[0]

    @property
    def unbatched(self) -> bool:
        """Whether they were read from one sequence without an axis for more."""
        return isinstance(self.like, Tensor) and self.like.dim() == 2

    def back(self, data: Tensor) -> Sequences:
        """Other rows of the same steps in the form that these were read from."""
        if isinstance(self.like, PackedSequence):
            return PackedSequence(data, self.like.batch_sizes, self.like.sorted_indices, self.like.unsorted_indices)
        if self.unbatched:
            return data
        steps = data.reshape(len(self.sizes), self.batch, -1)
        return steps.transpose(0, 1) if self.batch_first else steps

    def sorted(self, state: Tensor) -> Tensor:
        """``[layers, batch, units]``, or without the batch's axis for one sequence, in the order of the rows."""
        if self.unbatched:
            return state.unsqueeze(1)
        if isinstance(self.like, PackedSequence) and self.like.sorted_indices is not None:
            return state.index_select(1, self.like.sorted_indices)
        return state

    def unsorted(self, state: Tensor) -> Tensor:
        """The inverse of ``sorted``."""
        if self.unbatched:
            return state.squeeze(1)
        if isinstance(self.like, PackedSequence) and self.like.unsorted_indices is not None:
            return state.index_select(1, self.like.unsorted_indices)
        return state


def as_rows(sequences: Sequences, features: int, batch_first: bool) -> Rows:
    """A padded tensor ``[time, batch, features]``, ``[batch, time, features]``, ``[time, features]``, or a packed sequence, as rows.

    >>> as_rows(torch.zeros(5, 2, 3), 3, batch_first=False).sizes, as_rows(torch.zeros(5, 2, 3), 3, batch_first=True).sizes
    ((2, 2, 2, 2, 2), (5, 5))

    Raises ``ValueError`` for other shapes, and for sequences of no steps.
    """
    data = sequences.data if isinstance(sequences, PackedSequence) else sequences
    wanted, form = (2, 2), "a packed sequence"
    if isinstance(sequences, Tensor):
        wanted, form = (
            (2, 3),
            "[batch, time, features] or [time, features]" if batch_first else "[time, batch, features] or [time, features]",
        )
    if data.dim() not in wanted or data.shape[-1] != features:
        raise ValueError(f"the input is {form} with {features} features, not of shape {tuple(data.shape)}")
    if isinstance(sequences, PackedSequence):
        return Rows(data, tuple(sequences.batch_sizes.tolist()), sequences, batch_first)
    steps = data.unsqueeze(1) if data.dim() == 2 else data.transpose(0, 1) if batch_first else data
    if not steps.numel():
        raise ValueError(f"the input has no steps: its shape is {tuple(data.shape)}; give at least one step of one sequence")
    return Rows(steps.reshape(-1, features), (steps.shape[1],) * steps.shape[0], sequences, batch_first)


def run(cell: ModularCell, rows: Tensor, sizes: tuple[int, ...], start: State, backward: bool) -> tuple[Tensor, State]:
    """One cell over all steps: its outputs, row by row, and each sequence's last state ``[batch, units]``.

    What the cell computes of its input alone is computed once for all rows. The backward direction begins where each sequence ends.
    """
    gates = cell.fc_gate_x(rows).split_with_sizes(sizes)
    return _backward(cell, gates, start) if backward else _forward(cell, gates, start)


def _forward(cell: ModularCell, gates: tuple[Tensor, ...], state: State) -> tuple[Tensor, State]:
    outputs: list[Tensor] = []
    ended: list[State] = []  # of the sequences that are shorter than the longest, the longer ones last
    for step in gates:
        running = len(step)
        if running < len(state[0]):
            ended.append(tuple(part[running:] for part in state))
            state = tuple(part[:running] for part in state)
        state = cell.step(step, state)
        outputs.append(state[0])
    last = tuple(torch.cat(parts) for parts in zip(state, *reversed(ended), strict=True)) if ended else state
    return torch.cat(outputs), last


def _backward(cell: ModularCell, gates: tuple[Tensor, ...], start: State) -> tuple[Tensor, State]:
    outputs: list[Tensor] = []
    state = tuple(part[: len(gates[-1])] for part in start)
    for step in reversed(gates):
        running = len(state[0])
        if running < len(step):
            state = tuple(torch.cat((part, first[running : len(step)])) for part, first in zip(state, start, strict=True))
        state = cell.step(step, state)
        outputs.append(state[0])
    return torch.cat(outputs[::-1]), state

"""Recurrent layers of named parts, in place of ``torch.nn``'s: every operation inside is a module that can be looked at, replaced and quantized."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import did_you_mean
from limbeck.quantization.cells import ModularCell, ModularGRUCell, ModularLSTMCell, ModularRNNCell, State
from limbeck.quantization.eltwise import Concat
from limbeck.quantization.sequences import Rows, Sequences, as_rows, run

CELLS: Mapping[str, Callable[..., ModularCell]] = {
    "LSTM": ModularLSTMCell,
    "GRU": ModularGRUCell,
    "RNN_TANH": ModularRNNCell,
    "RNN_RELU": partial(ModularRNNCell, nonlinearity="relu"),
}
"""By ``mode``, as ``torch.nn.RNNBase`` calls it, the cell of a layer."""


@dataclass(frozen=True)
class Layout:
    """What a recurrent module is made of: the arguments of ``torch.nn.LSTM``, ``GRU`` and ``RNN``, with their defaults.

    >>> Layout("LSTM", 8, 16, num_layers=2, bidirectional=True).inputs(1)
    32

    Raises ``ValueError`` for an unknown mode, for sizes below 1, and for a projection of anything but an LSTM.
    """

    mode: str
    """``LSTM``, ``GRU``, ``RNN_TANH`` or ``RNN_RELU``."""
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    """The probability that an output of a layer, but the last one, is zero in training."""
    bidirectional: bool = False
    proj_size: int = 0
    """The width that an LSTM's outputs are projected to; 0 where they are not."""

    def __post_init__(self) -> None:
        if self.mode not in CELLS:
            raise ValueError(
                f"no recurrent module has the mode '{self.mode}'{did_you_mean(self.mode, CELLS)}; the modes are {', '.join(CELLS)}"
            )
        for name in ("input_size", "hidden_size", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is 1 or more, not {getattr(self, name)}")
        if not 0 <= self.proj_size < self.hidden_size or (self.proj_size and self.mode != "LSTM"):
            raise ValueError(
                f"proj_size is for an LSTM, and below its hidden_size, not {self.proj_size} for {self.mode} of {self.hidden_size}"
            )

    @property
    def width(self) -> int:
        """How many outputs a layer has in one direction."""
        return self.proj_size or self.hidden_size

    @property
    def directions(self) -> int:
        """How many cells a layer has."""
        return 2 if self.bidirectional else 1

    @property
    def states(self) -> tuple[int, ...]:
        """The widths of what a step hands to the next: an LSTM has a cell's state besides its output."""
        return (self.width, self.hidden_size) if self.mode == "LSTM" else (self.width,)

    def inputs(self, layer: int) -> int:
        """How many features a layer reads."""
        return self.width * self.directions if layer else self.input_size

    def cells(self) -> nn.ModuleList:
        """A cell for each layer, in one direction."""
        more = {"proj_size": self.proj_size} if self.mode == "LSTM" else {}
        return nn.ModuleList(
            CELLS[self.mode](self.inputs(layer), self.hidden_size, bias=self.bias, **more) for layer in range(self.num_layers)
        )


class ModularRecurrent(nn.Module):
    """What ``torch.nn.LSTM``, ``GRU`` and ``RNN`` compute, out of modules: padded or packed sequences, one direction or both, any number of layers.

    The names are those of the ancestor: ``cells.0.fc_gate_x``, ``cells.0.act_f``; ``cells_reverse`` holds the backward direction, ``concat.0`` joins
    the two, and ``dropout`` stands between layers. It is called as ``torch.nn``'s module is, and gives the same.

    ``fc_gate_x`` sees all steps of all sequences at once, ``[rows, features]``, because no step waits for another there; all other parts see one step,
    ``[batch, units]``. Ranges that are known before, as those of a calibration, make no difference of it; a range that is
    measured on the fly is that of the whole sequence in ``fc_gate_x``.

    >>> rnn = ModularRecurrent(Layout("LSTM", 3, 4, num_layers=2))
    >>> output, (h, c) = rnn(torch.zeros(5, 2, 3))
    >>> tuple(output.shape), tuple(h.shape), type(rnn.cells[1].act_f).__name__
    ((5, 2, 4), (2, 2, 4), 'Sigmoid')
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.mode, self.bias, self.batch_first = layout.mode, layout.bias, layout.batch_first
        self.input_size, self.hidden_size, self.proj_size = layout.input_size, layout.hidden_size, layout.proj_size
        self.num_layers, self.bidirectional = layout.num_layers, layout.bidirectional
        self.cells = layout.cells()
        if layout.bidirectional:
            self.cells_reverse = layout.cells()
            self.concat = nn.ModuleList(Concat(-1) for _ in range(layout.num_layers))
        self.dropout = nn.Dropout(layout.dropout)

    def forward(self, input: Sequences, hx: Any = None) -> tuple[Sequences, Any]:  # noqa: A002  # as torch.nn calls it
        """The outputs in the form of the input, and the last states ``[layers * directions, batch, units]``, as ``torch.nn``'s module gives them.

        ``hx`` are the first states, zero where there are none: a pair for an LSTM, else one tensor.
        Raises ``ValueError`` for an input and for states of other shapes than ``torch.nn``'s module takes.
        """
        rows = as_rows(input, self.input_size, self.batch_first)
        starts = _starts(self.layout, hx, rows)
        data, last = rows.data, list[State]()
        for layer in range(self.num_layers):
            data = self.dropout(data) if layer else data
            outputs = []
            for backward, cell in enumerate(self._cells(layer)):
                output, state = run(cell, data, rows.sizes, next(starts), bool(backward))
                outputs.append(output)
                last.append(state)
            data = self.concat[layer](*outputs) if self.bidirectional else outputs[0]
        states = tuple(rows.unsorted(torch.stack(parts)) for parts in zip(*last, strict=True))
        return rows.back(data), states if self.mode == "LSTM" else states[0]

    def _cells(self, layer: int) -> list[Any]:
        return [self.cells[layer], self.cells_reverse[layer]] if self.bidirectional else [self.cells[layer]]

    def flatten_parameters(self) -> None:
        """Nothing: there is no one buffer of all weights here. Models call it on their recurrent modules."""

    def extra_repr(self) -> str:
        """What the module shows of itself."""
        default = Layout(self.mode, 1, 1)
        told = ("num_layers", "bias", "batch_first", "bidirectional", "proj_size")
        others = [f"{name}={getattr(self, name)}" for name in told if getattr(self, name) != getattr(default, name)]
        return ", ".join([self.mode, str(self.input_size), str(self.hidden_size), *others])


def _starts(layout: Layout, given: Any, rows: Rows) -> Iterator[State]:
    """The first state of each layer and direction, ``[batch, units]`` each."""
    count = layout.num_layers * layout.directions
    if given is None:
        zeros = tuple(rows.data.new_zeros(rows.batch, width) for width in layout.states)
        return iter([zeros] * count)
    parts = tuple(given) if layout.mode == "LSTM" else (given,)
    shapes = [(count, width) if rows.unbatched else (count, rows.batch, width) for width in layout.states]
    found = [tuple(part.shape) for part in parts if isinstance(part, Tensor)]
    if found != shapes:
        raise ValueError(f"the first states of {layout.mode} are of shape {_told(shapes)}, not {_told(found)}")
    return zip(*(rows.sorted(part) for part in parts), strict=True)


def _told(shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes)) or "none"

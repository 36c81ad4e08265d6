"""One step of a recurrent layer, taken apart: every operation is a module of its own, so that each can have its own precision.

Gates stand in torch's order and layout: ``fc_gate_x.weight`` is the ``weight_ih`` of ``torch.nn``, ``fc_gate_h.weight`` its ``weight_hh``, biases
alike. ``forward`` has the signature of ``torch.nn``'s cell. What does not depend on the step before, ``fc_gate_x``, is apart from ``step``, so that a
sequence may be taken through it at once.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.quantization.eltwise import EltwiseAdd, EltwiseMult, EltwiseSub

State = tuple[Tensor, ...]
"""What one step hands to the next, ``[batch, units]`` each: the output first, then the cell's own units where it has any."""


class ModularLSTMCell(nn.Module):
    r"""One step of an LSTM, as ``torch.nn.LSTMCell``, with the ancestor's names for its parts.

    ::

        i, f, g, o = eltwiseadd_gate(fc_gate_x(x), fc_gate_h(h))          each [.., hidden]
        c = eltwiseadd_cell(eltwisemult_cell_forget(act_f(f), c), eltwisemult_cell_input(act_i(i), act_g(g)))
        h = eltwisemult_hidden(act_o(o), act_h(c))                        and fc_project(h) where proj_size is not 0

    >>> cell = ModularLSTMCell(3, 4)
    >>> h, c = cell(torch.zeros(2, 3))
    >>> tuple(h.shape), tuple(cell.fc_gate_x.weight.shape)
    ((2, 4), (16, 3))
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, proj_size: int = 0) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        self.fc_gate_x = nn.Linear(input_size, 4 * hidden_size, bias)
        self.fc_gate_h = nn.Linear(proj_size or hidden_size, 4 * hidden_size, bias)
        self.eltwiseadd_gate = EltwiseAdd()
        self.act_f = nn.Sigmoid()
        self.act_i = nn.Sigmoid()
        self.act_o = nn.Sigmoid()
        self.act_g = nn.Tanh()
        self.eltwisemult_cell_forget = EltwiseMult()
        self.eltwisemult_cell_input = EltwiseMult()
        self.eltwiseadd_cell = EltwiseAdd()
        self.act_h = nn.Tanh()
        self.eltwisemult_hidden = EltwiseMult()
        self.fc_project = nn.Linear(hidden_size, proj_size, bias=False) if proj_size else None
        initialize(self, hidden_size)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, Tensor]:
        """``[.., inputs]`` and (output, cell), zero where there is none, to the next (output, cell)."""
        if state is None:
            output = x.new_zeros(*x.shape[:-1], self.fc_gate_h.in_features)
            state = output, x.new_zeros(*x.shape[:-1], self.hidden_size)
        return self.step(self.fc_gate_x(x), state)

    def step(self, gates: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """From ``fc_gate_x(x)`` and (output, cell) to the next (output, cell)."""
        output, cell = state
        i, f, g, o = self.eltwiseadd_gate(gates, self.fc_gate_h(output)).chunk(4, -1)
        kept = self.eltwisemult_cell_forget(self.act_f(f), cell)
        cell = self.eltwiseadd_cell(kept, self.eltwisemult_cell_input(self.act_i(i), self.act_g(g)))
        output = self.eltwisemult_hidden(self.act_o(o), self.act_h(cell))
        return output if self.fc_project is None else self.fc_project(output), cell


class ModularGRUCell(nn.Module):
    r"""One step of a GRU, as ``torch.nn.GRUCell``.

    ::

        x_r, x_z, x_n = fc_gate_x(x);  h_r, h_z, h_n = fc_gate_h(h)       each [.., hidden]
        r, z = eltwiseadd_gate([x_r x_z], [h_r h_z]), then act_r and act_z
        n = act_n(eltwiseadd_new(x_n, eltwisemult_reset(act_r(r), h_n)))
        h = eltwiseadd_hidden(n, eltwisemult_hidden(act_z(z), eltwisesub_hidden(h, n)))

    The last line is ``(1 - z) * n + z * h`` with one product less.

    >>> ModularGRUCell(3, 4)(torch.zeros(2, 3)).shape
    torch.Size([2, 4])
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        self.fc_gate_x = nn.Linear(input_size, 3 * hidden_size, bias)
        self.fc_gate_h = nn.Linear(hidden_size, 3 * hidden_size, bias)
        self.eltwiseadd_gate = EltwiseAdd()
        self.act_r = nn.Sigmoid()
        self.act_z = nn.Sigmoid()
        self.eltwisemult_reset = EltwiseMult()
        self.eltwiseadd_new = EltwiseAdd()
        self.act_n = nn.Tanh()
        self.eltwisesub_hidden = EltwiseSub()
        self.eltwisemult_hidden = EltwiseMult()
        self.eltwiseadd_hidden = EltwiseAdd()
        initialize(self, hidden_size)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        """``[.., inputs]`` and the hidden state, zero where there is none, to the next hidden state."""
        if state is None:
            state = x.new_zeros(*x.shape[:-1], self.hidden_size)
        return self.step(self.fc_gate_x(x), (state,))[0]

    def step(self, gates: Tensor, state: State) -> tuple[Tensor]:
        """From ``fc_gate_x(x)`` and the hidden state to the next hidden state."""
        (hidden,) = state
        sizes = [2 * self.hidden_size, self.hidden_size]
        x_gates, x_new = gates.split_with_sizes(sizes, -1)
        h_gates, h_new = self.fc_gate_h(hidden).split_with_sizes(sizes, -1)
        r, z = self.eltwiseadd_gate(x_gates, h_gates).chunk(2, -1)
        new = self.act_n(self.eltwiseadd_new(x_new, self.eltwisemult_reset(self.act_r(r), h_new)))
        return (self.eltwiseadd_hidden(new, self.eltwisemult_hidden(self.act_z(z), self.eltwisesub_hidden(hidden, new))),)


class ModularRNNCell(nn.Module):
    """One step of an Elman network, as ``torch.nn.RNNCell``: ``act_h(eltwiseadd_gate(fc_gate_x(x), fc_gate_h(h)))``.

    >>> ModularRNNCell(3, 4, nonlinearity="relu").act_h
    ReLU()

    Raises ``ValueError`` for another nonlinearity than ``tanh`` and ``relu``.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: Literal["tanh", "relu"] = "tanh") -> None:
        super().__init__()
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity is 'tanh' or 'relu', not '{nonlinearity}'")
        self.input_size, self.hidden_size, self.bias, self.nonlinearity = input_size, hidden_size, bias, nonlinearity
        self.fc_gate_x = nn.Linear(input_size, hidden_size, bias)
        self.fc_gate_h = nn.Linear(hidden_size, hidden_size, bias)
        self.eltwiseadd_gate = EltwiseAdd()
        self.act_h = nn.Tanh() if nonlinearity == "tanh" else nn.ReLU()
        initialize(self, hidden_size)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        """``[.., inputs]`` and the hidden state, zero where there is none, to the next hidden state."""
        if state is None:
            state = x.new_zeros(*x.shape[:-1], self.hidden_size)
        return self.step(self.fc_gate_x(x), (state,))[0]

    def step(self, gates: Tensor, state: State) -> tuple[Tensor]:
        """From ``fc_gate_x(x)`` and the hidden state to the next hidden state."""
        return (self.act_h(self.eltwiseadd_gate(gates, self.fc_gate_h(state[0]))),)


ModularCell = ModularLSTMCell | ModularGRUCell | ModularRNNCell


@torch.no_grad()
def initialize(cell: nn.Module, hidden_size: int) -> None:
    """Draw all parameters as ``torch.nn`` does, evenly from ``[-1/sqrt(hidden), 1/sqrt(hidden)]``."""
    bound = 1 / math.sqrt(hidden_size)
    for parameter in cell.parameters():
        parameter.uniform_(-bound, bound)

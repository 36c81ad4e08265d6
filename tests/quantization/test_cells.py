"""Single steps: against torch's cells, the formulas in float64, and one step by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from limbeck.quantization.cells import ModularGRUCell, ModularLSTMCell, ModularRNNCell
from limbeck.quantization.convert import from_torch, to_torch

LSTM_PARTS = [
    "fc_gate_x",
    "fc_gate_h",
    "eltwiseadd_gate",
    "act_f",
    "act_i",
    "act_o",
    "act_g",
    "eltwisemult_cell_forget",
    "eltwisemult_cell_input",
    "eltwiseadd_cell",
    "act_h",
    "eltwisemult_hidden",
]
"""The ancestor's names, facts 1.7."""
CELLS = [
    lambda bias: nn.LSTMCell(3, 4, bias),
    lambda bias: nn.GRUCell(3, 4, bias),
    lambda bias: nn.RNNCell(3, 4, bias),
    lambda bias: nn.RNNCell(3, 4, bias, nonlinearity="relu"),
]


def test_the_parts_of_an_lstm_have_the_ancestors_names() -> None:
    assert [name for name, _ in ModularLSTMCell(3, 4).named_children()] == LSTM_PARTS


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("make", CELLS)
@pytest.mark.parametrize("shape", [(5, 3), (3,)])
def test_a_cell_computes_what_torch_s_does(make: Any, bias: bool, shape: tuple[int, ...]) -> None:
    cell = make(bias).double()
    modular: Any = from_torch(cell)
    x, state = torch.randn(shape, dtype=torch.float64), torch.randn(*shape[:-1], 4, dtype=torch.float64)
    given = (state, state.flip(-1)) if isinstance(cell, nn.LSTMCell) else state
    for hx in (None, given):
        torch.testing.assert_close(modular(x, hx), cell(x, hx), rtol=0, atol=1e-14)
    assert repr(to_torch(modular)) == repr(cell)
    assert all(p is q for p, q in zip(to_torch(modular).parameters(), cell.parameters(), strict=True))


@torch.no_grad()
def test_one_step_of_an_lstm_by_hand() -> None:
    """Weights of one unit: i = 1, f = 2, g = 3, o = 4 times x = 0.5, and -1 times h = 0.25 each; c = -2."""
    cell = ModularLSTMCell(1, 1, bias=False).double()
    cell.fc_gate_x.weight.copy_(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    cell.fc_gate_h.weight.fill_(-1)
    h, c = cell(torch.tensor([[0.5]]).double(), (torch.tensor([[0.25]]).double(), torch.tensor([[-2.0]]).double()))
    i, f, g, o = 0.25, 0.75, 1.25, 1.75
    expected = sigmoid(f) * -2 + sigmoid(i) * math.tanh(g)
    assert c.item() == pytest.approx(expected, abs=1e-15)
    assert h.item() == pytest.approx(sigmoid(o) * math.tanh(expected), abs=1e-15)


@torch.no_grad()
def test_one_step_of_a_gru_by_hand() -> None:
    """r = 1, z = 2, n = 3 times x = 0.5 and -1, -2, -3 times h = 0.25: cuDNN's form, the reset gate after the product."""
    cell = ModularGRUCell(1, 1, bias=False).double()
    cell.fc_gate_x.weight.copy_(torch.tensor([[1.0], [2.0], [3.0]]))
    cell.fc_gate_h.weight.copy_(torch.tensor([[-1.0], [-2.0], [-3.0]]))
    h = cell(torch.tensor([[0.5]]).double(), torch.tensor([[0.25]]).double())
    r, z = sigmoid(0.5 - 0.25), sigmoid(1 - 0.5)
    n = math.tanh(1.5 + r * -0.75)
    assert h.item() == pytest.approx((1 - z) * n + z * 0.25, abs=1e-15)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_a_projection_is_a_part_of_its_own() -> None:
    cell = ModularLSTMCell(3, 4, proj_size=2)
    h, c = cell(torch.zeros(5, 3))
    assert (tuple(h.shape), tuple(c.shape)) == ((5, 2), (5, 4))
    assert [name for name, _ in cell.named_children()] == [*LSTM_PARTS, "fc_project"]
    with pytest.raises(ValueError, match="'fc_project' is a Linear, where the modular form has a NoneType"):
        to_torch(cell)


def test_another_nonlinearity_is_refused() -> None:
    with pytest.raises(ValueError, match="nonlinearity is 'tanh' or 'relu', not 'gelu'"):
        ModularRNNCell(3, 4, nonlinearity="gelu")  # type: ignore[arg-type]


def test_new_weights_are_drawn_as_torch_draws_them() -> None:
    for cell in (ModularLSTMCell(100, 4), ModularGRUCell(100, 4), ModularRNNCell(100, 4)):
        largest = max(parameter.abs().max().item() for parameter in cell.parameters())
        assert 0.45 < largest <= 0.5

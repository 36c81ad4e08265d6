"""Conversion: the same parameters, what it keeps, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from limbeck.errors import QuantizationError
from limbeck.quantization.cells import ModularLSTMCell
from limbeck.quantization.convert import from_torch, layout_of, parameter_names, to_torch
from limbeck.quantization.recurrent import Layout, ModularRecurrent


def test_the_parameters_are_the_same_objects_there_and_back() -> None:
    lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2)
    before = dict(lstm.named_parameters())
    modular = from_torch(lstm)
    names = parameter_names(modular)
    held = dict(modular.named_parameters())
    assert names == parameter_names(lstm)
    assert names["weight_ih_l1_reverse"] == "cells_reverse.1.fc_gate_x.weight"
    assert names["weight_hr_l0"] == "cells.0.fc_project.weight"
    assert {held[names[name]] is parameter for name, parameter in before.items()} == {True}
    assert held.keys() == set(names.values())
    after = dict(to_torch(modular).named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is parameter for name, parameter in before.items())


def test_conversion_takes_no_random_numbers_and_no_memory() -> None:
    lstm = nn.LSTM(3, 4)
    state = torch.get_rng_state()
    to_torch(from_torch(lstm))
    assert torch.equal(torch.get_rng_state(), state)


def test_mode_dropout_and_what_is_frozen_stay() -> None:
    lstm = nn.LSTM(3, 4, num_layers=2, dropout=0.3).eval()
    lstm.weight_hh_l0.requires_grad_(False)
    modular = from_torch(lstm)
    assert isinstance(modular, ModularRecurrent)
    assert not any(part.training for part in modular.modules())
    assert (modular.dropout.p, modular.layout) == (0.3, Layout("LSTM", 3, 4, 2, dropout=0.3))
    assert not modular.cells[0].get_parameter("fc_gate_h.weight").requires_grad
    back: Any = to_torch(modular)
    assert (back.training, back.dropout, back.weight_hh_l0.requires_grad) == (False, 0.3, False)


def test_torch_s_module_has_its_weights_in_use() -> None:
    """An nn.LSTM holds a flat list of its weights besides its parameters; both must be what was handed over."""
    modular = ModularRecurrent(Layout("LSTM", 3, 4))
    lstm: Any = to_torch(modular)
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(lstm(x), modular(x), rtol=0, atol=1e-6)
    assert all(mine is its for mine, its in zip(lstm._flat_weights, lstm.parameters(), strict=True))


def test_a_thinned_module_is_converted_as_it_is_now() -> None:
    lstm = nn.LSTM(3, 4)
    small = nn.LSTM(3, 2)
    for name, parameter in small.named_parameters():
        setattr(lstm, name, parameter)
    with pytest.raises(QuantizationError, match=r"its weight_ih_l0 is of shape \(8, 3\), not \(16, 3\)"):
        from_torch(lstm)
    lstm.hidden_size = 2
    assert layout_of(lstm).hidden_size == 2
    x = torch.randn(5, 1, 3)
    torch.testing.assert_close(from_torch(lstm)(x), small(x), rtol=0, atol=1e-6)  # type: ignore[operator]


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Reversed(nn.LSTM):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x.flip(0))


class Named(nn.LSTM):
    """A subclass that computes what its base does."""


def pruned(module: nn.Module, name: str = "weight_hh_l0") -> nn.Module:
    prune.l1_unstructured(module, name, 0.5)
    return module


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda *_: None)
    return module


def parametrized(module: nn.Module, name: str) -> nn.Module:
    parametrize.register_parametrization(module, name, Doubled())
    return module


def replaced(module: ModularRecurrent | ModularLSTMCell, **parts: nn.Module) -> nn.Module:
    cell = module.cells[0] if isinstance(module, ModularRecurrent) else module
    for name, part in parts.items():
        setattr(cell, name, part)
    return module


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(3, 4), "a Linear is no recurrent module of torch.nn; those are LSTM, GRU, RNN, LSTMCell"),
        (lambda: Reversed(3, 4), "a Reversed has a forward pass of its own"),
        (lambda: hooked(nn.GRU(3, 4)), "a GRU with hooks would lose them"),
        (
            lambda: pruned(nn.LSTM(3, 4)),
            r"weight_hh_l0, weight_hh_l0_orig\) cannot be taken apart; make them plain first: torch.nn.utils.prune",
        ),
        (lambda: parametrized(nn.LSTMCell(3, 4), "weight_hh"), r"parametrizations.weight_hh.original, weight_hh\) cannot be taken apart"),
    ],
)
def test_what_a_modular_form_would_not_do_is_refused(make: Any, message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        from_torch(make())


def test_a_subclass_that_adds_nothing_is_converted() -> None:
    assert isinstance(from_torch(Named(3, 4)), ModularRecurrent)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.LSTM(3, 4), "a LSTM is no modular recurrent module; to_torch takes what from_torch gives"),
        (lambda: replaced(modular(), act_f=nn.Hardsigmoid()), r"'cells.0.act_f' is a Hardsigmoid, where the modular form has a Sigmoid"),
        (lambda: replaced(modular(), fc_gate_h=nn.Linear(4, 12)), r"its cells.0.fc_gate_h.weight is of shape \(12, 4\), not \(16, 4\)"),
        (lambda: replaced(modular(), fc_gate_h=nn.Linear(4, 16, bias=False)), "its cells.0.fc_gate_h.bias is missing"),
        (lambda: replaced(ModularLSTMCell(3, 4), fc_gate_h=pruned(nn.Linear(4, 16), "weight")), "its fc_gate_h.weight is missing"),
    ],
)
def test_what_torch_has_no_place_for_is_refused(make: Any, message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        to_torch(make())


def modular() -> ModularRecurrent:
    return ModularRecurrent(Layout("LSTM", 3, 4))

"""Dropout: how much is dropped, what the rest becomes, and that gradients fall on the same elements."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from limbeck.apps.dropout import Dropout


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.5, 0.9])
def test_share_and_scale(probability: float) -> None:
    dropped = Dropout(probability)(torch.ones(1 << 18))
    values = dropped.unique()
    assert len(values) == 2
    torch.testing.assert_close(values, torch.tensor([0, 1 / (1 - probability)]), rtol=2e-4, atol=0)
    share = float((dropped == 0).double().mean())
    assert abs(share - probability) < 5 * (probability * (1 - probability) / (1 << 18)) ** 0.5  # five standard deviations
    for place in range(4):  # the four that share a number
        share = float((dropped[place::4] == 0).double().mean())
        assert abs(share - probability) < 5 * (probability * (1 - probability) / (1 << 16)) ** 0.5


def test_neighbours_are_independent() -> None:
    dropped = (Dropout(0.5)(torch.ones(1 << 18)) == 0).double()
    for distance in range(1, 9):
        both = float((dropped[distance:] * dropped[:-distance]).mean())
        assert abs(both - 0.25) < 5 * (0.1875 / (1 << 18)) ** 0.5


@given(size=st.integers(0, 40), seed=st.integers(0, 99))
def test_gradients_fall_where_values_stayed(size: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, residual = torch.ones(size, requires_grad=True), torch.full((size,), 2.0, requires_grad=True)
    total = Dropout(0.4).add(residual, x)
    of_x, of_residual = torch.autograd.grad(total.sum(), (x, residual))
    torch.testing.assert_close(of_x, total.detach() - 2)
    assert bool((of_residual == 1).all())
    torch.manual_seed(seed)
    torch.testing.assert_close(Dropout(0.4)(x), total - 2)


@pytest.mark.parametrize("module", [Dropout(0.0), Dropout(0.7).eval()])
def test_nothing_is_dropped_where_nothing_should_be(module: Dropout) -> None:
    x = torch.randn(9)
    assert module(x) is x
    assert module.add(x, x).equal(2 * x)


def test_a_share_that_rounds_to_all_leaves_finite_numbers() -> None:
    assert bool(Dropout(0.9999999)(torch.ones(1000)).isfinite().all())
    assert Dropout(1e-9)(torch.ones(1000)).equal(torch.ones(1000))


def test_other_types_go_to_torch() -> None:
    x = torch.ones(100, dtype=torch.float64)
    torch.manual_seed(1)
    ours = Dropout(0.5).add(x, x)
    torch.manual_seed(1)
    assert ours.equal(x + nn.Dropout(0.5)(x))

"""Sparsity that is spread over tensors by their shapes."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.pruning import Pruner, Site
from limbeck.pruning.allotments import erdos_renyi_kernel
from limbeck.pruning.observed import rigl_pruner
from limbeck.pruning.selectors import Lowest
from limbeck.schedules import Moment

Shapes = st.lists(st.lists(st.integers(1, 40), max_size=4), min_size=1, max_size=6)


def test_a_kernel_s_axes_count_by_hand() -> None:
    """A convolution [4, 2, 3, 3] of 72 weights has 12 parts, a Linear layer [8, 16] of 128 has 24; of 200 weights 50 are kept."""
    amounts = erdos_renyi_kernel({"conv": (4, 2, 3, 3), "fc": (8, 16)}, {"conv": 0.75, "fc": 0.75})
    assert 1 - amounts["conv"] == pytest.approx(50 * 12 / 36 / 72)
    assert 1 - amounts["fc"] == pytest.approx(50 * 24 / 36 / 128)


def test_a_tensor_cannot_keep_more_than_it_has() -> None:
    """Of 1,004 weights 502 are kept, in 4 and 110 parts: 17.6 would be of the tiny one, which has 4; the other keeps 498."""
    amounts = erdos_renyi_kernel({"tiny": (2, 2), "large": (10, 100)}, {"tiny": 0.5, "large": 0.5})
    assert amounts["tiny"] == 0
    assert 1 - amounts["large"] == pytest.approx(498 / 1000)


@given(Shapes, st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_as_much_is_kept_as_was_asked_for(drawn: list[list[int]], sparsity: float) -> None:
    shapes = {str(place): shape for place, shape in enumerate(drawn)}
    amounts = erdos_renyi_kernel(shapes, dict.fromkeys(shapes, sparsity))
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    assert all(0 <= amount <= 1 for amount in amounts.values())
    dropped = sum(amounts[name] * size for name, size in sizes.items())
    assert dropped == pytest.approx(sparsity * sum(sizes.values()), abs=1e-6)
    parts = {name: (sum(shape) or 1) / sizes[name] for name, shape in shapes.items()}
    for (one, part), (other, more) in product(parts.items(), parts.items()):
        assert part >= more or amounts[one] >= amounts[other] - 1e-9


def test_a_pruner_drops_what_it_is_allotted() -> None:
    shapes = {"conv": (4, 2, 3, 3), "fc": (8, 16)}
    pruner = Pruner(dict.fromkeys(shapes, 0.75), allot=erdos_renyi_kernel)
    rigl = rigl_pruner(list(shapes), 0.75, densities="erdos_renyi_kernel")
    sites = {name: Site(torch.randn(shape)) for name, shape in shapes.items()}
    for made in (pruner, rigl):
        masks = made.masks(sites, Moment())
        assert {name: int((~mask).count_nonzero()) for name, mask in masks.items()} == {"conv": 55, "fc": 94}  # 55.3 and 94.7


@pytest.mark.parametrize(("size", "dropped"), [(10, 1), (3, 1), (100, 29), (30, 6), (7, 0), (7, 7)])
def test_a_whole_number_that_is_meant_falls_whole(size: int, dropped: int) -> None:
    """In floating point 1 - (1 - 0.1) of ten is less than one."""
    amounts = erdos_renyi_kernel({"one": (size, 2), "two": (size, 2)}, dict.fromkeys(("one", "two"), dropped / size))
    assert [Lowest().dropped(amount, 2 * size) for amount in amounts.values()] == [2 * dropped, 2 * dropped]

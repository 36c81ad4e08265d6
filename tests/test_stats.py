"""Counts, densities and moments, against hand calculations and a second way."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from limbeck.names import named_parameters
from limbeck.stats import density, magnitude_quantile, moments, nonzero_groups, sparsity, weights
from limbeck.tile import CHANNELS, ELEMENT, FILTERS, KERNELS, TENSOR, Tile

MATRIX = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, -2.0], [0.0, 0.0, 0.0, 3.0]])


def conv() -> Tensor:
    """[3 filters, 2 channels, 2, 2] with 24 elements: filter 0 and, in the others, channel 1 are zero."""
    weight = torch.zeros(3, 2, 2, 2)
    weight[1, 0] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    weight[2, 0] = 1.0
    return weight


@pytest.mark.parametrize(
    ("tensor", "tile", "nonzero", "groups"),
    [
        (MATRIX, ELEMENT, 3, 12),
        (MATRIX, FILTERS, 2, 3),  # rows 1 and 2
        (MATRIX, CHANNELS, 2, 4),  # columns 1 and 3
        (MATRIX, Tile((3, 2)), 2, 2),
        (MATRIX, TENSOR, 1, 1),
        (conv(), ELEMENT, 6, 24),
        (conv(), FILTERS, 2, 3),
        (conv(), CHANNELS, 1, 2),
        (conv(), KERNELS, 2, 6),
        (torch.zeros(4, 4), FILTERS, 0, 4),
    ],
)
def test_groups_are_counted_by_hand(tensor: Tensor, tile: Tile, nonzero: int, groups: int) -> None:
    assert nonzero_groups(tensor, tile) == nonzero
    assert density(tensor, tile) == nonzero / groups
    assert sparsity(tensor, tile) == (groups - nonzero) / groups


def test_cancelling_elements_do_not_make_a_group_zero() -> None:
    assert nonzero_groups(torch.tensor([[1.0, -1.0], [0.0, 0.0]]), FILTERS) == 1


def test_nan_is_not_zero_and_negative_zero_is() -> None:
    assert nonzero_groups(torch.tensor([math.nan, -0.0, 1e-45])) == 2


def test_a_group_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not divide"):
        density(MATRIX, Tile((2,)))


def test_counts_beyond_float32_are_exact() -> None:
    """2**24 + 1 is the first integer that float32 cannot hold; the ancestor's int(density * numel) is off there."""
    count = 2**24 + 3
    tensor = torch.ones(count, dtype=torch.int8)
    tensor[5] = tensor[-1] = 0
    assert nonzero_groups(tensor) == 2**24 + 1
    assert sparsity(tensor) == 2 / count


def test_a_tensor_without_elements_is_dense() -> None:
    assert density(torch.empty(0, 3), FILTERS) == 1.0
    assert sparsity(torch.empty(0, 3)) == 0.0
    assert math.isnan(moments(torch.empty(0)).mean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_moments_are_those_of_float64(dtype: torch.dtype) -> None:
    tensor = (torch.randn(1100, 1000) * 0.1 + 0.02).to(dtype)
    measured, exact = moments(tensor), tensor.double()
    assert measured.mean == pytest.approx(exact.mean().item(), rel=1e-9)
    assert measured.std == pytest.approx(exact.std().item(), rel=1e-9)
    assert measured.abs_mean == pytest.approx(exact.abs().mean().item(), rel=1e-9)


def test_one_element_has_no_spread() -> None:
    assert moments(torch.tensor([3.0])).std == 0.0


@pytest.mark.parametrize(("count", "smaller"), [(1, 1), (2, 1), (10, 9), (19, 17), (20, 18), (1000, 900)])
def test_quantile_is_the_kth_smallest_magnitude(count: int, smaller: int) -> None:
    """The int(.9 n)-th smallest: magnitudes 1..n in any order and with any sign, so the answer is the rank itself."""
    values = torch.randperm(count).add(1) * (1 - 2 * torch.randint(0, 2, (count,)))
    tensor = values.float()
    assert magnitude_quantile(tensor, 0.9) == smaller
    assert magnitude_quantile(tensor.to(torch.bfloat16), 0.9) == pytest.approx(smaller, rel=0.01)
    assert torch.equal(tensor, values.float())


def test_quantile_agrees_with_topk() -> None:
    """The ancestor's own way: the largest of the int(.9 n) smallest."""
    tensor = torch.randn(37, 41)
    smallest = tensor.abs().flatten().topk(int(0.9 * tensor.numel()), largest=False, sorted=True).values
    assert magnitude_quantile(tensor, 0.9) == smallest[-1].item()


def test_weights_have_two_dimensions_or_more() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 5), nn.BatchNorm1d(3), nn.Linear(3, 2), nn.Conv3d(1, 1, 2))
    assert [named.name for named in weights(named_parameters(model).values())] == ["0.weight", "2.weight", "3.weight"]

"""What units are worth, against hand calculation and plain torch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from limbeck.groups import group
from limbeck.pruning.criteria import BATCH_NORM, Criterion, Units, geometric_median, in_standard_deviations, l1, l2, maximum
from limbeck.schedules import Moment
from limbeck.tile import ELEMENT, Tile


def units(weight: Tensor, unit: Tile = Tile((1,)), **others: object) -> Units:  # noqa: B008  # a tile is a frozen value
    return replace(Units(weight, 0.5, Moment(), {}, unit=unit), **others)


FILTERS = torch.tensor([[3.0, -4.0], [0.0, 0.0], [1.0, 1.0]])


@pytest.mark.parametrize(
    ("criterion", "scores"),
    [(l1, [3.5, 0.0, 1.0]), (l2, [2.5, 0.0, math.sqrt(2) / 2]), (maximum, [4.0, 0.0, 1.0])],
)
def test_magnitudes(criterion: Criterion, scores: list[float]) -> None:
    assert criterion(units(FILTERS)).tolist() == pytest.approx(scores)


@pytest.mark.parametrize("criterion", [l1, l2, maximum])
def test_of_single_elements_all_magnitudes_are_one(criterion: Criterion) -> None:
    weight = torch.tensor([[1e-30, -2.0], [6e4, 0.0]])
    assert torch.equal(criterion(units(weight, ELEMENT)), weight.abs().reshape(-1))


@pytest.mark.parametrize("criterion", [l1, l2, maximum, geometric_median])
def test_magnitudes_are_those_of_the_weight_as_the_batch_norm_scales_it(criterion: Criterion) -> None:
    factor = torch.tensor([[0.5], [2.0], [-1.0]])
    scaled = criterion(units(FILTERS, measured={BATCH_NORM: factor}))
    assert torch.equal(scaled, criterion(units(FILTERS * factor)))


def test_standard_deviations_of_structures_are_the_tensor_s() -> None:
    weight = torch.tensor([[2.0, -2.0], [4.0, 0.0]])
    memo: dict[str, float] = {}
    scores = in_standard_deviations(units(weight, memo=memo))
    deviation = weight.std().item()
    assert scores.tolist() == pytest.approx([2 / deviation, 2 / deviation])
    assert memo == {"std": pytest.approx(deviation)}


def test_a_padded_unit_is_the_mean_of_what_is_there() -> None:
    weight = torch.tensor([[1.0, -3.0, 5.0]])
    assert l1(units(weight, Tile((1, 2), pad=True))).tolist() == [2.0, 5.0]
    assert maximum(units(weight, Tile((1, 2), pad=True))).tolist() == [3.0, 5.0]
    assert l2(units(weight, Tile((1, 2), pad=True))).tolist() == pytest.approx([math.sqrt(10) / 2, 5.0])


def test_units_form_what_a_criterion_asks_for() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    seen = units(
        weight,
        group("Cols"),
        gradient=weight + 1,
        measured={"norm": torch.tensor([[1.0, 2.0, 3.0]])},
        mask=torch.tensor([[True, False, False], [True, False, True]]),
    )
    assert seen.weight.tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert seen.grad is not None
    assert seen.grad.tolist() == [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]
    assert seen.stats["norm"].tolist() == [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    assert seen.kept is not None
    assert seen.kept.tolist() == [True, False, True]
    assert seen.total(torch.mul, "norm").tolist() == [3.0, 10.0, 21.0]
    assert seen.largest(torch.mul, "norm").tolist() == [3.0, 8.0, 15.0]
    with pytest.raises(KeyError, match="apoz"):
        seen.total(torch.mul, "apoz")


def test_without_a_gradient_or_a_mask_there_is_none() -> None:
    assert units(FILTERS).grad is None
    assert units(FILTERS).kept is None
    assert units(FILTERS).stats == {}


def test_the_filter_nearest_to_the_others_is_worth_least() -> None:
    """Points on a line at 1, 2, 6: the distances add up to 6, 5 and 9."""
    weight = torch.tensor([[1.0, 0.0], [2.0, 0.0], [6.0, 0.0]])
    assert geometric_median(units(weight)).tolist() == pytest.approx([6.0, 5.0, 9.0])


def test_a_filter_that_is_gone_counts_for_no_other() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0], [6.0, 0.0]])
    assert geometric_median(units(weight)).tolist() == pytest.approx([6.0, 0.0, 5.0, 9.0])
    assert geometric_median(units(torch.zeros(3, 2))).tolist() == [0.0, 0.0, 0.0]


def test_distances_are_exact_where_filters_are_close_and_far_from_zero() -> None:
    weight = 1e3 + torch.randn(300, 7, generator=torch.Generator().manual_seed(0)) * 1e-2
    exact = (weight.double()[:, None] - weight.double()[None]).norm(dim=2).sum(1)
    torch.testing.assert_close(geometric_median(units(weight)), exact, rtol=1e-4, atol=0)

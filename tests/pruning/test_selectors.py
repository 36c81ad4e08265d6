"""Selectors against a reference that sorts: exact counts, the tie law, thresholds and bands."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from limbeck.errors import MaskError
from limbeck.pruning.selectors import Band, Below, KeptRounded, Lowest

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
NAN = float("nan")


def drop_by_sorting(scores: Tensor, kept: Tensor | None, dropped: int) -> Tensor:
    """The law in words: sort by score, then dropped before kept, then index; the first ``dropped`` fall."""
    keep = torch.ones(scores.shape, dtype=torch.bool)
    for pool, row in enumerate(scores.tolist()):
        order = sorted(range(len(row)), key=lambda unit: (row[unit], kept is not None and bool(kept[pool, unit]), unit))
        keep[pool, order[:dropped]] = False
    return keep


@st.composite
def pools(draw: st.DrawFn) -> tuple[Tensor, Tensor | None]:
    """Scores with many ties, and the mask so far or None."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 12)))
    count = math.prod(shape)
    few = draw(st.lists(st.sampled_from([0.0, -0.0, 0.5, -1.0, 2.0, math.inf, -math.inf]), min_size=1, max_size=4))
    scores = torch.tensor(draw(st.lists(st.sampled_from(few), min_size=count, max_size=count)), dtype=draw(st.sampled_from(DTYPES)))
    kept = draw(st.none() | st.lists(st.booleans(), min_size=count, max_size=count))
    return scores.view(shape), None if kept is None else torch.tensor(kept).view(shape)


@given(pools(), st.floats(0, 1))
def test_lowest_drops_what_sorting_drops(drawn: tuple[Tensor, Tensor | None], amount: float) -> None:
    scores, kept = drawn
    dropped = Lowest().dropped(amount, scores.shape[1])
    assert torch.equal(Lowest()(scores, kept, amount), drop_by_sorting(scores, kept, dropped))


@given(pools(), st.floats(0, 1))
def test_lowest_is_idempotent(drawn: tuple[Tensor, Tensor | None], amount: float) -> None:
    scores, kept = drawn
    once = Lowest()(scores, kept, amount)
    assert torch.equal(Lowest()(scores, once, amount), once)


@given(st.floats(0, 1), st.integers(1, 10**9))
def test_how_many_fall_is_known_without_data(amount: float, units: int) -> None:
    dropped = Lowest().dropped(amount, units)
    assert dropped == (units if amount == 1 else min(int(amount * units), units - 1))
    assert abs(dropped - Fraction(amount) * units) <= 1 + Fraction(units) / 2**52
    assert (dropped == units) == (amount == 1)


@pytest.mark.parametrize(
    ("selector", "amount", "units", "dropped"),
    [
        (Lowest(), 0.7, 10, 7),
        (Lowest(), 0.29, 100, 28),  # 0.29 * 100 = 28.999999999999996 in float64: int() of it, as Distiller's create_mask_level_criterion
        (Lowest(), 0.1 + 0.2, 10, 3),
        (Lowest(), 0.0, 10, 0),
        (Lowest(), 1.0, 10, 10),
        (Lowest(), 0.99, 1, 0),
        (Lowest(), 1.0, 1, 1),
        (Lowest(math.ceil), 0.99, 10, 9),
        (Lowest(round), 0.25, 10, 2),
        (Lowest(round), 0.96, 10, 9),
    ],
)
def test_rounding(selector: Lowest, amount: float, units: int, dropped: int) -> None:
    assert selector.dropped(amount, units) == dropped
    assert int((~selector(torch.rand(3, units), None, amount)).sum()) == 3 * dropped


@pytest.mark.parametrize(
    ("units", "amount", "dropped"),
    [(16, 0.6, 9), (16, 0.7, 11), (16, 0.1, 1), (16, 0.99, 15), (16, 1.0, 16), (10, 0.95, 9), (2, 0.99, 1)],
)
def test_how_many_filters_distiller_drops(units: int, amount: float, dropped: int) -> None:
    """Verified against Distiller's ranked_structures_pruner.py."""
    assert Lowest().dropped(amount, units) == dropped


@pytest.mark.parametrize(
    ("rounding", "multiple", "units", "amount", "dropped"),
    [
        (math.floor, 4, 16, 0.6, 8),  # floor(9.6) = 9, floor(9 / 4) * 4
        (math.ceil, 4, 16, 0.6, 12),  # ceil(9.6) = 10, ceil(10 / 4) * 4
        (math.floor, 8, 16, 0.99, 8),  # floor(15.84) = 15, floor(15 / 8) * 8
        (math.ceil, 8, 16, 0.99, 8),  # 16 would be all of them: 16 - 8
        (math.floor, 8, 16, 1.0, 16),
        (math.floor, 4, 10, 1.0, 8),
        (math.ceil, 4, 10, 0.9, 8),  # 12 would be more than there are
        (math.ceil, 4, 10, 1.0, 8),
        (round, 4, 16, 0.4, 8),  # round(6.4) = 6, round(6 / 4 = 1.5) = 2 to even
        (math.floor, 16, 8, 0.99, 0),
    ],
)
def test_what_falls_is_a_multiple(rounding: Callable[[float], float], multiple: int, units: int, amount: float, dropped: int) -> None:
    selector = Lowest(rounding, multiple)
    assert selector.dropped(amount, units) == dropped
    assert int((~selector(torch.rand(2, units), None, amount)).sum()) == 2 * dropped


def test_a_multiple_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be a multiple of 0"):
        Lowest(multiple=0)


NEURST = {100: 3989622, 200: 3865470, 300: 3801717, 400: 3778229, 500: 3774874}
"""NeurST's kept weights of 1024 * 4096 at the steps of PolynomialDecay(0, 0.1, 0, 500, power=3), from a run of it."""


@pytest.mark.parametrize(("step", "kept"), NEURST.items())
def test_kept_as_neurst_counts(step: int, kept: int) -> None:
    left = np.float32(1) - np.float32(step) / np.float32(500)
    sparsity = float((np.float32(0) - np.float32(0.1)) * left ** np.float32(3) + np.float32(0.1))
    assert KeptRounded().dropped(sparsity, 1024 * 4096) == 1024 * 4096 - kept


@pytest.mark.parametrize(
    ("units", "amount", "dropped"),
    [
        (1000, 0.0488, 49),  # 951.2
        (1000, 0.0784, 78),  # 921.6
        (1000, 0.1, 100),
        (5, 0.5, 3),  # 2.5 kept: 2, the even one
        (7, 0.5, 3),  # 3.5 kept: 4
        (1, 0.5, 0),  # 0.5 kept would be 0
        (10, 0.99, 9),
        (10, 1.0, 9),
        (10, 0.0, 0),
        (2**24 + 1, 0.0, 1),  # float32 has no such number: 2**24
        (0, 0.5, 0),
    ],
)
def test_kept_is_rounded_half_to_even_and_never_none(units: int, amount: float, dropped: int) -> None:
    assert KeptRounded().dropped(amount, units) == dropped
    if units <= 1000:
        assert int((~KeptRounded()(torch.rand(2, units), None, amount)).sum()) == 2 * dropped


@given(pools(), st.floats(0, 1))
def test_kept_rounded_drops_the_lowest(drawn: tuple[Tensor, Tensor | None], amount: float) -> None:
    scores, kept = drawn
    dropped = KeptRounded().dropped(amount, scores.shape[1])
    assert torch.equal(KeptRounded()(scores, kept, amount), drop_by_sorting(scores, kept, dropped))


@pytest.mark.parametrize("amount", [-0.1, 1.0001, NAN, math.inf])
@pytest.mark.parametrize("selector", [Lowest(), KeptRounded()])
def test_an_amount_outside_0_and_1_is_refused_by_its_value(amount: float, selector: Lowest | KeptRounded) -> None:
    with pytest.raises(MaskError, match=f"fraction of {amount}"):
        selector(torch.rand(1, 4), None, amount)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("amount", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("kept", [None, torch.tensor([[True] * 4, [False, True, False, True]])])
def test_nan_scores_are_refused_with_their_number(dtype: torch.dtype, amount: float, place: int, kept: Tensor | None) -> None:
    scores = torch.tensor([[1, 0, 0, 2], [0, 0, 0, 0]], dtype=dtype)
    scores[0, place] = NAN
    for selector in (Lowest(), Below(), Band(0.5)):
        with pytest.raises(MaskError, match="1 of 8 scores are NaN"):
            selector(scores, kept, amount)


def test_infinities_of_both_signs_are_scores_like_others() -> None:
    scores = torch.tensor([[math.inf, -math.inf, 0.0]])
    assert Below()(scores, None, 0.5).tolist() == [[True, False, False]]


def test_a_score_may_carry_a_gradient() -> None:
    scores = torch.rand(2, 6, requires_grad=True)
    for selector in (Lowest(), Below(), Band(0.8)):
        assert not selector(scores, None, 0.5).requires_grad


@given(pools(), st.sampled_from([-1.0, 0.0, 0.5, 0.7]))
def test_below_keeps_what_is_strictly_above(drawn: tuple[Tensor, Tensor | None], threshold: float) -> None:
    scores, kept = drawn
    assert Below()(scores, kept, threshold).tolist() == [[score > threshold for score in row] for row in scores.tolist()]


@given(pools(), st.sampled_from([-1.0, 0.0, 0.5]), st.sampled_from([0.0, 0.5, 2.0]))
def test_band_changes_only_what_is_outside_it(drawn: tuple[Tensor, Tensor | None], low: float, high: float) -> None:
    scores, kept = drawn
    keep = Band(high)(scores, kept, low)
    before = torch.ones_like(keep) if kept is None else kept
    for score, stays, was in zip(scores.flatten().tolist(), keep.flatten().tolist(), before.flatten().tolist(), strict=True):
        assert stays == (True if score >= high else False if score < low else was)


def test_nan_thresholds_are_refused() -> None:
    for selector, amount in ((Below(), NAN), (Band(0.5), NAN), (Band(NAN), 0.5)):
        with pytest.raises(MaskError, match="threshold is NaN"):
            selector(torch.rand(1, 3), None, amount)


def test_a_pool_without_units_and_no_pool_at_all() -> None:
    assert Lowest()(torch.rand(2, 0), None, 0.5).shape == (2, 0)
    assert Lowest()(torch.rand(0, 4), None, 0.5).shape == (0, 4)

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import DataError
from limbeck.sensitivity import Row
from limbeck.sensitivity.allocate import allocate
from limbeck.sensitivity.costs import Costs
from limbeck.sensitivity.curves import Curve, curves, envelope

losses = st.lists(st.floats(min_value=0, max_value=10), min_size=2, max_size=6)


def separate(sizes: list[int], prices: list[float]) -> Costs:
    names = [f"p{index}" for index in range(len(sizes))]
    return Costs(
        {name: (size,) for name, size in zip(names, sizes, strict=True)}, dict(zip(names, prices, strict=True)),
        dict(zip(names, sizes, strict=True)), {name: {(name, 0): 1} for name in names},
    )  # fmt: skip


def rise(curve_of: dict[str, Curve], costs: Costs, dropped: dict[str, int]) -> float:
    return sum(float(curve.at(dropped[name] / costs.units[name])) for name, curve in curve_of.items())


def best(curve_of: dict[str, Curve], costs: Costs, budget: float) -> float:
    """By trying all."""
    names, most = list(curve_of), budget * costs.total({})
    choices = [range(round(curve_of[name].highest * costs.units[name]) + 1) for name in names]
    tried = (dict(zip(names, counts, strict=True)) for counts in product(*choices))
    return min(rise(curve_of, costs, dropped) for dropped in tried if costs.total(dropped) <= most)


@given(losses)
def test_an_envelope_never_falls_and_lies_above_its_points(values: list[float]) -> None:
    points = [((index + 1) / len(values), value) for index, value in enumerate(values)]
    curve = envelope(points, dense=3.0)
    assert (curve.levels[0], curve.rises[0]) == (0.0, 0.0)
    assert list(curve.rises) == sorted(curve.rises)
    assert all(curve.at(level) >= loss - 3.0 for level, loss in points)
    highest = np.maximum.accumulate([0.0, *[loss - 3.0 for _, loss in points]])
    np.testing.assert_array_equal(curve.rises, np.maximum(highest, 0))


def test_a_level_counts_as_what_it_drops() -> None:
    rows = [Row("a", level, 0.0, 0.0, loss, level) for level, loss in ((0.0, 1.0), (0.3, 2.0), (0.7, 4.0))]
    assert curves(rows, {"a": 4})["a"] == Curve((0.0, 0.25, 0.5), (0.0, 1.0, 3.0))  # floor(.3 * 4) = 1, floor(.7 * 4) = 2


def test_a_table_without_the_dense_model_or_a_parameter_is_refused() -> None:
    with pytest.raises(DataError, match="no row at sparsity 0"):
        curves([Row("a", 0.5, 0.0, 0.0, 1.0, 0.5)], {"a": 4})
    with pytest.raises(DataError, match="no rows of b"):
        curves([Row("a", 0.0, 0.0, 0.0, 1.0, 0.0)], {"a": 4, "b": 4})


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.lists(st.floats(min_value=0.01, max_value=1), min_size=4, max_size=4), min_size=2, max_size=3),
    prices=st.lists(st.floats(min_value=0.5, max_value=5), min_size=3, max_size=3),
    budget=st.floats(min_value=0.35, max_value=0.95),
)
def test_with_convex_curves_and_additive_costs_it_is_the_optimum_up_to_a_unit(
    steps: list[list[float]], prices: list[float], budget: float
) -> None:
    costs = separate([4] * len(steps), prices[: len(steps)])
    curve_of = {f"p{index}": Curve((0.0, 0.25, 0.5, 0.75, 1.0), (0.0, *np.cumsum(sorted(own)).tolist())) for index, own in enumerate(steps)}
    dropped = allocate(curve_of, costs, budget)
    assert costs.total(dropped) <= budget * costs.total({}) + 1e-9
    dearest = max(sorted(own)[-1] for own in steps)
    assert rise(curve_of, costs, dropped) <= best(curve_of, costs, budget) + dearest + 1e-3


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.lists(st.floats(min_value=0, max_value=5), min_size=4, max_size=4), min_size=3, max_size=3),
    budget=st.floats(min_value=0.1, max_value=0.95),
)
def test_any_curves_keep_the_budget_where_costs_are_products(values: list[list[float]], budget: float) -> None:
    """A chain of layers, each of which reads what the one before computes."""
    sizes = {"p0": (8, 3), "p1": (8, 8), "p2": (8, 8), "last": (2, 8)}
    shortens = {
        "p0": {("p0", 0): 1, ("p1", 1): 1}, "p1": {("p1", 0): 1, ("p2", 1): 1}, "p2": {("p2", 0): 1, ("last", 1): 1},
    }  # fmt: skip
    costs = Costs(sizes, dict.fromkeys(sizes, 9.0), dict.fromkeys(shortens, 8), shortens)
    curve_of = {name: envelope(zip((0.25, 0.5, 0.75, 0.95), own, strict=True), 0.5) for name, own in zip(shortens, values, strict=True)}
    dropped = allocate(curve_of, costs, budget)
    assert costs.total(dropped) <= budget * costs.total({}) + 1e-9
    assert all(0 <= count <= 7 for count in dropped.values())
    for name, count in dropped.items():  # no unit more goes than has to
        for fewer in range(count):
            spared = {**dropped, name: fewer}
            cheaper = rise(curve_of, costs, spared) < rise(curve_of, costs, dropped) - 1e-3
            assert not cheaper or costs.total(spared) > budget * costs.total({}) - 1e-9


def test_a_flat_table_prunes_all_alike() -> None:
    flat = Curve((0.0, 0.9), (0.0, 0.0))
    dropped = allocate({"p0": flat, "p1": flat}, separate([100, 50], [1.0, 4.0]), 0.5)
    assert dropped == {"p0": 50, "p1": 25}


def test_the_less_sensitive_goes_first() -> None:
    dropped = allocate({"p0": Curve((0.0, 0.9), (0.0, 1.0)), "p1": Curve((0.0, 0.9), (0.0, 0.1))}, separate([10, 10], [1.0, 1.0]), 0.6)
    assert dropped == {"p0": 0, "p1": 8}


def test_a_budget_out_of_reach_is_refused() -> None:
    with pytest.raises(DataError, match=r"cannot be reached.*0\.5 is left"):
        allocate({"p0": Curve((0.0, 0.5), (0.0, 0.1))}, separate([10], [1.0]), 0.4)


def test_a_large_parameter_is_tried_at_round_levels() -> None:
    costs = separate([1_000_003], [1.0])
    dropped = allocate({"p0": Curve((0.0, 0.95), (0.0, 1.0))}, costs, 0.3)["p0"]
    assert dropped == int(0.705 * 1_000_003)  # at 0.7 one weight too many would be left


def test_costs_along_one_parameter_are_the_totals() -> None:
    sizes = {"a": (6, 3), "b": (5, 6), "c": (6, 1), "d": (6, 6)}
    shortens = {"x": {("a", 0): 1.0, ("b", 1): 1.0, ("c", 0): 1.0, ("d", 0): 1.0, ("d", 1): 1.0}, "y": {("b", 0): 1.0, ("e", 0): 1.0}}
    costs = Costs(sizes, {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}, {"x": 6, "y": 5}, shortens)
    for other in (0, 2):
        along = costs.along("x", range(7), {"x": 3, "y": other})
        totals = [costs.total({"x": count, "y": other}) for count in range(7)]
        np.testing.assert_allclose(np.diff(along), np.diff(totals))
    assert costs.total({"x": 2, "y": 1}) == 4 * 3 + 2 * 4 * 4 + 3 * 4 + 4 * 16

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.quantization.search import Step, best_start, greedy, narrow, powell, vertex

NAMES = ("a", "b", "c")


def last(steps: object) -> Step[float]:
    *_, step = steps  # type: ignore[misc]
    return step


@given(st.dictionaries(st.sampled_from(NAMES), st.lists(st.floats(0, 10), min_size=3, max_size=3), min_size=3))
def test_greedy_finds_the_least_of_separable_losses_in_one_round(table: dict[str, list[float]]) -> None:
    def loss(setting: Mapping[str, int]) -> float:
        return sum(table[name][choice] for name, choice in setting.items())

    start = Step(dict.fromkeys(NAMES, 0), loss(dict.fromkeys(NAMES, 0)))
    steps = list(greedy(dict.fromkeys(NAMES, (0, 1, 2)), loss, start))
    assert steps[0] is start
    assert all(later.loss < earlier.loss for earlier, later in itertools.pairwise(steps))
    assert steps[-1].loss == pytest.approx(sum(map(min, table.values())))


def test_greedy_stops_after_a_round_that_finds_nothing_and_keeps_earlier_choices() -> None:
    asked = []

    def loss(setting: Mapping[str, int]) -> float:
        asked.append(dict(setting))
        return abs(setting["a"] - 1) + abs(setting["b"] - 1)

    assert last(greedy({"a": (0, 1), "b": (0, 1)}, loss, Step({"a": 0, "b": 0}, 2.0), rounds=5)).setting == {"a": 1, "b": 1}
    assert asked[:2] == [{"a": 1, "b": 0}, {"a": 1, "b": 1}]
    assert len(asked) == 4


@given(st.dictionaries(st.sampled_from(NAMES), st.floats(-0.4, 0.4), min_size=3))
def test_powell_finds_the_least_of_a_parabola_in_each_factor_at_once(goals: dict[str, float]) -> None:
    def loss(setting: Mapping[str, float]) -> float:
        return sum((math.log(setting[name]) - goal) ** 2 for name, goal in goals.items())

    start = dict.fromkeys(goals, 1.0)
    found = last(powell(Step(start, loss(start)), loss, reach=0.25, rounds=1))
    assert found.loss == pytest.approx(0, abs=1e-9)


def test_powells_own_way_follows_a_valley_that_no_factor_alone_does() -> None:
    def valley(setting: Mapping[str, float]) -> float:
        a, b = math.log(setting["a"]), math.log(setting["b"])
        return (a + b - 2) ** 2 + 50 * (a - b) ** 2

    start = Step({"a": 1.0, "b": 1.0}, 4.0)
    steps = list(powell(start, valley, reach=0.25, rounds=1))
    along = [step for step in steps[1:] if abs(math.log(step.setting["a"] / step.setting["b"])) < 0.05]
    assert along
    assert last(powell(start, valley, reach=0.25, rounds=4)).loss < 0.5 * steps[-1].loss


def test_a_loss_that_is_not_a_number_is_the_worst() -> None:
    assert [step.loss for step in best_start([{"a": 1}, {"a": 2}], lambda setting: math.nan if setting["a"] == 1 else 3.0)] == [
        math.inf,
        3.0,
    ]
    assert list(greedy({"a": (1, 2)}, lambda setting: math.nan, Step({"a": 1}, 5.0))) == [Step({"a": 1}, 5.0)]
    assert vertex(math.inf, 1.0, 2.0) is None


@given(
    st.lists(st.integers(0, 20), min_size=3, max_size=3), st.lists(st.integers(1, 5), min_size=3, max_size=3), st.integers(0, 40)
)  # fmt: skip
def test_narrow_saves_bits_within_the_bound_and_leaves_none_that_could_go(costs: list[int], sizes: list[int], most: int) -> None:
    cost, size = dict(zip(NAMES, costs, strict=True)), dict(zip(NAMES, sizes, strict=True))

    def loss(setting: Mapping[str, int]) -> float:
        return sum(cost[name] * (8 - bits) for name, bits in setting.items())

    start = Step(dict.fromkeys(NAMES, 8), 0.0)
    steps = list(narrow(dict.fromkeys(NAMES, (8, 6, 4)), loss, start, most, size))
    assert all(step.loss <= most for step in steps)
    assert all(sum(later.setting.values()) < sum(earlier.setting.values()) for earlier, later in itertools.pairwise(steps))
    end = steps[-1].setting
    assert all(bits == 4 or loss({**end, name: bits - 2}) > most for name, bits in end.items())


def test_narrow_takes_what_costs_least_a_bit() -> None:
    cost = {"a": 3.0, "b": 1.0, "c": 2.0}

    def loss(setting: Mapping[str, int]) -> float:
        return sum(cost[name] for name, bits in setting.items() if bits == 4)

    steps = narrow(dict.fromkeys(NAMES, (8, 4)), loss, Step(dict.fromkeys(NAMES, 8), 0.0), 3.0, {"a": 10.0, "b": 1.0, "c": 1.0})
    assert [step.setting for step in steps] == [{"a": 8, "b": 8, "c": 8}, {"a": 4, "b": 8, "c": 8}]  # 3 over 40 bits, not 1 over 4


def test_a_search_needs_a_start() -> None:
    with pytest.raises(ValueError, match="give at least one setting"):
        next(best_start([], lambda setting: 0.0))

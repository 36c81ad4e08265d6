"""Ramps give the numbers of the papers, of the ancestor, and of a calculation by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.ramps import RAMPS, BaiduThreshold, Cosine, Cyclic, Exponential, Piecewise, Ramp, constant, linear, one_shot
from limbeck.schedules import Moment, Schedule, Window

# Distiller's levels and thresholds for its own schedules, as facts on the ancestor print them (computed with its own code, six digits).
AGP = {
    ("large_70 rnn", 2, 20, 1, 0.05, 0.7): (
        "0.05 0.158091 0.253481 0.336963 0.409332 0.471382 0.523906 0.567698 0.603552 0.632261 "
        "0.65462 0.671423 0.683462 0.691533 0.696428 0.698942 0.699868 0.7"
    ),
    ("large_70B l0", 1, 25, 3, 0.05, 0.5): "0.05 0.216618 0.336006 0.416035 0.464577 0.489504 0.498688 0.5",
    ("large_70B embedding", 3, 26, 3, 0.05, 0.85): "0.05 0.34621 0.558455 0.700729 0.787026 0.831341 0.847668 0.85",
    ("alexnet conv2", 1, 11, 2, 0.03, 0.62): "0.03 0.371094 0.54625 0.610781 0.62",
    ("alexnet fc", 0, 18, 2, 0.05, 0.91): "0.05 0.333867 0.547188 0.700039 0.8025 0.864648 0.896563 0.90832 0.91",
}
BAIDU = {
    ("rnn.weight_ih_l0", 4, 21, 3, 0.17, 3, 2): "0.007083 0.0425 0.085 0.1275 0.17 0.2125",
    ("encoder.weight", 6, 23, 3, 0.16, 3, 2): "0.006667 0.04 0.08 0.12 0.16 0.2",
}


def printed(value: float) -> str:
    return f"{round(value, 6):.6f}".rstrip("0").rstrip(".")


@pytest.mark.parametrize("row", AGP, ids=lambda row: str(row[0]))
def test_agp_levels(row: tuple[str, int, int, int, float, float]) -> None:
    _, begin, end, every, start, stop = row
    found = [Ramp(start, stop)(moment) for moment in Window(begin, end, every).firings()]
    assert " ".join(printed(level) for level in found) == AGP[row]
    assert found[-1] == stop  # exactly, not nearly


def test_agp_of_resnet20_filters_at_both_ends() -> None:
    found = [Ramp(0.1, 0.5)(moment) for moment in Window(0, 30, 2).firings()]
    assert [printed(level) for level in (*found[:3], *found[-2:])] == ["0.1", "0.179738", "0.248105", "0.499854", "0.5"]


@pytest.mark.parametrize("row", BAIDU, ids=lambda row: str(row[0]))
def test_baidu_thresholds(row: tuple[str, int, int, int, float, int, float]) -> None:
    _, begin, end, every, q, offset, mult = row
    thresholds = [BaiduThreshold(q, offset, mult)(moment) for moment in Window(begin, end, every).firings()]
    assert " ".join(printed(threshold) for threshold in thresholds) == BAIDU[row]


def test_baidu_by_hand() -> None:
    schedule, window = BaiduThreshold(0.2, ramp_epoch_offset=4, ramp_slope_mult=1.5), Window(0, 8, 2)
    slope = 2 * 0.2 * 2 / (2 * 4 + 3 * 4)  # 0.04
    expected = [slope * 1 / 2, slope * 3 / 2, (slope * 5 + 1.5 * slope * 1) / 2, (slope * 5 + 1.5 * slope * 3) / 2]
    assert [schedule(moment) for moment in window.firings()] == pytest.approx(expected)


@pytest.mark.parametrize("offset", [-1, 9, 24, 30])
def test_a_baidu_ramp_outside_of_its_window_says_so(offset: int) -> None:
    with pytest.raises(ValueError, match=f"ramp_epoch_offset {offset} .* within the window"):
        BaiduThreshold(0.2, offset, 1.5)(Moment(0, 0, 8))


def test_a_ramp_may_fall_and_may_have_any_power() -> None:
    assert [Ramp(0.8, 0.2, power=1)(moment) for moment in Window(0, 4).firings()] == pytest.approx([0.8, 0.6, 0.4, 0.2])


def levels(ramp: Schedule, *window: int) -> list[float]:
    return [ramp(moment) for moment in Window(*window).firings()]


# One row for every ramp, worked out by hand: the ramp, its window, its levels.
RAMP_ROWS: dict[str, tuple[Schedule, tuple[int, ...], list[float]]] = {
    "constant": (constant(0.3), (5, 8), [0.3, 0.3, 0.3]),
    "cosine": (Cosine(0.2, 0.8), (4, 10, 2), [0.2, 0.5, 0.8]),
    "cyclic": (Cyclic(0.1, 0.5, cycles=2, power=1), (3, 8), [0.1, 0.3, 0.5, 0.1, 0.5]),
    "exponential": (Exponential(0.5, 0.875), (0, 3), [0.5, 0.75, 0.875]),  # half of what is left, each time
    "linear": (linear(0.1, 0.9), (0, 9, 2), [0.1, 0.3, 0.5, 0.7, 0.9]),
    "one_shot": (one_shot(0.7, after=2), (1, 5), [0.0, 0.0, 0.7, 0.7]),
    "piecewise": (Piecewise(((1, 0.2), (3, 0.6), (4, 0.0))), (10, 16), [0.2, 0.2, 0.4, 0.6, 0.0, 0.0]),
    "polynomial": (Ramp(0.0, 0.8, power=2), (0, 5), [0.0, 0.35, 0.6, 0.75, 0.8]),
}


def test_every_ramp_has_a_row() -> None:
    assert set(RAMP_ROWS) == set(RAMPS)


@pytest.mark.parametrize("name", RAMP_ROWS)
def test_ramps_by_hand(name: str) -> None:
    ramp, window, expected = RAMP_ROWS[name]
    assert levels(ramp, *window) == pytest.approx(expected)


@given(st.data(), st.floats(0, 0.999), st.floats(0, 0.999), st.integers(0, 40), st.integers(2, 60), st.integers(1, 7))
@settings(max_examples=60)
def test_a_ramp_starts_and_stops_exactly_and_never_leaves_its_ends(
    data: st.DataObject, start: float, stop: float, begin: int, firings: int, every: int
) -> None:
    cycles = data.draw(st.integers(1, firings // 2))
    window = (begin, begin + every * (firings - 1) + data.draw(st.integers(1, every)), every)
    for ramp in (Ramp(start, stop), Ramp(start, stop, 0.5), linear(start, stop), Exponential(start, stop), Cosine(start, stop),
                 Cyclic(start, stop, cycles), Piecewise(((0, start), (every * (firings - 1), stop)))):  # fmt: skip
        found = levels(ramp, *window)
        assert len(found) == firings
        assert (found[0], found[-1]) == (pytest.approx(start), stop)
        assert all(min(start, stop) - 1e-9 <= level <= max(start, stop) + 1e-9 for level in found)
        assert isinstance(ramp, Cyclic) or found == pytest.approx(sorted(found, reverse=stop < start))
        assert ramp == type(ramp)(**vars(ramp))
        hash(ramp)


def test_cycles_share_the_firings_and_start_anew() -> None:
    found = levels(Cyclic(0.2, 0.8, cycles=3), 0, 20, 2)
    assert [place for place, level in enumerate(found) if level == 0.8] == [3, 6, 9]
    assert [place for place, level in enumerate(found) if level == pytest.approx(0.2)] == [0, 4, 7]


def test_points_may_jump() -> None:
    assert levels(Piecewise(((0, 0.5), (2, 0.0)), jump=True), 7, 11) == [0.5, 0.5, 0.0, 0.0]
    assert levels(one_shot(0.9), 7, 9) == [0.9, 0.9]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Exponential(0.0, 1.0), "never arrives at 1"),
        (lambda: Exponential(1.0, 0.5), "never arrives at 1, nor leaves it"),
        (lambda: Piecewise(()), "needs points whose times rise"),
        (lambda: Piecewise(((3, 0.1), (3, 0.2))), r"these are at \[3, 3\]"),
        (lambda: levels(Cyclic(0.0, 0.5, cycles=3), 0, 5), "3 cycles need two firings each, and this window fires 5 times"),
    ],
)
def test_a_ramp_that_means_nothing_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

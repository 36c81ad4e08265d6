"""Windows fire when they say, and schedules give the ancestor's numbers."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.schedules import BaiduThreshold, Clock, Moment, Ramp, Window, at

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
    levels = [Ramp(start, stop)(moment) for moment in Window(begin, end, every).firings()]
    assert " ".join(printed(level) for level in levels) == AGP[row]
    assert levels[-1] == stop  # exactly, not nearly


def test_agp_of_resnet20_filters_at_both_ends() -> None:
    levels = [Ramp(0.1, 0.5)(moment) for moment in Window(0, 30, 2).firings()]
    assert [printed(level) for level in (*levels[:3], *levels[-2:])] == ["0.1", "0.179738", "0.248105", "0.499854", "0.5"]


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


@given(st.integers(0, 30), st.integers(1, 60), st.integers(1, 9), st.sampled_from(["epoch", "step"]))
@settings(max_examples=100)
def test_a_window_is_a_range(begin: int, length: int, every: int, unit: str) -> None:
    window = Window(begin, begin + length, every, unit)  # type: ignore[arg-type]  # hypothesis gives a str
    expected = list(range(begin, begin + length, every))
    clocks = [Clock(epoch=now, step=1000) if unit == "epoch" else Clock(epoch=1000, step=now) for now in range(begin + length + 5)]
    moments = [moment for clock in clocks if (moment := window.at(clock)) is not None]
    assert [moment.now for moment in moments] == expected
    assert list(window.firings()) == moments
    assert moments[-1].now == moments[0].last
    assert moments[-1].progress == 1.0
    assert [moment.progress for moment in moments] == sorted(moment.progress for moment in moments)
    assert all(moment.unit == unit for moment in moments)


def test_progress_is_even_over_the_firings() -> None:
    assert [moment.progress for moment in Window(1, 12, 3).firings()] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_a_window_that_fires_once_is_complete() -> None:
    assert [moment.progress for moment in Window(5, 6).firings()] == [1.0]
    assert Ramp(0.1, 0.9)(Moment(5, 5, 6)) == 0.9


def test_listed_epochs() -> None:
    window = Window(only=(7, 2, 4, 2))
    assert [moment.now for moment in window.firings()] == [2, 4, 7]
    assert [moment.progress for moment in window.firings()] == pytest.approx([0, 0.4, 1])
    assert window.at(Clock(epoch=3)) is None
    assert (window.begin, window.end) == (2, 8)
    assert [Ramp(0.0, 0.5)(moment) for moment in window.firings()] == pytest.approx([0, 0.5 - 0.5 * 0.6**3, 0.5])


def test_an_open_window_never_ends() -> None:
    window = Window(3, None, 2)
    assert [moment.now for moment in islice(window.firings(), 4)] == [3, 5, 7, 9]
    assert window.at(Clock(epoch=10**6 + 1)) is not None


def test_a_ramp_may_fall_and_may_have_any_power() -> None:
    assert [Ramp(0.8, 0.2, power=1)(moment) for moment in Window(0, 4).firings()] == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_a_number_is_a_schedule() -> None:
    assert at(1, Moment()) == 1.0
    assert at(Ramp(0.0, 1.0), Moment(0, 0, 2)) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"begin": 5, "end": 5}, "never fires: its end is excluded"),
        ({"begin": 5, "end": 2, "unit": "step"}, "from step 5 to 2 never fires"),
        ({"begin": -1, "end": 2}, "cannot begin at epoch -1"),
        ({"every": 0}, "a frequency of 0 never fires"),
        ({"only": (-1, 2)}, "never fire as listed"),
    ],
)
def test_a_window_that_never_fires_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Window(**arguments)  # type: ignore[arg-type]  # a table of faults


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (Window(0, 5), Window(5, 9), False),
        (Window(0, 6), Window(5, 9), True),
        (Window(3), Window(100, 200), True),
        (Window(3), Window(0, 3), False),
        (Window(0, 5), Window(50, 90, unit="step"), False),  # with 10 steps an epoch
        (Window(0, 5), Window(0, 9, unit="step"), True),  # whatever an epoch has
        (Window(only=(1, 9)), Window(2, 5), True),
    ],
)
def test_overlap(one: Window, other: Window, overlap: bool) -> None:
    assert one.overlaps(other) is overlap
    assert other.overlaps(one) is overlap


@pytest.mark.parametrize(("steps", "overlap"), [(9, False), (10, False), (11, True)])
def test_overlap_of_epochs_and_steps(steps: int, overlap: bool) -> None:
    epochs, times = Window(2, 5), Window(50, 60, unit="step")
    assert epochs.overlaps(times, steps) is times.overlaps(epochs, steps) is overlap
    assert not Window(7).overlaps(times, steps)
    assert Window(4).overlaps(times, steps)

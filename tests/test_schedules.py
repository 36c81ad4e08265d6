"""Windows fire when they say."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.ramps import Ramp
from limbeck.schedules import Clock, Moment, Window, at


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


def test_an_open_window_has_no_progress_and_says_so() -> None:
    moment = Window(2).at(Clock(epoch=5))
    assert moment is not None
    with pytest.raises(ValueError, match=r"a window without an end has no progress, .* Window\(2, end=\.\.\.\)"):
        _ = moment.progress

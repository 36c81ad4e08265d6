"""When, and how much: windows, moments, and schedules that turn a moment into an amount."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

Unit = Literal["epoch", "step"]


@dataclass(frozen=True)
class Moment:
    """Where a window stands now; all that a schedule may look at. ``now``, ``begin``, ``end`` and ``every`` count ``unit``s."""

    now: int = 0
    begin: int = 0
    end: int = 1
    every: int = 1
    unit: Unit = "epoch"

    @property
    def last(self) -> int:
        """The last firing of the window."""
        return self.begin + (self.end - 1 - self.begin) // self.every * self.every

    @property
    def progress(self) -> float:
        """0 at the first firing, 1 at the last; 1 for a window that fires once.

        >>> [Moment(now, begin=2, end=8, every=2).progress for now in (2, 4, 6)]
        [0.0, 0.5, 1.0]
        """
        span = self.last - self.begin
        return min(1.0, (self.now - self.begin) / span) if span else 1.0


Schedule = Callable[[Moment], float]


def at(amount: float | Schedule, moment: Moment) -> float:
    """The amount at a moment: a plain float is a schedule too.

    >>> at(0.5, Moment()), at(lambda moment: moment.progress, Moment(1, 0, 3))
    (0.5, 0.5)
    """
    return amount(moment) if callable(amount) else float(amount)


@dataclass(frozen=True)
class Ramp:
    """From ``start`` at the first firing to ``stop`` at the last: ``stop + (start - stop) * (1 - progress) ** power``.

    The power 3 is automated gradual pruning (Zhu and Gupta 2017, equation 1). ``stop`` below ``start`` makes a tensor denser.

    >>> [round(Ramp(0.05, 0.7)(Moment(epoch, 2, 20)), 6) for epoch in (2, 3, 19)]
    [0.05, 0.158091, 0.7]
    """

    start: float
    stop: float
    power: float = 3

    def __call__(self, moment: Moment) -> float:
        """The value at ``moment``."""
        return self.stop + (self.start - self.stop) * math.pow(1 - moment.progress, self.power)


@dataclass(frozen=True)
class BaiduThreshold:
    """The threshold of Narang et al. 2017, "Exploring Sparsity in Recurrent Neural Networks", section 3.

    It rises with one slope until ``ramp_epoch_offset`` after the window's begin and with ``ramp_slope_mult`` times that slope after it; ``q``
    is the 0.9 quantile of the dense tensor's absolute weights, as ``--summary percentile`` prints it.

    >>> [round(BaiduThreshold(0.17, 3, 2)(Moment(epoch, 4, 21, 3)), 6) for epoch in (4, 7, 19)]
    [0.007083, 0.0425, 0.2125]

    Raises ``ValueError`` when the slope would change outside of the window, where the formula means nothing and may divide by zero.
    """

    q: float
    ramp_epoch_offset: int
    ramp_slope_mult: float

    def __call__(self, moment: Moment) -> float:
        """The threshold at ``moment``."""
        ramp = moment.begin + self.ramp_epoch_offset
        if not moment.begin <= ramp <= moment.end:
            length = moment.end - moment.begin
            raise ValueError(
                f"ramp_epoch_offset {self.ramp_epoch_offset} must lie within the window: from 0 to {length} {moment.unit}s after its begin"
            )
        start_slope = 2 * self.q * moment.every / (2 * (ramp - moment.begin) + 3 * (moment.end - ramp))
        if moment.now < ramp:
            return start_slope * (moment.now - moment.begin + 1) / moment.every
        ramp_slope = start_slope * self.ramp_slope_mult
        return (start_slope * (ramp - moment.begin + 1) + ramp_slope * (moment.now - ramp + 1)) / moment.every


@dataclass(frozen=True)
class Clock:
    """Where a run stands: the epoch, the minibatch in it, and the optimizer steps done since the run began; all from 0."""

    epoch: int = 0
    minibatch: int = 0
    step: int = 0

    def read(self, unit: Unit) -> int:
        """The epoch or the step."""
        return self.epoch if unit == "epoch" else self.step


@dataclass(frozen=True)
class Window:
    """The "when": ``begin`` included, ``end`` excluded (None: open), every ``every`` epochs or optimizer steps; or ``only`` the listed ones.

    >>> Window(2, 9, 3).at(Clock(epoch=5))
    Moment(now=5, begin=2, end=9, every=3, unit='epoch')
    >>> Window(2, 9, 3).at(Clock(epoch=6)) is None
    True
    >>> Window(only=(1, 4)).at(Clock(epoch=4)).progress
    1.0

    Raises ``ValueError`` for a window that can never fire.
    """

    begin: int = 0
    end: int | None = None
    every: int = 1
    unit: Unit = "epoch"
    only: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.only:
            if min(self.only) < 0:
                raise ValueError(f"{self.unit}s {list(self.only)} never fire as listed: {self.unit}s count from 0")
            object.__setattr__(self, "only", tuple(sorted(set(self.only))))
            object.__setattr__(self, "begin", self.only[0])
            object.__setattr__(self, "end", self.only[-1] + 1)
            return
        if self.begin < 0:
            raise ValueError(f"a window cannot begin at {self.unit} {self.begin}: {self.unit}s count from 0")
        if self.end is not None and self.end <= self.begin:
            raise ValueError(
                f"the window from {self.unit} {self.begin} to {self.end} never fires: its end is excluded and must lie after its begin"
            )
        if self.every < 1:
            raise ValueError(f"a frequency of {self.every} never fires: it must be 1 or more")

    def at(self, clock: Clock) -> Moment | None:
        """The moment when the window fires at this clock, or None."""
        now = clock.read(self.unit)
        if self.only:
            return Moment(now, self.begin, self.only[-1] + 1, 1, self.unit) if now in self.only else None
        if now < self.begin or (self.end is not None and now >= self.end) or (now - self.begin) % self.every:
            return None
        return Moment(now, self.begin, now + 1 if self.end is None else self.end, self.every, self.unit)

    def firings(self) -> Iterator[Moment]:
        """Every firing in order; endless when the window is open."""
        times = self.only or (count(self.begin, self.every) if self.end is None else range(self.begin, self.end, self.every))
        return (moment for time in times if (moment := self.at(Clock(epoch=time, step=time))) is not None)

    def overlaps(self, other: Window, steps_per_epoch: int | None = None) -> bool:
        """Whether the two spans share an epoch or a step.

        Of an epoch and a step only ``steps_per_epoch`` tells; without it the answer is yes where it is yes for every number of them.

        >>> Window(0, 2).overlaps(Window(10, 20, unit="step"), steps_per_epoch=5)
        False
        """
        if self.unit != other.unit and steps_per_epoch is None:
            return self.begin == other.begin == 0
        length = 1 if self.unit == other.unit else steps_per_epoch or 1
        (begin, end), (other_begin, other_end) = (
            [math.inf if time is None else time * (length if window.unit == "epoch" else 1) for time in (window.begin, window.end)]
            for window in (self, other)
        )
        return begin < other_end and other_begin < end

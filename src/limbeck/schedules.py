"""When, and how much: windows, moments, and schedules that turn a moment into an amount."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
    minibatch: int = field(default=0, repr=False)
    """The minibatch of the epoch, where something is renewed more often than the window fires; chance is drawn anew for each."""
    endless: bool = field(default=False, repr=False)
    """Whether the window has no end; ``end`` is then just behind ``now``."""

    @property
    def last(self) -> int:
        """The last firing of the window."""
        return self.begin + (self.end - 1 - self.begin) // self.every * self.every

    @property
    def progress(self) -> float:
        """0 at the first firing, 1 at the last; 1 for a window that fires once.

        >>> [Moment(now, begin=2, end=8, every=2).progress for now in (2, 4, 6)]
        [0.0, 0.5, 1.0]

        Raises ``ValueError`` for a window without an end, which has no last firing.
        """
        if self.endless:
            raise ValueError(f"a window without an end has no progress, which ramps follow; give it one: Window({self.begin}, end=...)")
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

    @property
    def last(self) -> int | None:
        """The last firing; None for an open window.

        >>> Window(2, 9, 3).last
        8
        """
        return None if self.end is None else self.begin + (self.end - 1 - self.begin) // self.every * self.every

    def at(self, clock: Clock) -> Moment | None:
        """The moment when the window fires at this clock, or None."""
        now = clock.read(self.unit)
        if self.only:
            return Moment(now, self.begin, self.only[-1] + 1, 1, self.unit) if now in self.only else None
        if now < self.begin or (self.end is not None and now >= self.end) or (now - self.begin) % self.every:
            return None
        endless = self.end is None
        return Moment(now, self.begin, now + 1 if self.end is None else self.end, self.every, self.unit, endless=endless)

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

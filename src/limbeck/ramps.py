"""How much, as time goes by: ramps from one amount to another, up or down, and the threshold of Baidu; each a function of a moment."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from limbeck.fields import Described, Positive, Sparsity, Whole, pair
from limbeck.schedules import Moment, Schedule


@dataclass(frozen=True)
class Ramp:
    """From ``start`` at the first firing to ``stop`` at the last: ``stop + (start - stop) * (1 - progress) ** power``.

    The power 3 is automated gradual pruning (Zhu and Gupta 2017, equation 1). ``stop`` below ``start`` makes a tensor denser, in all ramps.

    >>> [round(Ramp(0.05, 0.7)(Moment(epoch, 2, 20)), 6) for epoch in (2, 3, 19)]
    [0.05, 0.158091, 0.7]
    """

    start: Sparsity
    stop: Sparsity
    power: Positive = 3

    def __call__(self, moment: Moment) -> float:
        """The value at ``moment``."""
        return self.stop + (self.start - self.stop) * math.pow(1 - moment.progress, self.power)


def linear(start: Sparsity, stop: Sparsity) -> Ramp:
    """From ``start`` at the first firing to ``stop`` at the last, the same amount more each time."""
    return Ramp(start, stop, power=1)


def constant(level: Sparsity) -> Ramp:
    """One level at every firing; a plain number says the same."""
    return Ramp(level, level)


@dataclass(frozen=True)
class Exponential:
    """What is kept shrinks by the same factor each time: ``1 - (1 - start) * ((1 - stop) / (1 - start)) ** progress``.

    So every firing drops the same share of what is left (the rounds of Frankle and Carbin 2019, arXiv 1803.03635).

    >>> [round(Exponential(0.0, 0.488)(Moment(epoch, 0, 4)), 3) for epoch in range(4)]
    [0.0, 0.2, 0.36, 0.488]

    Raises ``ValueError`` when an end is 1: no factor leads to nothing, or from nothing.
    """

    start: Sparsity
    stop: Sparsity

    def __post_init__(self) -> None:
        if 1 in (self.start, self.stop):
            raise ValueError("an exponential ramp never arrives at 1, nor leaves it; end it a little below, as at 0.999")

    def __call__(self, moment: Moment) -> float:
        """The value at ``moment``."""
        share = (1 - self.stop) / (1 - self.start)
        return self.stop if moment.progress == 1 else 1 - (1 - self.start) * math.pow(share, moment.progress)


@dataclass(frozen=True)
class Cosine:
    """Half a wave, flat at both ends: ``stop + (start - stop) * (1 + cos(pi * progress)) / 2``.

    >>> [round(Cosine(0.0, 0.8)(Moment(epoch, 0, 5)), 6) for epoch in range(5)]
    [0.0, 0.117157, 0.4, 0.682843, 0.8]
    """

    start: Sparsity
    stop: Sparsity

    def __call__(self, moment: Moment) -> float:
        """The value at ``moment``."""
        return self.stop + (self.start - self.stop) * (1 + math.cos(math.pi * moment.progress)) / 2


@dataclass(frozen=True)
class Piecewise:
    """Straight lines between ``points``, each ``[epochs or steps since the window's begin, level]``; level before the first and after the last.

    With ``jump`` each level holds until the next point. Dense-sparse-dense (Han et al. 2017, arXiv 1607.04381) is up and down again:

    >>> [Piecewise(((0, 0.0), (2, 0.5), (4, 0.0)))(Moment(epoch, 10, 20)) for epoch in range(10, 16)]
    [0.0, 0.25, 0.5, 0.25, 0.0, 0.0]

    Raises ``ValueError`` without points, and unless their times rise.
    """

    points: tuple[Annotated[tuple[Whole, Sparsity], pair("[epochs or steps, sparsity], as in [5, 0.8]")], ...]
    jump: bool = False

    def __post_init__(self) -> None:
        times = [time for time, _ in self.points]
        if not times or any(later <= earlier for earlier, later in pairwise(times)):
            raise ValueError(f"a piecewise ramp needs points whose times rise, as in [[0, 0.2], [5, 0.8]]; these are at {times}")

    def __call__(self, moment: Moment) -> float:
        """The value at ``moment``."""
        now = moment.now - moment.begin
        last = bisect_right(self.points, now, key=lambda point: point[0])
        if last in (0, len(self.points)) or self.jump:
            return self.points[max(0, last - 1)][1]
        (begin, start), (end, stop) = self.points[last - 1], self.points[last]
        return start + (stop - start) * (now - begin) / (end - begin)

    def arrives(self, begin: int) -> int:
        """The epoch or step from which on the last level holds, in a window that begins at ``begin``.

        >>> one_shot(0.8, after=2).arrives(5), Piecewise(((0, 0.2), (4, 0.5), (9, 0.5))).arrives(0)
        (7, 4)
        """
        moving = [index for index, (_, level) in enumerate(self.points) if level != self.points[-1][1]]
        return begin + self.points[moving[-1] + 1 if moving else 0][0]


def one_shot(stop: Sparsity, after: Whole = 0, start: Sparsity = 0.0) -> Piecewise:
    """``start`` at first, and ``stop`` from ``after`` epochs (or steps) past the window's begin on.

    >>> [one_shot(0.8, after=2)(Moment(epoch, 5, 10)) for epoch in (5, 6, 7, 8)]
    [0.0, 0.0, 0.8, 0.8]
    """
    return Piecewise(((0, start), (after, stop)) if after else ((0, stop),), jump=True)


@dataclass(frozen=True)
class Cyclic:
    """A ramp that is climbed ``cycles`` times, each time anew from ``start`` (cyclical pruning; Srinivas et al. 2022, arXiv 2202.01290).

    The window's firings are shared out evenly; the last firing of each cycle stands at ``stop``.

    >>> [Cyclic(0.0, 0.8, cycles=2, power=1)(Moment(epoch, 0, 6)) for epoch in range(6)]
    [0.0, 0.4, 0.8, 0.0, 0.4, 0.8]

    Raises ``ValueError`` in a window that has not two firings for each cycle.
    """

    start: Sparsity
    stop: Sparsity
    cycles: Annotated[int, Field(ge=1)]
    power: Positive = 3

    def __call__(self, moment: Moment) -> float:
        """The value at ``moment``."""
        firing = (moment.now - moment.begin) // moment.every
        total = (moment.last - moment.begin) // moment.every + 1
        if total < 2 * self.cycles:
            raise ValueError(
                f"{self.cycles} cycles need two firings each, and this window fires {total} times: give it more, or fewer cycles"
            )
        cycle = firing * self.cycles // total
        first, end = (-(-number * total // self.cycles) for number in (cycle, cycle + 1))
        return Ramp(self.start, self.stop, self.power)(Moment(firing, first, end))


RAMPS: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "cosine": Cosine,
    "cyclic": Cyclic,
    "exponential": Exponential,
    "linear": linear,
    "one_shot": one_shot,
    "piecewise": Piecewise,
    "polynomial": Ramp,
}
"""Names of the ramps in a schedule file: ``{ramp: cosine, start: 0.05, stop: 0.8}``; the other keys are the arguments."""

Amount = Annotated[float | Schedule, Described("ramp", RAMPS)]
"""A fraction, or a ramp of it, as an argument of a builder."""


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

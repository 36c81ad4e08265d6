"""Which of a run's snapshots are its best ones: plain data, which a checkpoint holds and a resumed run goes on from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple


class Ranked(NamedTuple):
    """A snapshot: its score (higher is better; of a loss give the negative), its step, and how many weights its masks keep."""

    score: float
    step: int
    kept: int = -1


@dataclass(frozen=True)
class Ranking:
    """The ``most`` best snapshots, the best one first; of equal scores the newer one is the better.

    Only snapshots that keep equally many weights are compared: the first one after masks have changed their number sends all others
    away, because a denser model's better score says nothing of it. A score that is NaN is the lowest of all.

    >>> ranking = Ranking(2).add(31.5, step=100).add(32.0, step=200).add(31.5, step=300)
    >>> ranking.steps, ranking.best.score
    ((200, 300), 32.0)
    >>> ranking.add(30.0, step=400).steps, ranking.add(30.0, step=400, kept=700).steps
    ((200, 300), (400,))

    Raises ``ValueError`` where ``most`` is below 1.
    """

    most: int
    entries: tuple[Ranked, ...] = ()

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"the best {self.most} snapshots are none; keep 1 or more")

    def add(self, score: float, step: int, kept: int = -1) -> Ranking:
        """The ranking after one more snapshot, which need not be in it; one of the same step is replaced."""
        fresh = Ranked(score, step, kept)
        others = [entry for entry in self.entries if entry.kept == kept and entry.step != step]
        return replace(self, entries=tuple(sorted([fresh, *others], key=_rank, reverse=True)[: self.most]))

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of the snapshots, the best one first."""
        return tuple(entry.step for entry in self.entries)

    @property
    def best(self) -> Ranked | None:
        """The best one; None before the first."""
        return self.entries[0] if self.entries else None

    @property
    def state(self) -> list[tuple[float, int, int]]:
        """What a checkpoint holds."""
        return [(entry.score, entry.step, entry.kept) for entry in self.entries]

    def restored(self, state: Iterable[Iterable[float]]) -> Ranking:
        """The ranking with the snapshots of a saved ``state``, of which no more than ``most`` stay.

        >>> Ranking(1).restored(Ranking(2).add(31.5, 100, 7).add(32.0, 200, 7).state).entries
        (Ranked(score=32.0, step=200, kept=7),)
        """
        entries = [Ranked(float(score), int(step), int(kept)) for score, step, kept in state]
        return replace(self, entries=tuple(sorted(entries, key=_rank, reverse=True)[: self.most]))


def _rank(entry: Ranked) -> tuple[float, int]:
    return -math.inf if math.isnan(entry.score) else entry.score, entry.step

"""Batches in groups whose gradients make one update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

from limbeck.apps.translation.batches import Batch, Batches


@dataclass(frozen=True, eq=False)
class Cycles(Sequence[tuple[Batch, ...]]):
    """Groups of ``size`` batches each, in their order; the last group of an epoch has what is left.

    A group is one optimizer step, and so one step of pruning. A slice is again ``Cycles``, and enters an epoch at once.

    >>> from limbeck.apps.translation.batches import Examples, evaluation_batches
    >>> cycles = Cycles(evaluation_batches(Examples.of([[5], [6], [7]]), sentences=1), size=2)
    >>> [len(group) for group in cycles], len(cycles[1:])
    ([2, 1], 1)

    Raises ``ValueError`` for a size below 1.
    """

    batches: Batches
    size: int = 1
    window: range | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"update_cycle is a number of batches, 1 or more, not {self.size}")

    def epoch(self, number: int) -> Cycles:
        """All groups of an epoch, counted from 0."""
        return replace(self, batches=self.batches.epoch(number), window=None)

    @property
    def _window(self) -> range:
        return range(-(-len(self.batches) // self.size)) if self.window is None else self.window

    def __len__(self) -> int:
        return len(self._window)

    @overload
    def __getitem__(self, step: int) -> tuple[Batch, ...]: ...
    @overload
    def __getitem__(self, step: slice) -> Cycles: ...
    def __getitem__(self, step: int | slice) -> tuple[Batch, ...] | Cycles:
        if isinstance(step, slice):
            return replace(self, window=self._window[step])
        begin = self._window[step] * self.size
        return tuple(self.batches[place] for place in range(begin, min(begin + self.size, len(self.batches))))

"""What a row of measured points says between them: how much the loss rises when one parameter is pruned to any level."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from limbeck.errors import DataError
from limbeck.pruning.selectors import Lowest
from limbeck.sensitivity.rows import Row

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """The rise of the loss over the fraction that is pruned: 0 at 0, never falling, straight between measured points.

    >>> Curve((0.0, 0.5, 0.9), (0.0, 0.1, 0.5)).at([0.25, 0.7])
    array([0.05, 0.3 ])
    """

    levels: tuple[float, ...]
    rises: tuple[float, ...]

    @property
    def highest(self) -> float:
        """The highest level that was measured."""
        return self.levels[-1]

    def at(self, level: ArrayLike) -> Floats:
        """The rise at levels up to the highest."""
        return np.interp(np.asarray(level, dtype=np.float64), self.levels, self.rises)


def envelope(points: Iterable[tuple[float, float]], dense: float) -> Curve:
    """The lowest curve that never falls and lies above all points ``(level, loss)``: a dip behind a rise is chance, not a gain.

    It ends before the first loss that is not finite.

    >>> envelope([(0.2, 1.3), (0.4, 1.2), (0.6, 2.0), (0.8, float("inf"))], dense=1.25)
    Curve(levels=(0.0, 0.2, 0.4, 0.6), rises=(0.0, 0.05..., 0.05..., 0.75))
    """
    levels, rises = [0.0], [0.0]
    for level, loss in sorted(points):
        if not math.isfinite(loss):
            break
        rise = max(rises[-1], loss - dense)
        if level == levels[-1]:
            rises[-1] = rise if level else 0.0
        else:
            levels.append(level)
            rises.append(rise)
    return Curve(tuple(levels), tuple(rises))


def curves(rows: Sequence[Row], units: Mapping[str, int], column: Callable[[Row], float] = lambda row: row.loss) -> dict[str, Curve]:
    """The curve of each parameter that ``units`` tells the number of units of; a level counts as the fraction of them that it drops.

    Raises ``DataError`` when the dense model was not measured, or a parameter was not.
    """
    dense = next((column(row) for row in rows if row.sparsity == 0), None)
    if dense is None:
        raise DataError("the table has no row at sparsity 0, with which the others are compared; measure the level 0 too")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in units}
    for row in rows:
        if row.parameter in found:
            number = units[row.parameter]
            found[row.parameter].append((Lowest().dropped(row.sparsity, number) / number, column(row)))
    if missing := [name for name, points in found.items() if not points]:
        raise DataError(f"the table has no rows of {', '.join(missing)}; go on with the analysis")
    return {name: envelope(points, dense) for name, points in found.items()}

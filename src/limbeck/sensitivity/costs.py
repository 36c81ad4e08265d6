"""What pruning saves: weights and multiplications of a model by how many units of which parameters are dropped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Axis = tuple[str, int]
Dropped = Mapping[str, int]
"""By parameter: how many of its units go."""


@dataclass(frozen=True)
class Costs:
    """A model as boxes: each tensor costs ``price`` times its number of elements, and a unit that goes shortens axes of one or several.

    >>> convolutions = Costs({"a": (4, 3), "b": (8, 4)}, {"a": 1.0, "b": 2.0}, {"a": 4}, {"a": {("a", 0): 1, ("b", 1): 1}})
    >>> convolutions.total({}), convolutions.total({"a": 2})
    (76.0, 38.0)
    """

    sizes: Mapping[str, tuple[int, ...]]
    prices: Mapping[str, float]
    units: Mapping[str, int]
    """How many units the prunable parameters have."""
    shortens: Mapping[str, Mapping[Axis, float]]
    """How many places of which axes go with one unit of a parameter."""

    def total(self, dropped: Dropped) -> float:
        """What is left, tensors without a price left out."""
        return sum(self.prices[name] * math.prod(self._lengths(name, dropped)) for name in self.prices)

    def along(self, parameter: str, counts: ArrayLike, dropped: Dropped) -> Floats:
        """The total for each of ``counts`` in place of what is dropped of one parameter, less what does not depend on it."""
        counts = np.asarray(counts, dtype=np.float64)
        others = {name: count for name, count in dropped.items() if name != parameter}
        shortened, found = self.shortens[parameter], np.zeros(len(counts))
        for name in self._touched[parameter]:
            volume = np.full(len(counts), self.prices[name])
            for axis, length in enumerate(self._lengths(name, others)):
                volume *= np.maximum(length - shortened.get((name, axis), 0) * counts, 0)
            found += volume
        return found

    def only(self, parameters: Mapping[str, object]) -> Costs:
        """With these parameters to be pruned and no others."""
        return replace(
            self,
            units={name: number for name, number in self.units.items() if name in parameters},
            shortens={name: axes for name, axes in self.shortens.items() if name in parameters},
        )

    def _lengths(self, name: str, dropped: Dropped) -> list[float]:
        lengths = [float(size) for size in self.sizes[name]]
        for parameter in self._touching.get(name, ()):
            if count := dropped.get(parameter, 0):
                for axis in range(len(lengths)):
                    lengths[axis] -= self.shortens[parameter].get((name, axis), 0) * count
        return [max(length, 0.0) for length in lengths]

    @cached_property
    def _touched(self) -> dict[str, list[str]]:
        return {
            parameter: [name for name in dict.fromkeys(name for name, _ in axes) if name in self.prices]
            for parameter, axes in self.shortens.items()
        }

    @cached_property
    def _touching(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for parameter, names in self._touched.items():
            for name in names:
                found.setdefault(name, []).append(parameter)
        return found

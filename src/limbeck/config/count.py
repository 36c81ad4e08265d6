"""How many elements a pruner drops at a moment, as far as that is known without data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from limbeck.pruning import Pruner
from limbeck.schedules import Moment, at
from limbeck.tile import TENSOR, Tile


@dataclass(frozen=True)
class Dropped:
    """The elements that fall at one moment: of each target, and of all together where they share a pool; None depends on data."""

    each: Mapping[str, int | None]
    together: int | None = None


@dataclass(frozen=True)
class _Cut:
    """How one target is cut: its elements, its units and their size (None: partial ones differ), and its pools by their number of real units."""

    numel: int
    units: int
    size: int | None
    pools: tuple[tuple[int, int, int], ...]
    """``(how many pools, units of each, real ones among them)``."""

    def elements(self, units: int) -> int | None:
        """How many elements so many units hold."""
        if self.size is not None:
            return units * self.size
        return {0: 0, self.units: self.numel}.get(units)


class Counter:
    """Counts for one pruner, whose targets are the parameters' names, and the ``shapes`` of these.

    >>> Counter(Pruner({"w": 0.5}, pool=Tile((1, 4), pad=True)), {"w": (2, 6)}).dropped(Moment()).each
    {'w': 4}
    """

    def __init__(self, pruner: Pruner, shapes: Mapping[str, Sequence[int]]) -> None:
        self.pruner, self._shapes = pruner, shapes
        self.joint = pruner.pool is None and pruner.tie is None and len(pruner.targets) > 1
        self._count = getattr(pruner.select, "dropped", None)
        pool = TENSOR if pruner.pool is None else pruner.pool
        self._shapes = {name: shapes[name] for name in pruner.targets}
        self._cuts = {name: _cut(pruner.unit_of(name), pool, shape) for name, shape in self._shapes.items()}
        if pruner.tie is not None and self._cuts:
            leader = next((name for name, target in pruner.targets.items() if getattr(target, "leads", False)), next(iter(self._cuts)))
            self._cuts = {name: replace(cut, pools=self._cuts[leader].pools) for name, cut in self._cuts.items()}

    def dropped(self, moment: Moment) -> Dropped:
        """What falls at a moment, of all targets."""
        if self._count is None:
            return Dropped(dict.fromkeys(self._cuts))
        if self.joint:
            return self._together(moment)
        amounts = self.pruner.amounts(self._shapes, moment)
        return Dropped({name: cut.elements(self._units(cut, amounts[name])) for name, cut in self._cuts.items()})

    def draws_anew(self, moment: Moment) -> bool:
        """Whether the amounts are of chance, which is drawn anew for each minibatch in which masks are renewed."""
        return self.pruner.amounts(self._shapes, moment) != self.pruner.amounts(self._shapes, replace(moment, minibatch=1))

    def _units(self, cut: _Cut, amount: float) -> int:
        """How many units fall; what lies outside of the tensor falls first."""
        assert self._count is not None
        return sum(number * max(0, self._count(amount, units) - (units - real)) for number, units, real in cut.pools)

    def _together(self, moment: Moment) -> Dropped:
        """One pool: what falls of each target depends on the data, but for the ends."""
        assert self._count is not None
        cuts = self._cuts.values()
        units = sum(cut.units for cut in cuts)
        fallen = self._count(at(next(iter(self.pruner.targets.values())), moment), units)
        if fallen in (0, units):
            each = {name: cut.numel if fallen else 0 for name, cut in self._cuts.items()}
            return Dropped(each, sum(each.values()))
        sizes = {cut.size for cut in cuts if cut.units}
        size = sizes.pop() if len(sizes) == 1 else None
        return Dropped(dict.fromkeys(self._cuts), None if size is None else fallen * size)


def _cut(unit: Tile, pool: Tile, shape: Sequence[int]) -> _Cut:
    numel = math.prod(shape)
    if not numel:
        return _Cut(0, 0, 0, ())
    grid, size = unit.grid(shape), math.prod(unit.block(shape))
    units = math.prod(grid)
    return _Cut(numel, units, size if units * size == numel else None, tuple(_pools(pool, grid)))


def _pools(pool: Tile, grid: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """The pools of a grid of units: full ones, and those that reach over the end of one or more axes."""
    block = pool.block(grid)
    spans = [[(length // size, size), (1, length % size)] for size, length in zip(block, grid, strict=True)]
    for parts in product(*spans):
        number, real = math.prod(count for count, _ in parts), math.prod(length for _, length in parts)
        if number and real:
            yield number, math.prod(block), real

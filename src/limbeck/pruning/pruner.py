"""Fold, score, select, unfold: every pruner is these four steps, and a composition of four values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from limbeck.errors import MaskError
from limbeck.pruning._select import lowest_magnitude
from limbeck.pruning.criteria import Criterion, Units, l1
from limbeck.pruning.selectors import Lowest
from limbeck.schedules import Moment, Schedule, at
from limbeck.tile import ELEMENT, TENSOR, Tile

T = TypeVar("T")

Selector = Callable[[Tensor, Tensor | None, float], Tensor]
"""``(scores, kept, amount) -> keep``, all ``[pools, units]``."""

Tie = Callable[[list[Tensor]], Tensor]
"""One verdict for several tensors: their scores, ``[units]`` each, to one."""


@dataclass
class Site:
    """A parameter as a pruner sees it: the weight, its mask so far, and what was measured of it."""

    weight: Tensor
    keep: Tensor | None = None
    grad: Tensor | None = None
    stats: Mapping[str, Tensor] = field(default_factory=dict)
    memo: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Pruner:
    """A pruner is a composition: which tensors and how much, scored how, cut into which units, competing where, selected how.

    ``targets`` maps parameter names to an amount or a schedule of it. ``unit`` is what lives or dies as one, ``pool`` who competes with whom
    (None: all targets together), ``select`` turns scores into what is kept, ``tie`` gives several tensors one verdict.

    >>> pruner = Pruner({"weight": 0.5})
    >>> pruner.masks({"weight": Site(torch.tensor([[1.0, -3.0], [2.0, -4.0]]))}, Moment())
    {'weight': tensor([[False,  True],
            [False,  True]])}
    """

    targets: Mapping[str, float | Schedule]
    score: Criterion = l1
    unit: Tile = ELEMENT
    pool: Tile | None = TENSOR
    select: Selector = field(default_factory=Lowest)
    tie: Tie | None = None

    def masks(self, sites: Mapping[str, Site], moment: Moment) -> dict[str, Tensor]:
        """The new mask of every site, each named in ``targets``; raises ``MaskError``, naming the tensor, where none can be made."""
        amounts = {name: _named(name, partial(at, self.targets[name], moment)) for name in sites}
        if self._is_plain_magnitude():
            return {name: _named(name, partial(self._lowest_magnitude, site, amounts[name])) for name, site in sites.items()}
        scores = {name: _named(name, partial(self._scores, site, amounts[name], moment)) for name, site in sites.items()}
        if self.tie is not None:
            verdict = self.tie(list(scores.values()))
            scores = dict.fromkeys(scores, verdict)
        if self.pool is None:
            return self._masks_together(sites, scores, amounts)
        return {name: _named(name, partial(self._choose, site, scores[name], amounts[name], self.pool)) for name, site in sites.items()}

    def _is_plain_magnitude(self) -> bool:
        return self.score is l1 and self.unit == ELEMENT and self.pool == TENSOR and self.tie is None and type(self.select) is Lowest

    def _lowest_magnitude(self, site: Site, amount: float) -> Tensor:
        assert isinstance(self.select, Lowest)
        return lowest_magnitude(site.weight, site.keep, self.select.dropped(amount, site.weight.numel()))

    def _scores(self, site: Site, amount: float, moment: Moment) -> Tensor:
        fold, shape = self.unit.fold, site.weight.shape
        grad = None if site.grad is None else fold(site.grad)
        stats = {key: fold(value.expand(shape)) for key, value in site.stats.items()}
        return self.score(Units(fold(site.weight), amount, moment, site.memo, grad, stats))

    def _kept_units(self, site: Site) -> Tensor | None:
        return None if site.keep is None else self.unit.fold(site.keep).any(1)

    def _choose(self, site: Site, scores: Tensor, amount: float, pool: Tile | None) -> Tensor:
        assert pool is not None
        grid = self.unit.grid(site.weight.shape)
        units = self._kept_units(site)
        kept = None if units is None else pool.fold(units.reshape(grid))
        keep = self.select(pool.fold(scores.reshape(grid)), kept, amount)
        return self._spread(pool.unfold(keep, grid).reshape(-1), site)

    def _masks_together(self, sites: Mapping[str, Site], scores: Mapping[str, Tensor], amounts: Mapping[str, float]) -> dict[str, Tensor]:
        if len(set(amounts.values())) != 1:
            raise MaskError(f"a pool of all tensors needs one amount for all of them, not {dict(amounts)}")
        kept = [
            units if (units := self._kept_units(site)) is not None else torch.ones_like(scores[name], dtype=torch.bool)
            for name, site in sites.items()
        ]
        keep = self.select(torch.cat(list(scores.values()))[None], torch.cat(kept)[None], next(iter(amounts.values())))[0]
        shares = torch.split(keep, [len(values) for values in scores.values()])
        return {name: self._spread(share, sites[name]) for name, share in zip(scores, shares, strict=True)}

    def _spread(self, keep: Tensor, site: Site) -> Tensor:
        return self.unit.unfold(keep[:, None], site.weight.shape).contiguous()


def _named(name: str, make: Callable[[], T]) -> T:
    """Give an error that was raised deep the name of its tensor, once, at the boundary."""
    try:
        return make()
    except (MaskError, ValueError) as error:
        raise MaskError(f"'{name}': {error}") from error

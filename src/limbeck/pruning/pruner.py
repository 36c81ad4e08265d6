"""Fold, score, select, unfold: every pruner is these four steps, and a composition of four values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from limbeck.errors import MaskError
from limbeck.groups import misfit
from limbeck.pruning._select import lowest, lowest_magnitude, lowest_together, refuse_nan
from limbeck.pruning.criteria import BATCH_NORM, Criterion, Units, l1
from limbeck.pruning.selectors import KeptRounded, Lowest, Remaining
from limbeck.schedules import Moment, Schedule, at
from limbeck.tile import ALL, ELEMENT, TENSOR, Tile

T = TypeVar("T")

Selector = Callable[[Tensor, Tensor | None, float], Tensor]
"""``(scores, kept, amount) -> keep``, all ``[pools, units]``."""

Tie = Callable[[list[Tensor]], Tensor]
"""One verdict for several tensors: their scores, ``[units]`` each, to one."""

Way = Literal["follow", "joint", "none"]
"""What becomes of all that is coupled to a whole filter, channel, row or column that falls.

``follow``: its bias falls with it, and the scale and shift of the norm behind it. ``joint``: that too, and all tensors that compute the same units, as
those do whose outputs are added, are ranked and cut as one. ``none``: nothing.
"""

Allot = Callable[[Mapping[str, Sequence[int]], Mapping[str, float]], Mapping[str, float]]
"""``(shapes, amounts) -> amounts``: what each tensor gives up of what is asked of all."""


@dataclass
class Site:
    """A parameter as a pruner sees it: the weight, its mask so far, and what was measured of it."""

    weight: Tensor
    keep: Tensor | None = None
    grad: Tensor | None = None
    stats: Mapping[str, Tensor] = field(default_factory=dict)
    """What was observed, by key; each broadcasts against the weight."""
    memo: dict[str, float] = field(default_factory=dict)
    removed: Mapping[int, int] = field(default_factory=dict)
    """How many positions of each axis thinning has taken out."""


@dataclass(frozen=True)
class Cut:
    """A target's amount with a unit of its own, for pruners whose targets are cut in different ways; None: the pruner's.

    It is a schedule, and so stands wherever an amount does.

    >>> Cut(0.5, Tile((1,)))(Moment())
    0.5
    """

    amount: float | Schedule
    unit: Tile | None = None
    leads: bool = False
    """Whether ``tie`` sees this target first: the leader of ``first``."""

    def __call__(self, moment: Moment) -> float:
        """The amount at ``moment``."""
        return at(self.amount, moment)


def first(scores: list[Tensor]) -> Tensor:
    """The tie that lets one tensor decide for all: the first that leads, or else the first of the model."""
    return scores[0]


@dataclass(frozen=True)
class Pruner:
    """A pruner is a composition: which tensors and how much, scored how, cut into which units, competing where, selected how.

    ``targets`` maps parameter names to an amount or a schedule of it. ``unit`` is what lives or dies as one, ``pool`` who competes with whom
    (None: all targets together; a last pool that is padded competes for what a full one would keep), ``select`` turns scores into what is
    kept, ``tie`` gives several tensors one verdict. ``rescale`` divides what is kept by the kept fraction wherever the mask is soft, and
    ``allot`` spreads the amounts over the tensors by their shapes. ``coupling`` says what falls with a unit, where the model's graph is known.

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
    rescale: bool = False
    allot: Allot | None = None
    coupling: Way = "follow"

    @property
    def needs(self) -> Any:
        """What the criterion must have observed before it can score, or None."""
        return getattr(self.score, "needs", None)

    def unit_of(self, name: str) -> Tile:
        """What lives or dies as one in a target.

        >>> Pruner({"conv.weight": Cut(0.5, Tile((1,))), "fc.weight": 0.9}).unit_of("conv.weight")
        Tile(sizes=(1,), rest=-1)
        """
        target = self.targets[name]
        return self.unit if not isinstance(target, Cut) or target.unit is None else target.unit

    def amounts(self, shapes: Mapping[str, Sequence[int]], moment: Moment) -> Mapping[str, float]:
        """What falls of each parameter at a moment, of all that are pruned, which have these ``shapes``; known without their values.

        >>> Pruner({"fc.weight": 0.5}).amounts({"fc.weight": (3, 4)}, Moment())
        {'fc.weight': 0.5}
        """
        amounts = {name: _named(name, partial(at, self.targets[name], moment)) for name in shapes}
        return amounts if self.allot is None else self.allot(shapes, amounts)

    def misfits(self, targets: Mapping[str, float | Schedule], shapes: Mapping[str, Sequence[int]]) -> Iterator[str]:
        """What is wrong with parameters that no mask can be made for, whatever they hold; ``targets`` are resolved, and have ``shapes``.

        >>> next(Pruner({"*": 0.5}, unit=Tile((1, 1, -1))).misfits({"fc.weight": 0.5}, {"fc.weight": (3, 4)}))
        "'fc.weight' cannot be cut into units: a shape of (3, 4) has no groups of type 2D; they take 3 axes or more"
        """
        resolved, counts, unfit = replace(self, targets=targets), dict[str, int](), getattr(self.score, "misfit", None)
        for name in targets:
            unit = resolved.unit_of(name)
            message = misfit(unit, shapes[name])
            if message is None and self.pool is not None and math.prod(shapes[name]) > 0:
                message = misfit(self.pool, unit.grid(shapes[name]))
            if message is not None:
                yield f"'{name}' cannot be cut into units: {message}"
            elif unfit is not None and (message := unfit(name, shapes[name], unit)) is not None:
                yield f"'{name}' {message}"
            else:
                counts[name] = math.prod(unit.grid(shapes[name]))
        if self.tie is not None:
            names = resolved._leaders_first(counts)
            yield from (f"'{name}' {_unequal(counts, name, names[0])}" for name in names if counts[name] != counts[names[0]])

    def masks(self, sites: Mapping[str, Site], moment: Moment) -> dict[str, Tensor]:
        """The new mask of every site, each named in ``targets``; raises ``MaskError``, naming the tensor, where none can be made."""
        amounts = self.amounts({name: site.weight.shape for name, site in sites.items()}, moment)
        if all(self._is_plain_magnitude(name, site) for name, site in sites.items()):
            return self._masks_of_magnitudes(sites, amounts)
        views, scores = self.scored(sites, moment)
        removed = {name: self.removed(name, site) for name, site in sites.items()}
        if self.tie is not None:
            return replace(self, select=self.left(removed[self._leaders_first(views)[0]]))._masks_tied(self.tie, views, scores)
        if self.pool is None:
            return replace(self, select=self.left(sum(removed.values())))._masks_together(views, scores)
        return {
            name: _named(name, partial(replace(self, select=self.left(removed[name]))._mask, units, scores[name], self.pool))
            for name, units in views.items()
        }

    def scored(self, sites: Mapping[str, Site], moment: Moment) -> tuple[dict[str, Units], dict[str, Tensor]]:
        """The units of every site, and their scores, ``[units]``; raises ``MaskError``, naming the tensor, where there are none."""
        amounts = self.amounts({name: site.weight.shape for name, site in sites.items()}, moment)
        views = {name: _named(name, partial(self._units, name, site, amounts[name], moment)) for name, site in sites.items()}
        return views, {name: _named(name, partial(_scored, self.score, units)) for name, units in views.items()}

    def removed(self, name: str, site: Site) -> int:
        """How many of a tensor's units thinning has taken out; of units that share no axis with others, as filters do not."""
        if not site.removed:
            return 0
        unit = self.unit_of(name)
        sizes = (*unit.sizes, *[unit.rest] * (site.weight.dim() - len(unit.sizes)))
        return site.removed.get(sizes.index(1), 0) if sorted(sizes) == [*[ALL] * (len(sizes) - 1), 1] else 0

    def left(self, removed: int) -> Selector:
        """The selector, for units of which some are out of the model already."""
        return Remaining(self.select, removed) if removed and isinstance(self.select, Lowest | KeptRounded) else self.select

    def _is_plain_magnitude(self, name: str, site: Site) -> bool:
        """Whether a target's scores are its magnitudes, of which the lowest fall: then none of them is copied."""
        plain = self.score is l1 and self.tie is None and isinstance(self.select, Lowest | KeptRounded)
        whole = self.pool is None or self.pool == TENSOR or not _named(name, partial(self.pool.pads, site.weight.shape))
        return plain and whole and self.unit_of(name) == ELEMENT and BATCH_NORM not in site.stats and not self.removed(name, site)

    def _masks_of_magnitudes(self, sites: Mapping[str, Site], amounts: Mapping[str, float]) -> dict[str, Tensor]:
        if self.pool is None:
            weights = {name: site.weight for name, site in sites.items()}
            return self._chosen_together(weights, {name: site.keep for name, site in sites.items()}, amounts, magnitude=True)
        return {name: _named(name, partial(self._lowest_magnitudes, site, amounts[name], self.pool)) for name, site in sites.items()}

    def _lowest_magnitudes(self, site: Site, amount: float, pool: Tile) -> Tensor:
        assert isinstance(self.select, Lowest | KeptRounded)
        if pool == TENSOR:
            return lowest_magnitude(site.weight, site.keep, self.select.dropped(amount, site.weight.numel()))
        weight, kept = pool.fold(site.weight), None if site.keep is None else pool.fold(site.keep)
        keep = lowest(weight, kept, self.select.dropped(amount, weight.shape[1]), magnitude=True)
        return pool.unfold(keep, site.weight.shape).contiguous()

    def _units(self, name: str, site: Site, amount: float, moment: Moment) -> Units:
        unit = self.unit_of(name)
        unit.grid(site.weight.shape)
        return Units(site.weight.detach(), amount, moment, site.memo, site.grad, site.stats, site.keep, name, unit)

    def _mask(self, units: Units, scores: Tensor, pool: Tile) -> Tensor:
        return spread(self._chosen(units, scores, units.kept, pool), units)

    def _chosen(self, units: Units, scores: Tensor, kept: Tensor | None, pool: Tile) -> Tensor:
        """Which units are kept, bool ``[units]``."""
        grid = units.unit.grid(units.tensor.shape)
        kept = None if kept is None else pool.fold(kept.reshape(grid))
        return pool.unfold(self.select(pool.fold(scores.reshape(grid), fill=-math.inf), kept, units.amount), grid).reshape(-1)

    def _leaders_first(self, names: Iterable[str]) -> list[str]:
        return sorted(names, key=lambda name: not getattr(self.targets[name], "leads", False))

    def _masks_tied(self, tie: Tie, views: Mapping[str, Units], scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One choice for all; a unit counts as kept so far when any tensor keeps it."""
        names, counts = self._leaders_first(views), {name: len(scores[name]) for name in views}
        leader = names[0]
        for name in names:
            if counts[name] != counts[leader]:
                raise MaskError(f"'{name}' {_unequal(counts, name, leader)}")
            _named(name, partial(refuse_nan, scores[name]))  # also of a tensor that only follows: its run has diverged too
        one_amount({name: units.amount for name, units in views.items()}, "one verdict for all tensors")
        verdict = tie([scores[name] for name in names])
        masks = [units.kept for units in views.values() if units.mask is not None]
        kept = torch.stack([mask for mask in masks if mask is not None]).any(0) if len(masks) == len(views) else None
        keep = self._chosen(views[leader], verdict, kept, TENSOR if self.pool is None else self.pool)
        return {name: spread(keep, units) for name, units in views.items()}

    def _masks_together(self, views: Mapping[str, Units], scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kept, amounts = {name: units.kept for name, units in views.items()}, {name: units.amount for name, units in views.items()}
        return {name: spread(keep, views[name]) for name, keep in self._chosen_together(scores, kept, amounts).items()}

    def _chosen_together(
        self, scores: Mapping[str, Tensor], kept: Mapping[str, Tensor | None], amounts: Mapping[str, float], magnitude: bool = False
    ) -> dict[str, Tensor]:
        """Which units of several tensors are kept, in each tensor's shape; a score that is NaN is reported by its tensor."""
        amount, parts = one_amount(amounts, "a pool of all tensors"), list(scores.values())
        try:
            if isinstance(self.select, Lowest | KeptRounded | Remaining):
                dropped = self.select.dropped(amount, sum(part.numel() for part in parts))
                keep = lowest_together(parts, list(kept.values()), dropped, magnitude)
            else:
                known = [torch.ones_like(scores[name], dtype=torch.bool) if mask is None else mask for name, mask in kept.items()]
                keep = list(
                    torch.split(self.select(torch.cat(parts)[None], torch.cat(known)[None], amount)[0], [len(part) for part in parts])
                )
        except MaskError:
            for name, part in scores.items():
                _named(name, partial(refuse_nan, part))
            raise
        return dict(zip(scores, keep, strict=True))


def _scored(score: Criterion, units: Units) -> Tensor:
    """The scores; raises ``MaskError`` when a criterion, which may be the user's, fails or gives something else."""
    number = math.prod(units.unit.grid(units.tensor.shape))
    try:
        scores = score(units)
    except (MaskError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        criterion = getattr(score, "__name__", type(score).__name__)
        raise MaskError(f"the criterion '{criterion}' of its pruner raised {type(error).__name__}: {error}") from error
    if isinstance(scores, Tensor) and scores.shape == (number,) and scores.is_floating_point():
        return scores
    what = f"{scores.dtype} of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
    raise MaskError(f"the criterion gave {what.removeprefix('torch.')}, not a floating-point score for each of {number} units")


def _unequal(counts: Mapping[str, int], name: str, leader: str) -> str:
    return f"has {counts[name]} units and '{leader}' {counts[leader]}: one verdict for both needs equally many; leave one of them out"


def one_amount(amounts: Mapping[str, float], what: str) -> float:
    """The amount of all; raises ``MaskError`` where they differ."""
    if len(set(amounts.values())) != 1:
        raise MaskError(f"{what} needs one amount for all of them, not {dict(amounts)}")
    return next(iter(amounts.values()))


def spread(keep: Tensor, units: Units) -> Tensor:
    """The mask of whole units; where a unit goes through the whole first axis, one row is written and then copied, at the speed of memory."""
    unit, shape = units.unit, units.tensor.shape
    if len(shape) > 1 and shape[0] > 1 and unit.sizes[:1] == (ALL,):
        return unit.unfold(keep[:, None], (1, *shape[1:])).contiguous().expand(shape).contiguous()
    return unit.unfold(keep[:, None], shape).contiguous()


def _named(name: str, make: Callable[[], T]) -> T:
    """Give an error that was raised deep the name of its tensor, once, at the boundary."""
    try:
        return make()
    except (MaskError, ValueError) as error:
        raise MaskError(f"'{name}': {error}") from error

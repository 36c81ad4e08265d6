"""What a pruner may be given: weights of any shape, precision and kind, masks so far, and what was seen in training."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from laws.rows import Row
from limbeck.needs import Activations, Beside
from limbeck.pruning import Pruner, Site
from limbeck.pruning.pruner import Cut
from limbeck.schedules import Moment

PRECISIONS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
AMOUNTS = st.sampled_from([0.0, 1.0, 0.5, 1 / 3, 0.29, 0.999, 1e-9]) | st.floats(0, 1)
MOMENTS = tuple(replace(Moment(now, 0, 5), minibatch=minibatch) for now, minibatch in ((0, 0), (2, 0), (2, 1), (4, 0)))
WEIGHTS = ("normal", "few", "zeros", "constant", "large")


@dataclass(frozen=True)
class Case:
    """A pruner, what it is asked and what it is given."""

    row: Row
    pruner: Pruner
    shape: tuple[int, ...]
    moment: Moment
    sites: dict[str, Site]

    @property
    def fits(self) -> bool:
        return not list(self.pruner.misfits(self.pruner.targets, dict.fromkeys(self.sites, self.shape)))

    def masks(self) -> dict[str, Tensor]:
        return self.pruner.masks(self.sites, self.moment)


def values(kind: str, shape: tuple[int, ...], chance: torch.Generator) -> Tensor:
    if kind == "normal":
        return torch.randn(shape, generator=chance)
    if kind == "few":
        return torch.randint(-2, 3, shape, generator=chance) / 2
    if kind == "large":
        return torch.randn(shape, generator=chance) * 1000
    return torch.full(shape, 0.0 if kind == "zeros" else -0.75)


def seen(row: Row, pruner: Pruner, name: str, shape: tuple[int, ...], chance: torch.Generator) -> dict[str, Tensor]:
    """What the pruner needs, as a watch would give it: with ties in it, too."""
    need = pruner.needs
    if need is None:
        return {}
    if isinstance(need, Beside):
        measured = torch.randint(0, 3, shape, generator=chance) / 2
    elif isinstance(need, Activations) and need.side == "input":
        measured = torch.randint(0, 4, (1, *shape[1:]), generator=chance) / 2
    elif isinstance(need, Activations):
        measured = torch.randint(0, 4, (shape[0], *[1] * (len(shape) - 1)), generator=chance) / 2
    else:
        unit = pruner.unit_of(name)
        measured = unit.unfold(torch.randint(-3, 4, (math.prod(unit.grid(shape)), 1), generator=chance) / 2, shape)
    return {need.key: measured}


def asked(pruner: Pruner, amount: float) -> Pruner:
    """The same pruner with another amount for all of its targets."""
    targets = {name: replace(old, amount=amount) if isinstance(old, Cut) else amount for name, old in pruner.targets.items()}
    return replace(pruner, targets=targets)


@st.composite
def cases(draw: st.DrawFn, row: Row, sizes: tuple[int, int] = (1, 6)) -> Case:
    """Of any shape: whether that fits the pruner is ``fits``. All targets have one shape."""
    rank = draw(st.sampled_from(row.ranks))
    shape = tuple(draw(st.lists(st.integers(*sizes), min_size=rank, max_size=rank)))
    pruner = asked(row.pruner(), draw(AMOUNTS)) if row.count is not None else row.pruner()
    precision, kind = draw(st.sampled_from(PRECISIONS)), draw(st.sampled_from(WEIGHTS))
    chance = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    masked, sites = draw(st.booleans()), {}
    for name in pruner.targets:
        site = Site(values(kind, shape, chance).to(precision))
        try:
            unit = pruner.unit_of(name)
            grid = math.prod(unit.grid(shape))
            site.stats = seen(row, pruner, name, shape, chance)
        except ValueError:
            sites[name] = site  # no such units: there is nothing more to give
            continue
        if masked:
            site.keep = unit.unfold(torch.rand(grid, 1, generator=chance) < 0.6, shape)
            site.weight = site.weight * site.keep
        sites[name] = site
    return Case(row, pruner, shape, draw(st.sampled_from(MOMENTS)), sites)

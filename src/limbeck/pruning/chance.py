"""Chance that is reproducible: what is drawn is a function of a seed, a parameter's name and the moment, on every rank and after a resume."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.pruning.criteria import Criterion, Units
from limbeck.pruning.selectors import Below
from limbeck.schedules import Moment


def generator(seed: int, name: str, moment: Moment | None = None) -> torch.Generator:
    """A generator of random numbers on the CPU for one parameter at one moment, or, without a moment, for the whole run.

    The global state of torch's random numbers is neither read nor moved.

    >>> one, same, later = (torch.rand(1, generator=generator(0, "fc.weight", Moment(now, 0, 9))).item() for now in (4, 4, 5))
    >>> one == same, one == later
    (True, False)
    """
    when = None if moment is None else (moment.unit, moment.now, moment.minibatch)
    digest = hashlib.sha256(repr((seed, name, when)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class Chance:
    """A criterion of no merit: uniform in (0, 1], ``[units]``; drawn once for the run, or, with ``redraw``, anew at every renewal.

    Drawn once, a rising sparsity drops what it dropped before and more.
    """

    seed: int = 0
    redraw: bool = False

    def __call__(self, units: Units) -> Tensor:
        """The scores."""
        count = math.prod(units.unit.grid(units.tensor.shape))
        drawn = torch.rand(count, generator=generator(self.seed, units.name, units.moment if self.redraw else None))
        return (1 - drawn).to(units.tensor.device)


@dataclass(frozen=True)
class Noise:
    """Another criterion, of which a tensor's scores are, with probability ``epsilon`` at each renewal, multiplied by standard normal noise."""

    score: Criterion
    epsilon: float
    seed: int = 0

    @property
    def needs(self) -> Any:
        """What the other criterion must have observed, or None."""
        return getattr(self.score, "needs", None)

    def __call__(self, units: Units) -> Tensor:
        """The scores."""
        scores = self.score(units)
        chance = generator(self.seed, units.name, units.moment)
        if torch.rand(1, generator=chance).item() >= self.epsilon:
            return scores
        return scores * torch.randn(scores.shape, generator=chance).to(scores.device)


@dataclass(frozen=True)
class Uniform:
    """A schedule: an amount drawn between ``low`` and ``high`` at each moment, another for every ``key``.

    >>> levels = [Uniform(0.2, 0.6)(Moment(epoch, 0, 9)) for epoch in range(9)]
    >>> 0.2 <= min(levels) < max(levels) <= 0.6
    True

    Raises ``ValueError`` when ``high`` is below ``low``.
    """

    low: float
    high: float
    seed: int = 0
    key: str = ""

    def __post_init__(self) -> None:
        if self.high < self.low:
            raise ValueError(f"the range from {self.low} to {self.high} is empty; give the smaller number first")

    def __call__(self, moment: Moment) -> float:
        """The amount at ``moment``."""
        drawn = torch.rand(1, generator=generator(self.seed, self.key, moment), dtype=torch.float64)
        return self.low + (self.high - self.low) * drawn.item()


@dataclass(frozen=True)
class Survivors:
    """As ``Below``, but where nothing of a pool is above the threshold, the best unit stays, unless the threshold is 1.

    With scores of chance each unit falls with the probability ``amount``, and no layer falls as a whole.

    >>> Survivors()(torch.tensor([[0.3, 0.1, 0.2]]), None, 0.9)
    tensor([[ True, False, False]])
    """

    def __call__(self, scores: Tensor, kept: Tensor | None, amount: float) -> Tensor:
        """Keep what is above the threshold, or the best."""
        keep = Below()(scores, kept, amount)
        if amount >= 1:
            return keep
        best = torch.zeros_like(keep).scatter_(1, scores.argmax(1, keepdim=True), value=True)
        return torch.where(keep.any(1, keepdim=True), keep, best)

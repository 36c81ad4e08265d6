"""Criteria: what a unit is worth. Pure functions of ``Units``; higher = keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from limbeck.schedules import Moment


@dataclass(frozen=True)
class Units:
    """One tensor cut into units: all that a criterion may look at. Every tensor is ``[units, members]``."""

    weight: Tensor
    amount: float
    """What the target asks for at this moment: a fraction, a threshold, a sensitivity."""
    moment: Moment
    memo: dict[str, float]
    grad: Tensor | None = None
    stats: Mapping[str, Tensor] | None = None

    def once(self, key: str, measure: Callable[[], float]) -> float:
        """A number of the tensor that is measured the first time and remembered, over checkpoints too."""
        if key not in self.memo:
            self.memo[key] = measure()
        return self.memo[key]


Criterion = Callable[[Units], Tensor]


def l1(units: Units) -> Tensor:
    """Mean absolute weight, ``[units]``."""
    magnitude = units.weight.abs()
    return magnitude[:, 0] if magnitude.shape[1] == 1 else magnitude.mean(1)


def l2(units: Units) -> Tensor:
    """Euclidean norm over the number of members, ``[units]``."""
    return units.weight.square().sum(1).sqrt() / units.weight.shape[1]


def in_standard_deviations(units: Units) -> Tensor:
    """Mean absolute weight in standard deviations of the dense tensor, measured once (Han et al. 2015), ``[units]``."""
    return _over(l1(units), units.once("std", lambda: _deviation(units.weight)))


@dataclass(frozen=True)
class Splicing:
    """Mean absolute weight over ``mean + std * s``, both of the dense tensor and measured once (Guo et al. 2016), ``[units]``.

    ``s`` is the target's sensitivity, which grows by ``sensitivity_multiplier`` times itself with each epoch since the window's begin.
    """

    sensitivity_multiplier: float = 0.0

    def __call__(self, units: Units) -> Tensor:
        """The scores."""
        mean = units.once("mean", lambda: units.weight.abs().mean().item())
        deviation = units.once("abs_std", lambda: _deviation(units.weight.abs()))
        moment = units.moment
        sensitivity = units.amount * ((moment.now - moment.begin) * self.sensitivity_multiplier + 1)
        return _over(l1(units), mean + deviation * sensitivity)


def _deviation(values: Tensor) -> float:
    return values.std().item() if values.numel() > 1 else 0.0


def _over(magnitudes: Tensor, scale: float) -> Tensor:
    """The quotient; over a scale of 0, which a constant tensor has, only zeros stay zero: nothing else is below any threshold."""
    return magnitudes / scale if scale else magnitudes.masked_fill(magnitudes > 0, math.inf)

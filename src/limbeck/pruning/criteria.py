"""Criteria: what a unit is worth. Pure functions of ``Units``; higher = keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from limbeck.pruning._groupwise import Measure, any_kept, reduced
from limbeck.schedules import Moment
from limbeck.tile import FILTERS, Tile

BATCH_NORM = "fold_batchnorm"
"""The measured factor, against the weight, by which the following batch norm scales a filter: ``gamma / sqrt(running_var + eps)``."""

ROWS = 256
"""Distances are formed for so many units at a time."""


@dataclass(frozen=True)
class Units:
    """One tensor and how it is cut into units: all that a criterion may look at.

    ``weight``, ``grad`` and every one of ``stats`` are ``[units, members]``, ``kept`` is ``[units]``; they are formed when they are asked for.
    ``total`` and ``largest`` give one number a unit without forming them.

    >>> units = Units(torch.tensor([[1.0, -2.0], [3.0, 0.0]]), 0.5, Moment(), {})
    >>> units.weight.sum(1), units.total(torch.abs)
    (tensor([-1.,  3.]), tensor([3., 3.]))
    """

    tensor: Tensor
    """The weight in its own shape, of which the other tensors given here have the same or broadcast against it."""
    amount: float
    """What the target asks for at this moment: a fraction, a threshold, a sensitivity."""
    moment: Moment
    memo: dict[str, float]
    gradient: Tensor | None = None
    measured: Mapping[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
    name: str = ""
    """The canonical name of the parameter."""
    unit: Tile = FILTERS

    @cached_property
    def weight(self) -> Tensor:
        """The weight, ``[units, members]``."""
        return self.unit.fold(self.tensor)

    @cached_property
    def grad(self) -> Tensor | None:
        """The gradient, ``[units, members]``, or None."""
        return None if self.gradient is None else self.unit.fold(self.gradient)

    @cached_property
    def stats(self) -> dict[str, Tensor]:
        """What was measured, by key, each ``[units, members]``."""
        return {key: self.unit.fold(value.expand(self.tensor.shape)) for key, value in self.measured.items()}

    @cached_property
    def kept(self) -> Tensor | None:
        """Which units have been kept so far, bool ``[units]``; None when nothing was dropped yet."""
        return None if self.mask is None else any_kept(self.unit, self.mask)

    @cached_property
    def members(self) -> int | Tensor:
        """How many elements a unit has; ``[units]`` where the last ones reach over the tensor's end."""
        shape = self.tensor.shape
        if self.tensor.numel() == math.prod(self.unit.grid(shape)) * (block := math.prod(self.unit.block(shape))):
            return block
        return reduced(self.unit, torch.ones_like(self.tensor), torch.abs)  # beyond the end a folded tensor is 0

    def total(self, measure: Measure, *keys: str) -> Tensor:
        """The sum of ``measure(weight, *measured by these keys)`` over each unit's members, ``[units]``; element by element, in any layout.

        Numbers of 16 bits are summed as float32. Raises ``KeyError`` for a key that was not measured.
        """
        return reduced(self.unit, self.tensor, measure, [self.measured[key] for key in keys])

    def largest(self, measure: Measure, *keys: str) -> Tensor:
        """As ``total``, with the largest in place of the sum."""
        return reduced(self.unit, self.tensor, measure, [self.measured[key] for key in keys], largest=True)

    def once(self, key: str, measure: Callable[[], float]) -> float:
        """A number of the tensor that is measured the first time and remembered, over checkpoints too."""
        if key not in self.memo:
            self.memo[key] = measure()
        return self.memo[key]

    def with_batch_norm(self) -> Units:
        """The same with the weight as the following batch norm scales it, where that was measured."""
        if BATCH_NORM not in self.measured:
            return self
        return replace(self, tensor=self.tensor * self.measured[BATCH_NORM])


Criterion = Callable[[Units], Tensor]
"""``units -> [units]``; an attribute ``needs`` says what it must have observed: a ``Need`` of ``limbeck.needs``, or several.

Two more attributes are for checks before training. ``misfit(name, shape, unit)`` says, as the end of a sentence, why it cannot score a tensor
that is cut into such units; None: it can. ``vectors`` says that it is made for biases and gains.
"""


def l1(units: Units) -> Tensor:
    """Mean absolute weight, ``[units]``."""
    return _mean(units.with_batch_norm(), torch.abs)


def l2(units: Units) -> Tensor:
    """Euclidean norm over the number of members, ``[units]``."""
    units = units.with_batch_norm()
    return (
        units.total(torch.abs)
        if isinstance(units.members, int) and units.members == 1
        else units.total(torch.square).sqrt() / units.members
    )


class Scales:
    """Mean absolute weight of a batch norm's scales, ``[units]``; what is no vector, or a bias, is a misfit.

    >>> Scales().misfit("fc.weight", (3, 4), FILTERS)
    'is no scale of a batch norm: it has a shape of (3, 4), and scales are a vector; name the weights of batch norms'
    """

    vectors = True

    def __call__(self, units: Units) -> Tensor:
        """The scores."""
        return l1(units)

    def misfit(self, name: str, shape: Sequence[int], unit: Tile) -> str | None:
        """Why a parameter cannot be a batch norm's scales."""
        if len(shape) == 1 and not name.endswith("bias"):
            return None
        what = "its name says that it is a bias" if len(shape) == 1 else f"it has a shape of {tuple(shape)}, and scales are a vector"
        return f"is no scale of a batch norm: {what}; name the weights of batch norms"


def maximum(units: Units) -> Tensor:
    """Largest absolute weight, ``[units]``."""
    return units.with_batch_norm().largest(torch.abs)


def _mean(units: Units, measure: Measure) -> Tensor:
    total = units.total(measure)
    return total if isinstance(units.members, int) and units.members == 1 else total / units.members


def geometric_median(units: Units) -> Tensor:
    """Sum of the Euclidean distances to the other units, ``[units]`` (FPGM; He et al. 2019, arXiv 1811.00250).

    The unit nearest to the geometric median of all, whatever its norm, can best be replaced by the others. A unit of zeros is gone: it scores
    0 and counts for no other.
    """
    vectors = units.with_batch_norm().weight.detach().double()
    alive = vectors.ne(0).any(1)
    vectors, squares = vectors[alive], vectors[alive].square().sum(1)
    scores = torch.zeros(len(alive), dtype=torch.float64, device=vectors.device)
    parts = [
        (squares[rows, None] + squares - 2 * vectors[rows] @ vectors.T).clamp_(min=0).sqrt_().sum(1)
        for rows in (slice(begin, begin + ROWS) for begin in range(0, len(vectors), ROWS))
    ]
    scores[alive] = torch.cat([scores[:0], *parts])
    return scores


def in_standard_deviations(units: Units) -> Tensor:
    """Mean absolute weight in standard deviations of the dense tensor, measured once (Han et al. 2015), ``[units]``."""
    return _over(l1(units), units.once("std", lambda: _deviation(units.with_batch_norm().tensor)))


@dataclass(frozen=True)
class Splicing:
    """Mean absolute weight over ``mean + std * s``, both of the dense tensor and measured once (Guo et al. 2016), ``[units]``.

    ``s`` is the target's sensitivity, which grows by ``sensitivity_multiplier`` times itself with each epoch since the window's begin.
    """

    sensitivity_multiplier: float = 0.0

    def __call__(self, units: Units) -> Tensor:
        """The scores."""
        mean = units.once("mean", lambda: units.with_batch_norm().tensor.abs().mean().item())
        deviation = units.once("abs_std", lambda: _deviation(units.with_batch_norm().tensor.abs()))
        moment = units.moment
        sensitivity = units.amount * ((moment.now - moment.begin) * self.sensitivity_multiplier + 1)
        return _over(l1(units), mean + deviation * sensitivity)


def _deviation(values: Tensor) -> float:
    return values.std().item() if values.numel() > 1 else 0.0


def _over(magnitudes: Tensor, scale: float) -> Tensor:
    """The quotient; over a scale of 0, which a constant tensor has, only zeros stay zero: nothing else is below any threshold."""
    return magnitudes / scale if scale else magnitudes.masked_fill(magnitudes > 0, math.inf)

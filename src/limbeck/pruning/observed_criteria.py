"""Criteria that score by what was observed in training: gradients, activations. Each declares its ``needs``; higher = keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.errors import MaskError
from limbeck.needs import CONVOLUTIONS, Activations, Beside, Gradients, Need
from limbeck.pruning._select import lowest
from limbeck.pruning.chance import generator
from limbeck.pruning.criteria import Criterion, Units, l1
from limbeck.pruning.selectors import Lowest
from limbeck.tile import FILTERS, Tile


def observed(units: Units, key: str) -> Tensor:
    """What was observed under ``key``, one number a unit: ``[units]``.

    Raises ``MaskError`` when it was not.
    """
    if key not in units.measured:
        raise MaskError(f"nothing has observed '{key}'; prune through a schedule, which does, or give Site(stats={{'{key}': ...}})")
    return units.stats[key][:, 0]


@dataclass(frozen=True)
class Observed:
    """What was observed, as it stands, times ``sign``: ``[units]``; ``misfit`` and ``vectors`` are as for any ``Criterion``."""

    needs: Need
    sign: float = 1.0
    misfit: Callable[[str, Sequence[int], Tile], str | None] | None = None
    vectors: bool = False

    def __call__(self, units: Units) -> Tensor:
        """The scores."""
        return self.sign * observed(units, self.needs.key)


# --- gradients: what is added up at each step, [units], of weight and grad, [units, members] --------------------------------------------


def _products(weight: Tensor, grad: Tensor) -> Tensor:
    """The sum of weight times gradient over each unit, ``[units]``: to first order, what the loss would lose with the unit."""
    if weight.shape[1] == 1:
        return weight[:, 0].float() * grad[:, 0]
    return (weight.float() * grad).sum(1)


def _add_signed(total: Tensor, weight: Tensor, grad: Tensor) -> None:
    _add_products(total, weight, grad, 1.0)


def _subtract_signed(total: Tensor, weight: Tensor, grad: Tensor) -> None:
    _add_products(total, weight, grad, -1.0)


def _add_products(total: Tensor, weight: Tensor, grad: Tensor, factor: float) -> None:
    if weight.shape[1] == 1:
        total.addcmul_(weight[:, 0], grad[:, 0], value=factor)
    else:
        total.add_(_products(weight, grad), alpha=factor)


def _add_absolute(total: Tensor, weight: Tensor, grad: Tensor) -> None:
    total.add_(_products(weight, grad).abs_())


def _add_squares(total: Tensor, weight: Tensor, grad: Tensor) -> None:
    total.add_(_products(weight, grad).square_())


def _add_magnitudes(total: Tensor, weight: Tensor, grad: Tensor) -> None:
    products = (weight.float() * grad).abs_()
    total.add_(products[:, 0] if products.shape[1] == 1 else products.sum(1))


def _set_magnitude(total: Tensor, weight: Tensor, grad: Tensor) -> None:
    """The last step's only."""
    if grad.shape[1] == 1:
        total.copy_(grad[:, 0]).abs_()
    else:
        torch.sum(grad.abs(), 1, dtype=torch.float32, out=total)


gradient = Observed(Gradients("gradient", _add_absolute, gated=True))
"""``sum over steps of |sum over members of weight * gradient|`` (equation 8 of Molchanov et al. 2017, arXiv 1611.06440, of weights).

Where a batch norm reads a filter its scale stands for the filter's weights, here and in ``taylor`` and ``movement`` (``Gradients.gated``).
"""

signed_gradient = Observed(Gradients("signed_gradient", _add_signed))
"""``sum over steps and members of weight * gradient``, in which opposite signs cancel: the ancestor's score."""

taylor = Observed(Gradients("taylor", _add_squares, gated=True))
"""``sum over steps of (sum over members of weight * gradient) ** 2`` (Molchanov et al. 2019, arXiv 1906.10771)."""

movement = Observed(Gradients("movement", _subtract_signed, lasting=True, gated=True))
"""``-sum over steps and members of weight * gradient``: high for what moves away from zero (Sanh et al. 2020, arXiv 2005.07683).

The sum runs on over renewals, from one period before the window's begin. A dropped weight moves only where a dense copy of it is kept:
``use_double_copies`` in the policy's ``args``.
"""

snip = Observed(Gradients("snip", _add_magnitudes))
"""``sum over members of |weight * gradient|`` (connection sensitivity; Lee et al. 2019, arXiv 1810.02340)."""


# --- activations: [filters, 1, ...], which broadcasts to the weight -----------------------------------------------------------------------


def _mean_of_filters(owner: nn.Module, attribute: str, values: Tensor) -> Tensor | None:
    """The mean over all places of each output channel of a convolution or a Linear layer; None for any other weight."""
    weight = getattr(owner, attribute)
    if attribute != "weight" or not isinstance(owner, (nn.Linear, *CONVOLUTIONS)):
        return None
    channel = values.dim() - (1 if isinstance(owner, nn.Linear) else weight.dim() - 1)
    others = [axis for axis in range(values.dim()) if axis != channel]
    mean = values.mean(others, dtype=torch.float32) if others else values.float()
    return mean.reshape(-1, *[1] * (weight.dim() - 1))


def _share_above_zero(owner: nn.Module, attribute: str, activation: Tensor) -> Tensor | None:
    return _mean_of_filters(owner, attribute, activation > 0)


def _mean_above_zero(owner: nn.Module, attribute: str, activation: Tensor) -> Tensor | None:
    return _mean_of_filters(owner, attribute, activation.relu())


def _no_filters(name: str, shape: Sequence[int], unit: Tile) -> str | None:
    """Why activations, of which there is one number a filter, cannot score such units."""
    if len(shape) > 1 and unit.grid(shape) == FILTERS.grid(shape):
        return None
    what = "which a vector lacks" if len(shape) < 2 else "and its units are no whole filters"
    return (
        f"is scored by the activations of its filters, {what}; give the weight of a convolution or a Linear layer, and granularity filters"
    )


apoz = Observed(Activations("apoz", _share_above_zero), misfit=_no_filters)
"""1 - the average percentage of zeros that a ReLU behind the filter would give (Hu et al. 2016, arXiv 1607.03250).

What follows the filter is the batch norm that reads its output, or else that output itself. A zero is an activation of 0 or less there.
"""

mean_activation = Observed(Activations("mean_activation", _mean_above_zero), misfit=_no_filters)
"""The mean activation that a ReLU behind the filter would give (Molchanov et al. 2017, arXiv 1611.06440, section 2.2)."""

highest_mean_activation = Observed(mean_activation.needs, sign=-1.0, misfit=_no_filters)
"""The ancestor's order: the filters of the highest mean are worth least."""


def _no_follower(name: str, shape: Sequence[int], unit: Tile) -> str | None:
    """Why a parameter has no weight beside it to follow."""
    if len(shape) == 1 and name.rpartition(".")[2] != "weight":
        return None
    what = f"has a shape of {tuple(shape)}, and what follows is a vector" if len(shape) != 1 else "is what a bias follows"
    return f"{what}; name the biases of modules whose weight is pruned"


beside = Observed(Beside(), misfit=_no_follower, vectors=True)
"""The largest magnitude in the same entry of the weight in the same module: 0 where a mask has dropped a filter, a row or a scale."""


# --- regrowth -----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Regrowth:
    """RigL: of the kept units the largest in magnitude survive, and the places left go to the largest gradients (Evci et al. 2020, arXiv 1911.11134).

    A survivor's score is infinite, another unit's is its gradient's magnitude in the last step, so that ``Lowest`` keeps exactly the amount asked
    for. ``drop_fraction / 2 * (1 + cos(pi * progress))`` of the kept units give up their place at each firing; where no gradient was seen yet, none does.
    The first mask, of a parameter that has none, is one of chance, from ``seed``, or one of magnitudes.
    """

    drop_fraction: float = 0.3
    start: Literal["random", "magnitude"] = "random"
    seed: int = 0
    needs: Need = field(default=Gradients("regrowth", _set_magnitude, required=False), init=False)

    def __call__(self, units: Units) -> Tensor:
        """The scores."""
        magnitude, kept = l1(units), units.kept
        if kept is None:
            if self.start == "magnitude":
                return magnitude
            chance = generator(self.seed, units.name, units.moment)
            return torch.rand(magnitude.shape, generator=chance).to(magnitude.device)
        magnitude = magnitude.masked_fill(~kept, -1.0)
        if self.needs.key not in units.measured:
            return magnitude
        number = len(kept)
        leaving = self.drop_fraction / 2 * (1 + math.cos(math.pi * units.moment.progress))
        places = number - Lowest().dropped(units.amount, number)
        survivors = lowest(magnitude[None], kept[None], number - places + math.floor(leaving * places))[0]
        return observed(units, self.needs.key).masked_fill(survivors & kept, math.inf)


OBSERVED_CRITERIA: dict[str, Criterion] = {
    "apoz": apoz,
    "gradient": gradient,
    "mean_activation": mean_activation,
    "movement": movement,
    "snip": snip,
    "taylor": taylor,
}
"""Names of the criteria that need no arguments, for a schedule file."""

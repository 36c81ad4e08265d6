"""Which units stay: selectors turn scores into keep masks, ``(scores, kept, amount) -> keep``, all ``[pools, units]``.

``kept`` is the mask so far, None when nothing was dropped yet. Scores are floats on any device; higher = keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from limbeck.errors import MaskError
from limbeck.pruning._select import lowest, refuse_nan


@dataclass(frozen=True)
class Lowest:
    """Drop the lowest fraction ``amount`` of every pool: exactly ``k`` units, whatever the scores.

    ``k = int(rounding(amount * units))``, with the product in float64 as Distiller takes it: a float such as 0.7, or 0.29 of 100 units, is
    rounded as it stands (28, not 29). ``multiple``, Distiller's ``group_size``, makes ``k`` a multiple of itself, rounded the same way. A pool
    falls as a whole only when the amount is 1. Of units with equal scores those already dropped fall first, then index order.

    >>> import torch
    >>> Lowest()(torch.tensor([[0.3, 0.1, 0.2, 0.1]]), None, 0.25)
    tensor([[ True, False,  True,  True]])

    Raises ``MaskError`` when a score is NaN or the amount is outside [0, 1], ``ValueError`` for a multiple below 1.
    """

    rounding: Callable[[float], float] = math.floor
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.multiple < 1:
            raise ValueError(f"what is dropped cannot be a multiple of {self.multiple}; give a whole number from 1 on")

    def __call__(self, scores: Tensor, kept: Tensor | None, amount: float) -> Tensor:
        """Keep all but the lowest."""
        return lowest(scores, kept, self.dropped(amount, scores.shape[1]))

    def dropped(self, amount: float, units: int) -> int:
        """How many units of a pool fall: known without data.

        >>> Lowest().dropped(0.7, 10), Lowest().dropped(0.29, 100), Lowest(math.ceil).dropped(0.99, 10), Lowest().dropped(1.0, 10)
        (7, 28, 9, 10)
        >>> Lowest(multiple=4).dropped(0.6, 16), Lowest(multiple=4).dropped(0.99, 16), Lowest(multiple=4).dropped(1.0, 16)
        (8, 12, 16)
        """
        refuse_amount(amount)
        most = (units if amount == 1 else units - 1) // self.multiple * self.multiple
        count = units if amount == 1 else self.rounding(amount * units)
        if self.multiple > 1:
            count = self.rounding(count / self.multiple) * self.multiple
        return max(0, min(int(count), most))


@dataclass(frozen=True)
class KeptRounded:
    """Drop the lowest as TensorFlow's model optimization and NeurST count: what is *kept* is rounded, half to even, and is at least one unit.

    ``kept = max(1, round(float32(units) * (1 - float32(amount))))``, all in float32: from some hundred thousand units on that may differ by one
    from exact arithmetic. Ties are broken as in ``Lowest``, so the count is exact where theirs kept every tie.

    >>> import torch
    >>> KeptRounded()(torch.tensor([[0.3, 0.1, 0.2]]), None, 0.99)
    tensor([[ True, False, False]])

    Raises ``MaskError`` when a score is NaN or the amount is outside [0, 1].
    """

    def __call__(self, scores: Tensor, kept: Tensor | None, amount: float) -> Tensor:
        """Keep the highest."""
        return lowest(scores, kept, self.dropped(amount, scores.shape[1]))

    def dropped(self, amount: float, units: int) -> int:
        """How many units of a pool fall: known without data.

        >>> KeptRounded().dropped(0.5, 3), KeptRounded().dropped(0.5, 1), KeptRounded().dropped(0.0784, 1024 * 4096)
        (1, 0, 328834)
        """
        refuse_amount(amount)
        rounded = int(np.rint(np.float32(units) * (np.float32(1) - np.float32(amount))))
        return units - min(units, max(1, rounded))


@dataclass(frozen=True)
class Remaining:
    """What is still to be dropped of units of which thinning has taken ``removed`` out: amounts are fractions of what there was at first.

    >>> Remaining(Lowest(), removed=4).dropped(0.5, 12)
    4
    """

    select: Lowest | KeptRounded
    removed: int

    def __call__(self, scores: Tensor, kept: Tensor | None, amount: float) -> Tensor:
        """Keep all but the lowest."""
        return lowest(scores, kept, self.dropped(amount, scores.shape[1]))

    def dropped(self, amount: float, units: int) -> int:
        """How many of the units that are left fall."""
        return max(0, self.select.dropped(amount, units + self.removed) - self.removed)


@dataclass(frozen=True)
class Below:
    """Drop every unit whose score is not above the threshold ``amount``; how many fall depends on the data.

    >>> import torch
    >>> Below()(torch.tensor([[0.3, 0.1, 0.2]]), None, 0.2)
    tensor([[ True, False, False]])

    Raises ``MaskError`` when a score or the threshold is NaN.
    """

    def __call__(self, scores: Tensor, kept: Tensor | None, amount: float) -> Tensor:
        """Keep what is above the threshold."""
        refuse_nan_threshold(amount)
        refuse_nan(scores.detach())
        return scores > amount


@dataclass(frozen=True)
class Band:
    """Drop below ``amount``, bring back from ``high`` on, and leave what lies between as it is (Guo et al. 2016, dynamic network surgery).

    >>> import torch
    >>> Band(high=0.5)(torch.tensor([[0.1, 0.3, 0.3, 0.5]]), torch.tensor([[True, True, False, False]]), 0.2)
    tensor([[False,  True, False,  True]])

    Raises ``MaskError`` when a score or a threshold is NaN.
    """

    high: float

    def __call__(self, scores: Tensor, kept: Tensor | None, amount: float) -> Tensor:
        """Keep what is high, and what was kept and is not low."""
        refuse_nan_threshold(amount)
        refuse_nan_threshold(self.high)
        refuse_nan(scores.detach())
        stays = scores >= amount
        return (scores >= self.high) | (stays if kept is None else stays & kept)


def refuse_nan_threshold(threshold: float) -> None:
    """Raise ``MaskError`` for a threshold that is NaN."""
    if math.isnan(threshold):
        raise MaskError("the threshold is NaN: nothing is above or below it")


def refuse_amount(amount: float) -> None:
    """Raise ``MaskError`` for a fraction outside [0, 1]."""
    if not 0 <= amount <= 1:
        raise MaskError(f"cannot drop a fraction of {amount}: the amount must lie in [0, 1]")

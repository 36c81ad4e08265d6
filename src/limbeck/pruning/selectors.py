"""Which units stay: selectors turn scores into keep masks, ``(scores, kept, amount) -> keep``, all ``[pools, units]``.

``kept`` is the mask so far, None when nothing was dropped yet. Scores are floats on any device; higher = keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from limbeck.errors import MaskError
from limbeck.pruning._select import lowest, refuse_nan


@dataclass(frozen=True)
class Lowest:
    """Drop the lowest fraction ``amount`` of every pool: exactly ``k`` units, whatever the scores.

    ``k = int(rounding(amount * units))``, with the product in float64 as Distiller takes it: a float such as 0.7, or 0.29 of 100 units, is
    rounded as it stands (28, not 29). A pool falls as a whole only when the amount is 1. Of units with equal scores those already
    dropped fall first, then index order.

    >>> import torch
    >>> Lowest()(torch.tensor([[0.3, 0.1, 0.2, 0.1]]), None, 0.25)
    tensor([[ True, False,  True,  True]])

    Raises ``MaskError`` when a score is NaN or the amount is outside [0, 1].
    """

    rounding: Callable[[float], float] = math.floor

    def __call__(self, scores: Tensor, kept: Tensor | None, amount: float) -> Tensor:
        """Keep all but the lowest."""
        return lowest(scores, kept, self.dropped(amount, scores.shape[1]))

    def dropped(self, amount: float, units: int) -> int:
        """How many units of a pool fall: known without data.

        >>> Lowest().dropped(0.7, 10), Lowest().dropped(0.29, 100), Lowest(math.ceil).dropped(0.99, 10), Lowest().dropped(1.0, 10)
        (7, 28, 9, 10)
        """
        if not 0 <= amount <= 1:
            raise MaskError(f"cannot drop a fraction of {amount}: the amount must lie in [0, 1]")
        return units if amount == 1 else max(0, min(int(self.rounding(amount * units)), units - 1))


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

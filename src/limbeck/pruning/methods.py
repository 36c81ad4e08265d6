"""The named pruners: each builder is a composition, and its signature is the schema of the schedule file."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from limbeck.fields import Levels, Names, NonNegative, Positive, Sparsity, Thresholds
from limbeck.pruning.calibrated import CALIBRATED_PRUNERS
from limbeck.pruning.composed import COMPOSED
from limbeck.pruning.criteria import Splicing, in_standard_deviations
from limbeck.pruning.neurst import STEP_PRUNERS
from limbeck.pruning.observed import OBSERVED_PRUNERS
from limbeck.pruning.pruner import Pruner, Selector
from limbeck.pruning.selectors import Band, Below
from limbeck.pruning.structures import STRUCTURE_PRUNERS
from limbeck.ramps import BaiduThreshold, Ramp


def magnitude_pruner(thresholds: Thresholds) -> Pruner:
    """Drop weights whose magnitude does not exceed their tensor's threshold; ``'*'`` stands for all tensors not named.

    >>> magnitude_pruner({"fc.weight": 0.1}).targets
    {'fc.weight': 0.1}
    """
    return Pruner(dict(thresholds), select=Below())


def level_pruner(levels: Levels) -> Pruner:
    """Drop exactly a fraction of each tensor, the smallest magnitudes first; ``'*'`` stands for all tensors not named."""
    return Pruner(dict(levels))


def sensitivity_pruner(sensitivities: Thresholds) -> Pruner:
    """Drop weights below ``sensitivity`` standard deviations of the dense tensor, measured once (Han et al. 2015, arXiv 1506.02626)."""
    return Pruner(dict(sensitivities), score=in_standard_deviations, select=Below())


def automated_gradual_pruner(initial_sparsity: Sparsity, final_sparsity: Sparsity, weights: Names) -> Pruner:
    """From one sparsity to another along a cubic ramp, exact at every firing (AGP; Zhu and Gupta 2017, arXiv 1710.01878).

    ``s = final + (initial - final) * (1 - progress) ** 3``, where progress is 0 at the window's first firing and 1 at its last.
    """
    return Pruner(dict.fromkeys(weights, Ramp(initial_sparsity, final_sparsity, power=3)))


def baidu_rnn_pruner(q: Positive, ramp_epoch_offset: int, ramp_slope_mult: NonNegative, weights: Names) -> Pruner:
    """Drop weights below a threshold that rises with two slopes (Narang et al. 2017, arXiv 1704.05119)."""
    return Pruner(dict.fromkeys(weights, BaiduThreshold(q, ramp_epoch_offset, ramp_slope_mult)), select=Below())


class _OwnAmount:
    """A selector with an amount of its own; the target's number has gone into the score."""

    def __init__(self, select: Selector, amount: float) -> None:
        self._select, self._amount = select, amount

    def __call__(self, scores: Tensor, kept: Tensor | None, amount: float) -> Tensor:
        return self._select(scores, kept, self._amount)


def splicing_pruner(
    sensitivities: Thresholds, low_thresh_mult: NonNegative, hi_thresh_mult: NonNegative, sensitivity_multiplier: NonNegative = 0.0
) -> Pruner:
    """Drop below a low threshold, revive from a high one up, leave the rest as it was (dynamic network surgery; Guo et al. 2016).

    The thresholds are ``low_thresh_mult`` and ``hi_thresh_mult`` times ``mean(|w|) + std(|w|) * sensitivity`` of the dense tensor. Raises
    ``ValueError`` where the low one is above the high one.
    """
    if low_thresh_mult > hi_thresh_mult:
        raise ValueError(
            f"low_thresh_mult {low_thresh_mult} is above hi_thresh_mult {hi_thresh_mult}, so that what lies between would both fall and come "
            "back; let it be the lower one, or equal"
        )
    select = _OwnAmount(Band(hi_thresh_mult), low_thresh_mult)
    return Pruner(dict(sensitivities), score=Splicing(sensitivity_multiplier), select=select)


ELEMENT_PRUNERS: dict[str, Callable[..., Pruner]] = {
    "AutomatedGradualPruner": automated_gradual_pruner,
    "BaiduRNNPruner": baidu_rnn_pruner,
    "MagnitudeParameterPruner": magnitude_pruner,
    "SensitivityPruner": sensitivity_pruner,
    "SparsityLevelParameterPruner": level_pruner,
    "SplicingPruner": splicing_pruner,
}
"""Pruners of single weights that need no data but the weights."""

PRUNERS: dict[str, Callable[..., Pruner]] = {
    **ELEMENT_PRUNERS,
    **STRUCTURE_PRUNERS,
    **OBSERVED_PRUNERS,
    **COMPOSED,
    **STEP_PRUNERS,
    **CALIBRATED_PRUNERS,
}
"""Class names of the schedule file's ``pruners`` section."""

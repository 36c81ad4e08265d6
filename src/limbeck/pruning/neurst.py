"""Pruning by optimizer step as TensorFlow's model optimization (TFMOT) and NeurST define it: their ramp, in float32, and their counts.

Source: ``neurst/sparsity/pruning_schedule.py`` and ``pruning_optimizer.py``, and TFMOT's ``pruning_schedule.py`` and ``pruning_impl.py``
(Zhu and Gupta 2017, arXiv 1710.01878). ``limbeck.pruning.translated`` turns the options of either into policies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from limbeck.fields import Fraction, Names, Positive
from limbeck.pruning._select import refuse_nan
from limbeck.pruning.criteria import l1, maximum
from limbeck.pruning.pruner import Pruner
from limbeck.pruning.selectors import KeptRounded
from limbeck.schedules import Moment
from limbeck.tile import Tile

BelowOne = Annotated[float, Field(ge=0, lt=1, description="fraction of zeros, from 0 to below 1"), Fraction]
Block = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
Pooling = Literal["AVG", "MAX"]


@dataclass(frozen=True)
class PolynomialDecay:
    """``target + (initial - target) * (1 - p) ** power`` with ``p = clip((now - begin) / (end - begin), 0, 1)``, rounded to float32 throughout.

    ``begin`` and ``end`` are the first and the last epoch or step of the ramp, both included; left out, they are those of the window. So ``p``
    is a matter of time, and a window whose frequency does not divide its length ends **below** the target, as in TFMOT and NeurST.
    Where ``begin`` is ``end``, which gives NaN there, the target is reached at once.

    NeurST's table for a target of 0.1 over 500 steps:

    >>> [round(PolynomialDecay(0.0, 0.1)(Moment(step, 0, 501, 100)), 4) for step in (100, 200, 300, 400, 500)]
    [0.0488, 0.0784, 0.0936, 0.0992, 0.1]

    Raises ``ValueError`` for an end before the begin, and for a power that is not above 0.
    """

    initial: float
    target: float
    power: float = 3
    begin: int | None = None
    end: int | None = None

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise ValueError(f"a power of {self.power} makes no ramp; give a number above 0")
        if self.begin is not None and self.end is not None and self.end < self.begin:
            raise ValueError(f"the ramp ends at {self.end}, before it begins at {self.begin}; let begin_step be the smaller one")

    def __call__(self, moment: Moment) -> float:
        """The sparsity at ``moment``, a float32."""
        begin = moment.begin if self.begin is None else self.begin
        end = moment.end - 1 if self.end is None else self.end
        target = np.float32(self.target)
        if moment.now >= end:
            return float(target)
        left = np.float32(1) - np.float32(max(0, moment.now - begin)) / np.float32(end - begin)
        rest = np.float32(float(left) ** float(np.float32(self.power)))  # rounded once: the power of every platform is the same
        return float(np.float32(self.initial - self.target) * rest + target)

    def arrives(self, begin: int) -> int | None:
        """The epoch or step from which on the target holds; None where that is the window's matter."""
        return self.end


def polynomial_decay_pruner(
    target_sparsity: BelowOne,
    weights: Names,
    initial_sparsity: BelowOne = 0.0,
    power: Positive = 3.0,
    begin_step: int | None = None,
    end_step: int | None = None,
    block_size: Block = (1, 1),
    block_pooling_type: Pooling = "AVG",
) -> Pruner:
    """The polynomial decay of TFMOT and NeurST: the sparsity is a function of the step, and what is *kept* is rounded, half to even.

    The ramp goes from ``begin_step`` to ``end_step``, the last one included; left out, from the policy's first step to its last. With the
    policy's ``args: {after_step: true}`` the timing is theirs too: a step is counted when the optimizer has done it, and weights are ranked
    as it left them, so that dropped ones compete with the change of that one step.

    ``kept = max(1, round(float32(n) * (1 - s)))``, all in float32. Exactly so many are kept, ties included, where they keep every tie
    (and everything where the threshold is 0); one weight at least is kept, where NeurST fails.

    ``block_size`` cuts a matrix ``[out, in]`` into blocks that live or die as one, by the mean or the greatest of their absolute weights;
    TFMOT's kernels are ``[in, out]``, so its ``[1, 4]`` is ``[4, 1]`` here.

    >>> pruner = polynomial_decay_pruner(0.5, ["fc.weight"])
    >>> pruner.targets["fc.weight"](Moment(400, 0, 501, 100))
    0.4959999918937683
    """
    ramp = PolynomialDecay(initial_sparsity, target_sparsity, power, begin_step, end_step)
    return _by_magnitude(dict.fromkeys(weights, ramp), block_size, block_pooling_type)


def constant_sparsity_pruner(
    target_sparsity: BelowOne, weights: Names, block_size: Block = (1, 1), block_pooling_type: Pooling = "AVG"
) -> Pruner:
    """One sparsity at every firing, counted as in ``PolynomialDecayPruner``: the ``ConstantSparsity`` of TFMOT and NeurST.

    >>> constant_sparsity_pruner(0.5, ["fc.weight"]).targets
    {'fc.weight': 0.5}
    """
    return _by_magnitude(dict.fromkeys(weights, target_sparsity), block_size, block_pooling_type)


def keep_zeros_pruner(weights: Names) -> Pruner:
    """Let what is zero stay zero, for training a pruned model on: NeurST's ``keep_prune_property``.

    A tensor that is zero as a whole, such as a fresh bias, is left alone; NeurST freezes it.

    >>> import torch
    >>> from limbeck.pruning.pruner import Site
    >>> sites = {"weight": Site(torch.tensor([0.0, 2.0])), "bias": Site(torch.zeros(2))}
    >>> {name: mask.tolist() for name, mask in keep_zeros_pruner(["weight", "bias"]).masks(sites, Moment()).items()}
    {'weight': [False, True], 'bias': [True, True]}
    """
    return Pruner(dict.fromkeys(weights, 0.0), select=_not_zero)


def _by_magnitude(targets: dict[str, float] | dict[str, PolynomialDecay], block: Block, pooling: Pooling) -> Pruner:
    if tuple(block) == (1, 1):
        return Pruner(targets, select=KeptRounded())
    return Pruner(targets, score=l1 if pooling == "AVG" else maximum, unit=Tile(tuple(block), pad=True), select=KeptRounded())


def _not_zero(scores: Tensor, kept: Tensor | None, amount: float) -> Tensor:
    """A selector: whatever is not zero, and every pool of nothing but zeros."""
    refuse_nan(scores.detach())
    found = scores != 0
    return found | ~found.any(1, keepdim=True)


STEP_PRUNERS: dict[str, Callable[..., Pruner]] = {
    "ConstantSparsityPruner": constant_sparsity_pruner,
    "KeepZerosPruner": keep_zeros_pruner,
    "PolynomialDecayPruner": polynomial_decay_pruner,
}
"""Class names of the schedule file's ``pruners`` section."""

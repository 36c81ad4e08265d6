"""Regularizers: a penalty for each target, and the action that adds it to the loss and cuts small weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from limbeck.events import Action, State
from limbeck.fields import Thresholds
from limbeck.names import resolve
from limbeck.schedules import Moment

ThresholdCriteria = Literal["Mean_Abs", "Max"]


@dataclass(frozen=True)
class Regularizer:
    """A penalty ``strength * norm(weight)`` for each target, and whether weights that do not exceed their strength are cut after each step."""

    name: str
    strengths: Mapping[str, float]
    norm: Callable[[Tensor], Tensor]
    cuts: bool = False


def l1_norm(weight: Tensor) -> Tensor:
    """Sum of absolute weights, a scalar."""
    return weight.abs().sum()


def l1_regularizer(reg_regims: Thresholds, threshold_criteria: ThresholdCriteria | None = None) -> Regularizer:
    """``strength * sum(|w|)`` for each target of ``reg_regims``.

    With ``threshold_criteria``, weights whose magnitude does not exceed the strength are set to zero after each step of the window (for
    single weights the mean and the maximum of a group are the same); they may come back in the next step.

    >>> regularizer = l1_regularizer({"weight": 0.5})
    >>> regularizer.norm(torch.tensor([1.0, -2.0])).item()
    3.0
    """
    return Regularizer("L1Regularizer", dict(reg_regims), l1_norm, cuts=threshold_criteria is not None)


class Regularize(Action):
    """Adds a regularizer's penalty to the loss of every step in its window's epochs, or of the steps at which it fires."""

    def __init__(self, regularizer: Regularizer) -> None:
        self.regularizer = regularizer

    def bind(self, state: State) -> None:
        """Bring the targets to the model's parameter names; raises ``TargetError`` for one that matches nothing."""
        self.regularizer = replace(self.regularizer, strengths=resolve(self.regularizer.strengths, state.parameters))

    def before_backward_pass(self, state: State, moment: Moment) -> Mapping[str, Tensor]:
        """The penalty, under the name ``<regularizer>_loss``."""
        terms = [
            strength * self.regularizer.norm(state.parameters[name].parameter)
            for name, strength in self.regularizer.strengths.items()
            if strength
        ]
        return {f"{self.regularizer.name}_loss": torch.stack(terms).sum()} if terms else {}

    @torch.no_grad()
    def on_minibatch_end(self, state: State, moment: Moment) -> None:
        """Cut what does not exceed its strength; masks stay as they are."""
        if self.regularizer.cuts:
            for name, strength in self.regularizer.strengths.items():
                weight = state.parameters[name].parameter
                weight.masked_fill_(weight.abs() <= strength, 0.0)


REGULARIZERS: dict[str, Callable[..., Regularizer]] = {"L1Regularizer": l1_regularizer}
"""Class names of the schedule file's ``regularizers`` section."""

"""The named regularizers: each builder is a composition, and its signature is the schema of the schedule file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from limbeck.fields import TARGETS, NonNegative, Thresholds, pair
from limbeck.groups import group, groupings, misfit
from limbeck.regularization.norms import GroupNorm, InverseVariance, Norm, Sum, ThresholdCriteria, l1_norm
from limbeck.tile import ELEMENT, Tile

LassoGroup = Literal["2D", "3D", "Filters", "4D", "Channels", "Rows", "Cols", "Rows+Cols", "Cols+Rows", "Channels+4D"]
GroupStrengths = Annotated[
    Mapping[str, Annotated[tuple[NonNegative, LassoGroup], pair("[strength, group], as in [0.001, Rows]")]],
    Field(min_length=1, description="parameter name, glob or 're:REGEX' to [strength of 0 or more, group]"),
    TARGETS,
]
ChannelStrengths = Annotated[
    Mapping[str, NonNegative | Annotated[tuple[NonNegative, Literal["Channels"]], pair("[strength, Channels], as in [0.001, Channels]")]],
    Field(min_length=1, description="parameter name, glob or 're:REGEX' to a strength of 0 or more, or to [strength, Channels]"),
    TARGETS,
]


@dataclass(frozen=True)
class Penalty:
    """What one target pays, ``strength * norm(weight)``; ``groups`` are its groupings, which are cut where the regularizer has a threshold.

    ``least`` is how many groups a tensor must have.
    """

    strength: float
    norm: Norm
    groups: tuple[Tile, ...] = (ELEMENT,)
    least: int = 0


@dataclass(frozen=True)
class Regularizer:
    """A penalty for each target; with ``criteria``, the measure by which groups that do not exceed their strength are cut after each step."""

    name: str
    targets: Mapping[str, Penalty]
    criteria: ThresholdCriteria | None = None

    @property
    def strengths(self) -> dict[str, float]:
        """The strength of each target."""
        return {name: penalty.strength for name, penalty in self.targets.items()}

    def misfits(self, targets: Mapping[str, Penalty], shapes: Mapping[str, Sequence[int]]) -> Iterator[str]:
        """What is wrong with parameters that do not have the groups; ``targets`` are resolved, and have ``shapes``.

        >>> regularizer = group_lasso_regularizer({"*": (0.1, "2D")})
        >>> next(regularizer.misfits({"fc.weight": regularizer.targets["*"]}, {"fc.weight": (3, 4)}))
        "'fc.weight' cannot be cut into groups: a shape of (3, 4) has no groups of type 2D; they take 3 axes or more"
        """
        for name, penalty in targets.items():
            shape = tuple(shapes[name])
            faults = [message for tile in penalty.groups if (message := misfit(tile, shape)) is not None]
            if not faults and any((found := math.prod(tile.grid(shape))) < penalty.least for tile in penalty.groups):
                faults = [f"a shape of {shape} has {found}, and {penalty.least} or more are needed"]
            yield from (f"'{name}' cannot be cut into groups: {message}" for message in faults)


def l1_regularizer(reg_regims: Thresholds, threshold_criteria: ThresholdCriteria | None = None) -> Regularizer:
    """``strength * sum(|w|)`` for each target of ``reg_regims``.

    With ``threshold_criteria``, weights whose magnitude does not exceed the strength are set to zero after each step of the window (for
    single weights the mean and the maximum of a group are the same); they may come back in the next step.

    >>> import torch
    >>> penalty = l1_regularizer({"weight": 0.5}).targets["weight"]
    >>> penalty.strength, penalty.norm(torch.tensor([1.0, -2.0])).item()
    (0.5, 3.0)
    """
    return Regularizer("L1Regularizer", {name: Penalty(strength, l1_norm) for name, strength in reg_regims.items()}, threshold_criteria)


def group_lasso_regularizer(reg_regims: GroupStrengths, threshold_criteria: ThresholdCriteria | None = None) -> Regularizer:
    """``strength * sum of the groups' Euclidean norms`` for each target of ``reg_regims`` (structured sparsity; Wen et al. 2016, arXiv 1608.03665).

    Groups are not weighted by their size, as in Distiller; of a channel ``1e-8`` is added to the sum of squares. ``Rows+Cols`` and
    ``Channels+4D`` add up both groupings. With ``threshold_criteria``, groups whose mean magnitude (``Mean_Abs``) or largest magnitude
    (``Max``) does not exceed the strength are set to zero after each step of the window; they may come back in the next step.

    >>> import torch
    >>> regularizer = group_lasso_regularizer({"weight": (0.5, "Rows")})
    >>> regularizer.targets["weight"].norm(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).item()
    6.0
    """
    targets = {name: Penalty(strength, _lasso_norm(kind), groupings(kind)) for name, (strength, kind) in reg_regims.items()}
    return Regularizer("GroupLassoRegularizer", targets, threshold_criteria)


def group_variance_regularizer(reg_regims: ChannelStrengths) -> Regularizer:
    """``strength / variance of the channels' Euclidean norms`` for each target of ``reg_regims``: it drives channels apart, into large and small.

    The variance is the unbiased one, so a tensor needs two channels or more. Channels are input channels: ``[out, in, ...]``.

    >>> import torch
    >>> regularizer = group_variance_regularizer({"weight": 0.5})
    >>> regularizer.targets["weight"].norm(torch.tensor([[3.0, 0.0], [4.0, 1.0]])).item()
    0.125
    """
    channels = group("Channels")
    strengths = {name: value[0] if isinstance(value, tuple | list) else value for name, value in reg_regims.items()}
    targets = {name: Penalty(strength, InverseVariance(channels), (channels,), least=2) for name, strength in strengths.items()}
    return Regularizer("GroupVarianceRegularizer", targets)


def _lasso_norm(kind: LassoGroup) -> Norm:
    norms = tuple(GroupNorm(group(part), 1e-8 if part == "Channels" else 0.0) for part in kind.split("+"))
    return norms[0] if len(norms) == 1 else Sum(norms)


REGULARIZERS: dict[str, Callable[..., Regularizer]] = {
    "GroupLassoRegularizer": group_lasso_regularizer,
    "GroupVarianceRegularizer": group_variance_regularizer,
    "L1Regularizer": l1_regularizer,
}
"""Class names of the schedule file's ``regularizers`` section."""

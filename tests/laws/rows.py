"""The one table: every component of the schedule file, once or more, as a schedule would have it, and what its laws have to know of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from limbeck.events import Action
from limbeck.pruning import Prune, Pruner
from limbeck.pruning.methods import PRUNERS
from limbeck.regularization import REGULARIZERS, Regularize
from limbeck.schedules import Window
from limbeck.thinning import Thin
from limbeck.thinning.extensions import EXTENSIONS
from limbeck.training import LearningRate

CONV, NEXT, MATRIX = "conv.weight", "next.weight", "hidden.weight"
SCALE, BIAS, TIED, ALIAS = "norm.weight", "hidden.bias", "table.weight", "head.weight"
SECTIONS: Mapping[str, Mapping[str, Any]] = {"pruners": PRUNERS, "regularizers": REGULARIZERS, "extensions": EXTENSIONS}
Count = Callable[[float, int], int]
Measure = Callable[[Tensor], Tensor]


# --- how many units of a pool fall, said once more, independently of the selectors -----------------------------------------------------


def floored(amount: float, units: int) -> int:
    return math.floor(amount * units)


def rounded(amount: float, units: int) -> int:
    return units if amount == 1 else min(round(amount * units), units - 1)


def raised_in_pairs(amount: float, units: int) -> int:
    """Rounded up, to a multiple of 2, of which a tensor falls as a whole only when all is asked for."""
    if amount == 1:
        return units // 2 * 2
    return min(math.ceil(math.ceil(amount * units) / 2) * 2, (units - 1) // 2 * 2)


def kept_rounded(amount: float, units: int) -> int:
    """TFMOT: what is kept is rounded in float32, half to even, and is one unit or more."""
    return units - max(1, int(np.rint(np.float32(units) * (np.float32(1) - np.float32(amount)))))


# --- how large a unit is, of its members [units, members] ------------------------------------------------------------------------------


def mean(units: Tensor) -> Tensor:
    return units.abs().mean(1)


def norm(units: Tensor) -> Tensor:
    return units.square().sum(1).sqrt()


def greatest(units: Tensor) -> Tensor:
    return units.abs().max(1).values


@dataclass(frozen=True)
class Row:
    """A component, its arguments and its window; laws that hold for some components only are named by what they need to know."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    window: Window = field(default_factory=lambda: Window(1, 4))
    note: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The ``args`` of its policy."""
    count: Count | None = None
    """Of a pruner that drops a fraction: how many units of a pool. None: that depends on the data."""
    size: Measure | None = None
    """Of a pruner by magnitude: larger units outlive smaller ones, signs do not matter."""
    reads: str = "weight"
    """What a pruner ranks by: the ``weight``, what was ``seen`` in training, both, or neither (``chance``)."""
    lasting: bool = True
    """Pruning twice at one moment is pruning once."""
    ranks: tuple[int, ...] = (1, 2, 3, 4)
    """The numbers of axes for which it is made."""
    dense: Measure | None = None
    """Of a regularizer: the penalty by a plain formula."""
    beside: Row | None = None
    """Of an extension: what makes the zeros that it takes out."""
    degree: int = 1
    """Of a regularizer: the penalty of ``c * weight`` is ``c ** degree`` times that of the weight."""

    def __str__(self) -> str:
        parts = [self.name, self.note, "by step" if self.window.unit == "step" else "", " ".join(self.options)]
        return " ".join(part for part in parts if part)

    @property
    def section(self) -> str:
        return next((section for section, table in SECTIONS.items() if self.name in table), "lr_schedulers")

    def pruner(self) -> Pruner:
        return PRUNERS[self.name](**self.arguments)

    def action(self, **options: Any) -> Action:
        if self.section == "pruners":
            return Prune(self.pruner(), **{**self.options, **options})
        if self.section == "regularizers":
            return Regularize(REGULARIZERS[self.name](**self.arguments), **self.options)
        if self.section == "extensions":
            remover = EXTENSIONS[self.name](**self.arguments)
            return Thin(remover.input_shape, remover.shifts)
        return LearningRate(self.name, self.arguments)

    @property
    def targets(self) -> list[str]:
        if self.section in ("lr_schedulers", "extensions"):
            return []
        return list(self.pruner().targets if self.section == "pruners" else REGULARIZERS[self.name](**self.arguments).targets)


GRADUAL = {"initial_sparsity": 0.1, "final_sparsity": 0.8}
BY_STEP = Window(1, 8, 2, "step")
ONE, BOTH = {"weights": [MATRIX]}, {"weights": [CONV, NEXT]}
FILTERS = {"group_type": "Filters", "weights": [CONV]}
LEADER = {"group_type": "Filters", **BOTH, "group_dependency": "Leader"}
HALF = {"desired_sparsity": 0.5}
COMPOSED = {**ONE, "sparsity": 0.5}
MAXIMA = {"block_size": [3, 2], "block_pooling_type": "MAX"}
SOFT = {"use_double_copies": True}


def structures(of: str, size: Measure | None) -> tuple[Row, ...]:
    """A ranked structure pruner in every group type, with a leader, and its gradual twin."""
    name, own = f"{of}Pruner", {"count": floored, "size": size}
    return (
        Row(name, {**FILTERS, **HALF}, note="Filters", **own),
        Row(name, {**LEADER, **HALF}, note="Leader", count=floored),
        Row(name, {"group_type": "Cols", **ONE, **HALF}, note="Cols", **own),
        Row(f"{name}_AGP", {**FILTERS, **GRADUAL}, **own),
    )


def by_filter(name: str, **facts: Any) -> tuple[Row, ...]:
    """A pruner of filters, alone, with a leader, and gradual."""
    return (
        Row(name, {**FILTERS, **HALF}, **facts),
        Row(name, {**LEADER, **HALF}, note="Leader", **facts),
        Row(f"{name}_AGP", {**FILTERS, **GRADUAL}, **facts),
    )


PRUNER_ROWS = (
    Row("AutomatedGradualPruner", {**GRADUAL, **ONE}, count=floored, size=mean),
    Row("AutomatedGradualPruner", {**GRADUAL, **ONE}, BY_STEP, count=floored, size=mean),
    Row("AutomatedGradualPruner", {**GRADUAL, "weights": [TIED]}, note="tied", count=floored, size=mean),
    Row("BaiduRNNPruner", {"q": 0.3, "ramp_epoch_offset": 1, "ramp_slope_mult": 2, **ONE}, size=mean),
    Row("MagnitudeParameterPruner", {"thresholds": {MATRIX: 0.1}}, size=mean),
    Row("SensitivityPruner", {"sensitivities": {MATRIX: 0.6}}, size=mean),
    Row("SparsityLevelParameterPruner", {"levels": {MATRIX: 0.6}}, Window(only=(1, 3)), count=floored, size=mean),
    Row(
        "SplicingPruner",
        {"sensitivities": {MATRIX: 0.2}, "low_thresh_mult": 0.8, "hi_thresh_mult": 1.1, "sensitivity_multiplier": 0.1},
        size=mean,
    ),
    Row("StructureParameterPruner", {"reg_regims": {CONV: [0.1, "Filters"]}}, note="Filters", size=mean),
    Row("StructureParameterPruner", {"reg_regims": {CONV: [0.13, "2D"]}, "threshold_criteria": "Max"}, note="2D Max", size=greatest),
    *structures("L1RankedStructureParameter", mean),
    *structures("L2RankedStructureParameter", norm),
    *structures("GeometricMedian", None),
    Row(
        "L1RankedStructureParameterPruner",
        {"group_type": "Blocks", "kwargs": {"block_shape": [1, 2]}, **ONE, **HALF},
        note="Blocks",
        count=floored,
        size=mean,
    ),
    Row(
        "L2RankedStructureParameterPruner",
        {"group_type": "Channels", "desired_sparsity": 0.3, "weights": [CONV], "group_size": 2, "rounding_fn": math.ceil},
        note="Channels in pairs",
        count=raised_in_pairs,
        size=norm,
    ),
    Row("L1RankedStructureParameterPruner", {**FILTERS, **HALF, "noise": 0.5}, note="noise", count=floored, lasting=False),
    Row("RandomLevelStructureParameterPruner", {**FILTERS, "sparsity_range": [0.3, 0.7]}, count=floored, size=mean),
    Row("RandomLevelStructureParameterPruner", {**LEADER, "sparsity_range": [0.3, 0.7]}, note="Leader", count=floored),
    *by_filter("RandomRankedFilterPruner", count=floored, reads="chance"),
    Row("RandomRankedFilterPruner", {**FILTERS, **HALF, "redraw": True}, note="redraw", options=SOFT, count=floored, reads="chance"),
    *by_filter("BernoulliFilterPruner", reads="chance"),
    Row("BernoulliFilterPruner", {**FILTERS, **HALF}, options={**SOFT, "mini_batch_pruning_frequency": 1}, reads="chance"),
    *by_filter("ActivationAPoZRankedFilterPruner", count=floored, reads="seen"),
    *by_filter("ActivationMeanRankedFilterPruner", count=floored, reads="seen"),
    *by_filter("GradientRankedFilterPruner", count=floored, reads="seen"),
    Row("FollowingPruner", {"weights": [BIAS]}, Window(0, 1), reads="seen", ranks=(1,)),
    Row("MovementPruner", COMPOSED, count=floored, reads="seen"),
    Row("MovementPruner", COMPOSED, BY_STEP, options=SOFT, count=floored, reads="seen"),
    Row("NetworkSlimmingPruner", {"weights": [SCALE], "sparsity": 0.4}, count=floored, size=mean, ranks=(1,)),
    Row("RigLPruner", COMPOSED, count=floored, reads="both", lasting=False),
    Row(
        "RigLPruner",
        {**BOTH, "sparsity": 0.5, "start": "magnitude", "densities": "erdos_renyi_kernel"},
        BY_STEP,
        options={"mask_gradients": True},
        count=floored,
        reads="both",
        lasting=False,
    ),
    Row("SNIPPruner", {"weights": [CONV, MATRIX], "sparsity": 0.5}, Window(0, 1), count=floored, reads="seen"),
    Row("TaylorPruner", {**BOTH, "sparsity": 0.4}, count=floored, reads="seen"),
    Row("WandaPruner", COMPOSED, count=floored, reads="both", ranks=(2, 3, 4)),
    Row("WandaPruner", {"weights": [CONV], "n_of_m": "2:4"}, note="2:4", count=rounded, reads="both", ranks=(2, 3, 4)),
    Row("ConstantSparsityPruner", {"target_sparsity": 0.5, "block_size": [2, 3], **ONE}, BY_STEP, count=kept_rounded, size=mean),
    Row("PolynomialDecayPruner", {"target_sparsity": 0.7, **ONE}, BY_STEP, options={"after_step": True}, count=kept_rounded, size=mean),
    Row("PolynomialDecayPruner", {"target_sparsity": 0.7, **ONE, **MAXIMA}, note="blocks", count=kept_rounded, size=greatest),
    Row("KeepZerosPruner", ONE, Window(0, 4)),
    Row("Pruner", {**COMPOSED, "scope": "row"}, note="rows", count=floored),
    Row("Pruner", {"weights": [MATRIX], "n_of_m": "2:5"}, note="2:5", count=rounded),
    Row("Pruner", {"weights": [CONV, MATRIX, TIED], "sparsity": 0.5, "scope": "global"}, note="global", count=floored, size=mean),
    Row("Pruner", {"weights": [CONV], "sparsity": 0.5, "granularity": "kernels"}, note="kernels", count=floored, size=mean),
)

# --- regularizers ----------------------------------------------------------------------------------------------------------------------


def rows_of(weight: Tensor) -> Tensor:
    return weight.flatten(1).norm(dim=1).sum()


def columns_of(weight: Tensor) -> Tensor:
    return weight.flatten(1).norm(dim=0).sum()


def channels_of(weight: Tensor) -> Tensor:
    return (weight.transpose(0, 1).flatten(1).square().sum(1) + 1e-8).sqrt().sum()


LASSO: dict[str, Measure] = {
    "2D": lambda weight: weight.flatten(2).norm(dim=2).sum(),
    "3D": rows_of,
    "Filters": rows_of,
    "4D": lambda weight: weight.norm(),
    "Channels": channels_of,
    "Rows": rows_of,
    "Cols": columns_of,
    "Rows+Cols": lambda weight: rows_of(weight) + columns_of(weight),
    "Channels+4D": lambda weight: channels_of(weight) + weight.norm(),
}


def lasso(kind: str, strength: float = 0.01, **facts: Any) -> Row:
    arguments = {"reg_regims": {CONV: [strength, kind]}, **facts.pop("cut", {})}
    return Row(
        "GroupLassoRegularizer", arguments, note=" ".join([kind, *map(str, list(arguments.values())[1:])]), dense=LASSO[kind], **facts
    )


def absolute(weight: Tensor) -> Tensor:
    return weight.abs().sum()


REGULARIZER_ROWS = (
    Row("L1Regularizer", {"reg_regims": {MATRIX: 0.01}}, dense=absolute),
    Row("L1Regularizer", {"reg_regims": {TIED: 0.01}}, note="tied", dense=absolute),
    Row("L1Regularizer", {"reg_regims": {MATRIX: 0.05}, "threshold_criteria": "Mean_Abs"}, BY_STEP, dense=absolute),
    Row("L1Regularizer", {"reg_regims": {MATRIX: 0.05}, "threshold_criteria": "Max"}, options={"keep_mask": True}, dense=absolute),
    *[lasso(kind) for kind in LASSO],
    lasso("Filters", 0.1, cut={"threshold_criteria": "Mean_Abs"}, options={"keep_mask": True}),
    lasso("2D", 0.12, cut={"threshold_criteria": "Max"}, options={"keep_mask": True}, window=BY_STEP),
    lasso("Rows+Cols", 0.08, cut={"threshold_criteria": "Mean_Abs"}),
    Row(
        "GroupVarianceRegularizer",
        {"reg_regims": {CONV: 0.01}},
        dense=lambda weight: 1 / weight.transpose(0, 1).flatten(1).norm(dim=1).var(),
        degree=-2,
    ),
)

# --- learning rates --------------------------------------------------------------------------------------------------------------------

RATE_ROWS = (
    Row("ConstantLR", {"factor": 0.5, "total_iters": 2}),
    Row("CosineAnnealingLR", {"T_max": 4}),
    Row("CosineAnnealingWarmRestarts", {"T_0": 2}),
    Row("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 2}, Window(1, 8, unit="step")),
    Row("ExponentialLR", {"gamma": 0.8}),
    Row("InverseSquareRootLR", {"warmup_steps": 3}, Window(1, 8, unit="step")),
    Row("LinearLR", {"start_factor": 0.5, "total_iters": 3}),
    Row("MultiStepLR", {"milestones": [1, 3]}),
    Row("MultiStepMultiGammaLR", {"milestones": [1, 2], "gammas": [0.5, 0.2]}),
    Row("NoamLR", {"d_model": 8, "warmup_steps": 4}, Window(1, 8, unit="step")),
    Row("OneCycleLR", {"max_lr": 0.3, "total_steps": 7}, Window(1, 8, unit="step")),
    Row("PolynomialLR", {"T_max": 3, "power": 0.9}),
    Row("ReduceLROnPlateau", {"patience": 0}),
    Row("StepLR", {"step_size": 1, "gamma": 0.3}),
)

# --- extensions ------------------------------------------------------------------------------------------------------------------------

ZEROS = Row("L1RankedStructureParameterPruner_AGP", {**FILTERS, **GRADUAL}, Window(0, 4))
EXTENSION_ROWS = (
    Row(
        "FilterRemover",
        {"thinning_func_str": "remove_filters", "arch": "resnet20_cifar", "dataset": "cifar10"},
        Window(1, 4, 2),
        beside=ZEROS,
    ),
    Row("ChannelRemover", {"thinning_func_str": "remove_channels"}, Window(only=(3,)), beside=ZEROS),
    Row("StructureRemover", {"shifts": "drop"}, Window(3, 8, 2, "step"), beside=replace(ZEROS, window=Window(0, 8, unit="step"))),
)

ROWS = (*PRUNER_ROWS, *REGULARIZER_ROWS, *RATE_ROWS)
every_component_and_extension = pytest.mark.parametrize("row", [*ROWS, *EXTENSION_ROWS], ids=str)
every_component = pytest.mark.parametrize("row", ROWS, ids=str)
every_pruner = pytest.mark.parametrize("row", PRUNER_ROWS, ids=str)
every_target = pytest.mark.parametrize("row", [*PRUNER_ROWS, *REGULARIZER_ROWS], ids=str)
every_counter = pytest.mark.parametrize("row", [row for row in PRUNER_ROWS if row.count is not None], ids=str)
every_magnitude = pytest.mark.parametrize("row", [row for row in PRUNER_ROWS if row.size is not None], ids=str)
every_penalty = pytest.mark.parametrize("row", REGULARIZER_ROWS, ids=str)
every_rate = pytest.mark.parametrize("row", RATE_ROWS, ids=str)

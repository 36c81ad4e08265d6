"""Pruners and regularizers under the ancestor's names, with its arguments by place."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from limbeck import Moment, ScheduleError, Site
from limbeck.compat import distiller
from limbeck.pruning.methods import PRUNERS
from limbeck.regularization import REGULARIZERS

RANKED = ("group_type", "desired_sparsity", "weights", "group_dependency")
RANKED_AGP = ("initial_sparsity", "final_sparsity", "group_type", "weights", "group_dependency")
STRUCTURE = (*RANKED, "kwargs", "noise", "group_size", "rounding_fn")
ORDER: Mapping[str, tuple[str, ...]] = {
    "MagnitudeParameterPruner": ("thresholds",),
    "SparsityLevelParameterPruner": ("levels",),
    "SensitivityPruner": ("sensitivities",),
    "SplicingPruner": ("sensitivities", "low_thresh_mult", "hi_thresh_mult", "sensitivity_multiplier"),
    "AutomatedGradualPruner": ("initial_sparsity", "final_sparsity", "weights"),
    "BaiduRNNPruner": ("q", "ramp_epoch_offset", "ramp_slope_mult", "weights"),
    "StructureParameterPruner": ("reg_regims", "threshold_criteria"),
    "L1RankedStructureParameterPruner": STRUCTURE,
    "L2RankedStructureParameterPruner": STRUCTURE,
    "L1RankedStructureParameterPruner_AGP": (*RANKED_AGP, "kwargs"),
    "L2RankedStructureParameterPruner_AGP": (*RANKED_AGP, "kwargs"),
    "RandomLevelStructureParameterPruner": ("group_type", "sparsity_range", "weights"),
    **dict.fromkeys(
        (
            "ActivationAPoZRankedFilterPruner",
            "ActivationMeanRankedFilterPruner",
            "GradientRankedFilterPruner",
            "RandomRankedFilterPruner",
        ),
        RANKED,
    ),
    **dict.fromkeys(
        (
            "ActivationAPoZRankedFilterPruner_AGP",
            "ActivationMeanRankedFilterPruner_AGP",
            "GradientRankedFilterPruner_AGP",
            "RandomRankedFilterPruner_AGP",
            "BernoulliFilterPruner_AGP",
        ),
        RANKED_AGP,
    ),
    "BernoulliFilterPruner": ("desired_sparsity", "group_type", "weights", "group_dependency"),
    "L1Regularizer": ("reg_regims", "threshold_criteria"),
    "GroupLassoRegularizer": ("reg_regims", "threshold_criteria"),
    "GroupVarianceRegularizer": ("reg_regims",),
}
"""The ancestor's arguments by place, after the name and, of a regularizer, the model (table 1.2 and 1.3 of the facts)."""


@pytest.mark.parametrize("name", ORDER)
def test_arguments_stand_in_the_ancestors_order(name: str) -> None:
    builder = {**PRUNERS, **REGULARIZERS}[name]
    assert tuple(inspect.signature(builder).parameters)[: len(ORDER[name])] == ORDER[name]


@pytest.mark.parametrize("name", [*PRUNERS, *REGULARIZERS])
def test_every_class_of_the_schedule_file_is_a_name_of_the_module(name: str) -> None:
    constructor = getattr(distiller, name)
    assert constructor.__name__ == name
    assert "By place: name, " in constructor.__doc__
    assert name in dir(distiller)


def mask(pruner: Any, name: str, weight: torch.Tensor, moment: Moment | None = None) -> list[Any]:
    kept: list[Any] = pruner.masks({name: Site(weight)}, moment or Moment())[name].int().tolist()
    return kept


def test_pruners_are_constructed_by_place_and_by_name() -> None:
    weight = torch.tensor([[1.0, -4.0], [3.0, 2.0]])
    agp = distiller.AutomatedGradualPruner("agp", 0.25, 0.5, ["fc.weight"])
    assert mask(agp, "fc.weight", weight, Moment(0, 0, 5)) == [[0, 1], [1, 1]]
    assert mask(agp, "fc.weight", weight, Moment(4, 0, 5)) == [[0, 1], [1, 0]]
    level = distiller.pruning.SparsityLevelParameterPruner(name="level", levels={"fc.weight": 0.75})
    assert mask(level, "fc.weight", weight) == [[0, 1], [0, 0]]
    ranked = distiller.L1RankedStructureParameterPruner(
        "filters", "Filters", 0.5, weights=["conv.weight"], group_dependency=None, rounding_fn=math.ceil
    )
    assert mask(ranked, "conv.weight", torch.tensor([1.0, 3.0, 2.0]).view(3, 1, 1, 1)) == [[[[0]]], [[[1]]], [[[0]]]]


def test_regularizers_take_the_model_after_the_name() -> None:
    layer = nn.Linear(2, 2)
    assert distiller.L1Regularizer("l1", layer, {"weight": 0.5}, "Max").strengths == {"weight": 0.5}
    lasso = distiller.GroupLassoRegularizer("lasso", layer, {"module.weight": [0.5, "Rows"]}, threshold_criteria="Mean_Abs")
    assert lasso.strengths == {"module.weight": 0.5}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: distiller.SensitivityPruner("s"), "SensitivityPruner needs 'sensitivities'"),
        (lambda: distiller.SensitivityPruner("s", {"w": -1.0}), "greater than or equal to 0"),
        (lambda: distiller.SensitivityPruner("s", {}, 1, 2), "takes at most 2 arguments by place: name, sensitivities"),
        (lambda: distiller.SensitivityPruner("s", {"w": 1.0}, sensitivities={}), "given 'sensitivities' twice"),
        (lambda: distiller.SensitivityPruner("s", sensitivites={"w": 1.0}), "did you mean 'sensitivities'"),
        (lambda: distiller.AutomatedGradualPruner("a", 0.05, 70, ["w"]), "70 should be less than or equal to 1"),
    ],
)
def test_wrong_arguments_are_told_as_in_a_file(make: Any, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        make()


@pytest.mark.parametrize("module", [distiller, distiller.pruning, distiller.regularization])
def test_a_name_that_is_not_there_is_told(module: Any) -> None:
    with pytest.raises(AttributeError, match="SummaryGraph"):
        _ = module.SummaryGraph
    with pytest.raises(AttributeError, match=r"did you mean '(SensitivityPruner|L1Regularizer)'"):
        _ = module.SensitivtyPruner if module is not distiller.regularization else module.L1Regularzer


@pytest.mark.parametrize("name", distiller.LATER)
def test_what_comes_later_is_not_mistaken_for_a_slip(name: str) -> None:
    with pytest.raises(AttributeError, match=f"has no '{name}': this version of Limbeck has no quantizers"):
        getattr(distiller, name)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("from limbeck.compat.distiller.quantization import Quantizer", "no 'Quantizer': this version of Limbeck has no quantizers"),
        ("from limbeck.compat.distiller.apputils import save_checkpoint", "no 'save_checkpoint': use that of limbeck.apps.checkpoint"),
        ("from limbeck.compat.distiller.apputils import load_checkpoint", "no 'load_checkpoint': use that of limbeck.apps.checkpoint"),
    ],
)
def test_what_is_not_here_says_so_when_it_is_imported(statement: str, message: str) -> None:
    with pytest.raises(ImportError, match=message):
        exec(statement)


def test_a_helper_that_is_not_there_is_told() -> None:
    with pytest.raises(AttributeError, match="has no 'config_pyloger'; did you mean 'config_pylogger'"):
        _ = distiller.apputils.config_pyloger


def test_every_public_name_is_there() -> None:
    assert distiller.__all__ == sorted(distiller.__all__)
    assert all(hasattr(distiller, name) for name in distiller.__all__)
    assert not set(distiller.LATER) & set(distiller.__all__)

"""What NeurST's and TFMOT's options may hold: values that mean nothing are refused by name, whether a file or Python gave them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from limbeck.errors import LimbeckError, ScheduleError, TargetError
from limbeck.pruning.tfmot import TFMOT
from limbeck.pruning.translated import NeurST

CONSTANT = {"class_name": "ConstantSparsity", "config": {"target_sparsity": 0.5, "begin_step": 0}}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pruning_schedule", ["polynomial_decay"], "no pruning_schedule is named"),
        ("pruning_variable_pattern", 5, "pruning_variable_pattern 5 must be a text"),
        ("nopruning_variable_pattern", ["norm"], "must be a text"),
        ("pruning_variable_pattern", "(norm", r"pruning_variable_pattern '\(norm' is not a regular expression"),
        ("keep_prune_property", "no", "keep_prune_property 'no' must be true or false"),
        ("prune_vectors", 1, "prune_vectors 1 must be true or false"),
        ("polynomial_power", math.inf, "polynomial_power inf must be a number above 0"),
    ],
)
def test_an_option_of_neurst_that_means_nothing_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        NeurST(**{"target_sparsity": 0.5, "end_pruning_step": 500, name: value})


@pytest.mark.parametrize(
    ("schedule", "weights", "error", "message"),
    [
        ({"class_name": ["ConstantSparsity"], "config": {}}, "*", ScheduleError, "no schedule of TFMOT is named"),
        (CONSTANT, [], ScheduleError, "weights names no parameter, so nothing would ever be pruned"),
        (CONSTANT, ["re:("], TargetError, r"'re:\(' is not a regular expression"),
    ],
)
def test_an_option_of_tfmot_that_means_nothing_is_refused(
    schedule: dict[str, Any], weights: Any, error: type[LimbeckError], message: str
) -> None:
    with pytest.raises(error, match=message):
        TFMOT(schedule, weights)


def test_one_name_may_stand_without_brackets() -> None:
    assert [step.arguments["weights"] for step in TFMOT(CONSTANT, "fc.weight").steps()] == [["fc.weight"]]

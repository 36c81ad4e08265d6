"""The pruners of structures in a schedule file: the ancestor's arguments, and what is wrong with a file and a model."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from limbeck.config.check import check
from limbeck.config.load import load
from limbeck.names import named_parameters
from limbeck.pruning.structures import STRUCTURE_PRUNERS

ARGUMENTS: dict[str, dict[str, Any]] = {
    "BernoulliFilterPruner": {"desired_sparsity": 0.5, "group_type": "Filters", "weights": "0.weight"},
    "BernoulliFilterPruner_AGP": {"initial_sparsity": 0.1, "final_sparsity": 0.5, "group_type": "3D", "weights": ["0.weight"]},
    "GeometricMedianPruner": {"desired_sparsity": 0.5, "group_type": "Filters", "weights": "*.weight"},
    "GeometricMedianPruner_AGP": {"initial_sparsity": 0.1, "final_sparsity": 0.5, "group_type": "Channels", "weights": ["*.weight"]},
    "L1RankedStructureParameterPruner": {
        "group_type": "Blocks",
        "desired_sparsity": {"ramp": "linear", "start": 0.0, "stop": 0.5},
        "weights": ["0.weight"],
        "kwargs": {"block_shape": [1, 2, 1, 1]},
        "noise": 0.1,
        "group_size": 2,
        "rounding_fn": "ceil",
    },
    "L1RankedStructureParameterPruner_AGP": {
        "initial_sparsity": 0.1,
        "final_sparsity": 0.5,
        "group_type": "Rows",
        "weights": ["1.weight"],
        "rows_are_columns": True,
    },
    "L2RankedStructureParameterPruner": {
        "group_type": "Filters",
        "desired_sparsity": 0.5,
        "weights": ["0.weight", "1.weight"],
        "group_dependency": "Leader",
    },
    "L2RankedStructureParameterPruner_AGP": {
        "initial_sparsity": 0.1,
        "final_sparsity": 0.5,
        "group_type": "Channels",
        "weights": ["*.weight"],
    },
    "RandomLevelStructureParameterPruner": {"group_type": "Filters", "sparsity_range": [0.2, 0.6], "weights": ["0.weight"]},
    "RandomRankedFilterPruner": {"group_type": "Filters", "desired_sparsity": 0.5, "weights": "0.weight", "seed": 3},
    "RandomRankedFilterPruner_AGP": {"initial_sparsity": 0.1, "final_sparsity": 0.5, "group_type": "Filters", "weights": "0.weight"},
    "StructureParameterPruner": {"reg_regims": {"0.weight": [0.1, "3D"], "1.weight": [0.2, "Cols"]}, "threshold_criteria": "Max"},
}


def faults(name: str, **arguments: object) -> str:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Linear(6, 4))
    text = {
        "version": 1,
        "pruners": {"p": {"class": name, **arguments}},
        "policies": [{"pruner": {"instance_name": "p"}, "starting_epoch": 0, "ending_epoch": 4}],
    }
    return check(load(text), named_parameters(model)).report.text()


@pytest.mark.parametrize("name", STRUCTURE_PRUNERS)
def test_a_file_may_name_it_with_the_ancestor_s_arguments(name: str) -> None:
    assert "no faults" in faults(name, **ARGUMENTS[name])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "L1RankedStructureParameterPruner",
            {"group_type": "2D", "desired_sparsity": 0.5, "weights": "*.weight"},
            "'1.weight' cannot be cut into units: a shape of (4, 6) has no groups of type 2D; they take 3 axes or more",
        ),
        (
            "L1RankedStructureParameterPruner",
            {"group_type": "Channels", "desired_sparsity": 0.5, "weights": "*.weight", "group_dependency": "Leader"},
            "'1.weight' has 6 units and '0.weight' 2: one verdict for both needs equally many",
        ),
        (
            "L1RankedStructureParameterPruner",
            {"group_type": "Blocks", "desired_sparsity": 0.5, "weights": "0.weight"},
            "Blocks needs block_shape",
        ),
        (
            "L1RankedStructureParameterPruner",
            {"group_type": "Filters", "desired_sparsity": 0.5, "weights": "0.weight", "kwargs": {"block_shape": [1, 2]}},
            "block_shape [1, 2] goes with the group type Blocks",
        ),
        (
            "L1RankedStructureParameterPruner",
            {"group_type": "Blocks", "desired_sparsity": 0.5, "weights": "0.weight", "kwargs": {"block_shape": [1, 8, 1, 1]}},
            ": 8 does not divide ",
        ),
        ("StructureParameterPruner", {"reg_regims": {"1.weight": [0.1, "2D"]}}, "a shape of (4, 6) has no groups of type 2D"),
        (
            "RandomLevelStructureParameterPruner",
            ARGUMENTS["RandomLevelStructureParameterPruner"] | {"sparsity_range": [0.6, 0.2]},
            "is empty",
        ),
        ("BernoulliFilterPruner", ARGUMENTS["BernoulliFilterPruner"] | {"group_type": "Channels"}, "should be '3D' or 'Filters'"),
    ],
)
def test_faults_of_a_file(name: str, arguments: dict[str, Any], message: str) -> None:
    assert message in faults(name, **arguments)

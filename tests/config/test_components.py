"""The tables behind the sections, and every learning rate that a file may name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from limbeck.config.check import check
from limbeck.config.components import SECTIONS
from limbeck.config.load import load
from limbeck.training.learning_rate import BY_STEP, NEEDS_CODE

# One row for every class, so that a new one without a row fails.
RATES: dict[str, dict[str, Any]] = {
    "ConstantLR": {"factor": 0.5},
    "CosineAnnealingLR": {"T_max": 10},
    "CosineAnnealingWarmRestarts": {"T_0": 5, "T_mult": 2},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1},
    "ExponentialLR": {"gamma": 0.9},
    "InverseSquareRootLR": {"warmup_steps": 100},
    "LinearLR": {"start_factor": 0.1},
    "MultiStepLR": {"milestones": [2, 4]},
    "MultiStepMultiGammaLR": {"milestones": [2, 4], "gammas": [0.1, 0.5]},
    "NoamLR": {"d_model": 512},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 10},
    "PolynomialLR": {"T_max": 10, "power": 2},
    "ReduceLROnPlateau": {"mode": "min", "patience": 2},
    "StepLR": {"step_size": 3},
}


def section(name: str) -> Any:
    return next(section for section in SECTIONS if section.name == name)


def test_every_learning_rate_has_a_row() -> None:
    assert set(section("lr_schedulers").classes) == set(RATES)
    assert not set(NEEDS_CODE) & set(RATES)


@pytest.mark.parametrize("name", RATES)
def test_every_learning_rate_can_stand_in_a_file(name: str) -> None:
    window = {"starting_step": 0, "ending_step": 9} if name in BY_STEP else {"starting_epoch": 0, "ending_epoch": 9}
    tree = {"lr_schedulers": {"lr": {"class": name, **RATES[name]}}, "policies": [{"lr_scheduler": {"instance_name": "lr"}, **window}]}
    assert check(load(tree)).report.text() == "schedule: no faults"


def test_the_trial_leaves_the_real_optimizer_alone() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight], lr=0.25)
    before = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    tree = {
        "lr_schedulers": {"lr": {"class": "OneCycleLR", **RATES["OneCycleLR"]}},
        "policies": [{"lr_scheduler": {"instance_name": "lr"}, "epochs": [0]}],
    }
    assert check(load(tree), optimizer=optimizer).report.ok
    assert {key: value for key, value in optimizer.param_groups[0].items() if key != "params"} == before
    assert weight.item() == 1

"""Every row of the three tables in Distiller's AGP examples, on models of random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from limbeck.apps.images.models import MODELS
from limbeck.config import plan

FOLDER = Path(__file__).parents[2] / "schedules" / "images"

SPARSITY = {
    # the column 'Sparsity' of the tables for element-wise and block sparsity, in %
    "alexnet_agp_88": 88.3,
    "mobilenet_agp_52": 51.6,
    "resnext101_32x4d_agp_75": 75.0,
    "resnet18_agp_60": 59.9,
    "resnet50_agp_26": 26.0,
    "resnet50_agp_80": 80.0,
    "resnet50_agp_85": 84.6,
    "resnet50_blocks": 36.7,
}


@pytest.mark.parametrize("name", SPARSITY)
def test_a_schedule_reaches_the_sparsity_that_the_table_prints(name: str) -> None:
    with torch.device("meta"):
        model = MODELS[name.partition("_agp")[0].partition("_blocks")[0]]()
    planned = plan(FOLDER / f"{name}.yaml", model, epochs=60)
    assert planned.sparsity is not None
    assert f"{100 * planned.sparsity:.1f}" == str(SPARSITY[name])

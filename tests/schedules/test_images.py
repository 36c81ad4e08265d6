"""Every row of the three tables in Distiller's AGP examples, on models of random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from limbeck.apps.images.models import MODELS, input_shape
from limbeck.config import Rehearsal, plan, rehearse

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


def model_of(name: str) -> str:
    """The model that a file is named after."""
    return name.partition("_agp")[0].partition("_blocks")[0]


@pytest.mark.parametrize("name", SPARSITY)
def test_a_schedule_reaches_the_sparsity_that_the_table_prints(name: str) -> None:
    with torch.device("meta"):
        model = MODELS[model_of(name)]()
    planned = plan(FOLDER / f"{name}.yaml", model, epochs=60)
    assert planned.sparsity is not None
    assert f"{100 * planned.sparsity:.1f}" == str(SPARSITY[name])


@dataclass(frozen=True)
class Row:
    """A row of the table for filter pruning with thinning, in %: sparsity, parameters kept, compute kept; and the weights, counted by hand."""

    sparsity: float
    parameters: float
    compute: float
    weights: int


FILTERS = {
    # 12,335,296: 25,502,912 less half of the first two convolutions of each bottleneck and of what reads them. 43.37 is printed, a misprint of 48.37
    "resnet50_filters": Row(0.0, 48.37, 44.56, 12_335_296),
    "resnet50_filters_2": Row(0.0, 49.69, 49.82, 12_671_168),
    "resnet50_filters_3": Row(0.0, 67.95, 67.33, 17_329_344),
    # 12,335,296 less 70 % of the 2,048,000 weights of the last layer; 42.747 was cut off, not rounded
    "resnet50_filters_fc": Row(11.6, 42.74, 44.56, 12_335_296 - 1_433_600),
}


def rehearsed(name: str, model: str) -> Rehearsal:
    torch.manual_seed(0)
    return rehearse(FOLDER / f"{name}.yaml", MODELS[model](), (torch.zeros(1, *input_shape(model)),), steps_per_epoch=391)


@pytest.mark.long
@pytest.mark.parametrize("name", FILTERS)
def test_filters_pruned_and_thinned_give_the_columns_that_the_table_prints(name: str) -> None:
    found, row = rehearsed(name, "resnet50"), FILTERS[name]
    assert (found.before.weights, found.before.macs) == (25_502_912, 4_089_184_256)
    assert found.thinnings == 1
    assert not found.data_dependent
    assert not found.notes
    assert found.nonzeros == row.weights
    assert found.sparsity is not None and found.weights_kept is not None and found.macs_kept is not None  # noqa: PT018
    assert 100 * found.sparsity == pytest.approx(row.sparsity, abs=0.05)
    assert 100 * found.weights_kept == pytest.approx(row.parameters, abs=0.01)
    assert 100 * found.macs_kept == pytest.approx(row.compute, abs=0.01)


@pytest.mark.long
@pytest.mark.parametrize("name", SPARSITY)
def test_zeros_that_are_not_thinned_out_keep_the_compute(name: str) -> None:
    found = rehearsed(name, model_of(name))
    assert found.sparsity is not None
    assert f"{100 * found.sparsity:.1f}" == str(SPARSITY[name])
    assert found.macs_kept == 1.0
    assert found.thinnings == 0


@pytest.mark.parametrize(
    ("depth", "weights", "macs"),
    [
        # a block that keeps m filters between i and o channels has 9 * m * (i + o) weights; 32 * 32, 16 * 16 and 8 * 8 places of them in the three stages.
        # 20 kept in blocks of 16; 16 between 16 and 32, and 16 in blocks of 32; 56 between 32 and 64, and 96 in blocks of 64. The first layer, the
        # shortcuts and the last have 3,632 weights and 705,152 MACs
        (20, 3_632 + 5_760 + 16_128 + 158_976, 705_152 + 5_760 * 1_024 + 16_128 * 256 + 158_976 * 64),
        # half of the filters in each of 9 blocks a stage: 851,504 - 847,872 / 2 weights, and 705,152 + 125,042,688 / 2 MACs
        pytest.param(56, 427_568, 705_152 + 125_042_688 // 2, marks=pytest.mark.long),
    ],
)
def test_filters_inside_of_blocks_take_their_share_of_the_compute_along(depth: int, weights: int, macs: int) -> None:
    found = rehearsed(f"resnet{depth}_cifar_filters", f"resnet{depth}_cifar")
    assert found.after is not None
    assert (found.after.weights, found.nonzeros, found.after.macs) == (weights, weights, macs)
    assert not found.notes

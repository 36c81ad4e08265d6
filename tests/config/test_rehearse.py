"""What a rehearsal tells, against hand calculation."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from limbeck.config import rehearse
from limbeck.errors import LimbeckError, ScheduleError

INPUTS = (torch.zeros(1, 3, 8, 8),)
HALF = "half: {class: L1RankedStructureParameterPruner, desired_sparsity: 0.5, group_type: Filters, weights: [conv1.weight]}"


class Net(nn.Module):
    """Two convolutions of 8x8 maps: 3 to 16 to 4 channels, 3x3; MACs: 64 * 432 and 64 * 576."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 4, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to maps."""
        found: torch.Tensor = self.conv2(self.norm(self.conv1(x)).relu())
        return found


def schedule(pruners: str, policies: str, extensions: str = "thinner: {class: FilterRemover}") -> str:
    return f"version: 1\npruners: {{{pruners}}}\nextensions: {{{extensions}}}\npolicies: [{policies}]"


def test_filters_that_are_thinned_out_take_weights_and_compute_with_them() -> None:
    text = schedule(HALF, "{pruner: {instance_name: half}, epochs: [0]}, {extension: {instance_name: thinner}, epochs: [2]}")
    model = Net()
    found = rehearse(text, model, INPUTS)
    shapes = {row.name: row.thinned for row in found.rows}
    assert shapes == {
        "conv1.weight": (8, 3, 3, 3),
        "conv1.bias": (8,),
        "norm.weight": (8,),
        "norm.bias": (8,),
        "conv2.weight": (4, 8, 3, 3),
    }
    assert (found.before.weights, found.before.macs) == (1_008, 64 * 1_008)
    assert found.after is not None
    assert (found.after.weights, found.after.macs, found.nonzeros) == (504, 64 * 504, 504)
    assert (found.sparsity, found.weights_kept, found.macs_kept) == (0.0, 0.5, 0.5)
    assert found.thinnings == 1
    assert model.conv1.weight.shape == (16, 3, 3, 3), "the model itself stays as it is"
    assert model.conv1.weight.count_nonzero() == 432


def test_zeros_that_are_not_thinned_out_are_computed_with() -> None:
    pruners = "fine: {class: AutomatedGradualPruner, initial_sparsity: 0.1, final_sparsity: 0.75, weights: [conv2.weight]}"
    found = rehearse(schedule(pruners, "{pruner: {instance_name: fine}, starting_epoch: 0, ending_epoch: 5}"), Net(), INPUTS)
    assert found.nonzeros == 432 + 576 // 4
    assert found.sparsity == pytest.approx(432 / 1_008)
    assert found.macs_kept == 1.0


def test_thinned_twice_a_level_is_of_the_filters_that_there_were_at_first() -> None:
    ramp = "ramp: {class: L1RankedStructureParameterPruner_AGP, initial_sparsity: 0.25, final_sparsity: 0.5, group_type: Filters, weights: conv1.weight}"
    both = "{pruner: {instance_name: ramp}, epochs: [0, 2]}, {extension: {instance_name: thinner}, epochs: [0, 2]}"
    found = rehearse(schedule(ramp, both), Net(), INPUTS)
    assert found.thinnings == 2
    assert found.nonzeros == 504


def test_a_run_that_ends_early_leaves_the_rest_out() -> None:
    both = "{pruner: {instance_name: half}, epochs: [0]}, {extension: {instance_name: thinner}, epochs: [2]}"
    found = rehearse(schedule(HALF, both), Net(), INPUTS, epochs=2)
    assert found.thinnings == 0
    assert found.macs_kept == 1.0
    assert found.nonzeros == 1_008 - 216


def test_steps_and_epochs_are_put_in_order_by_the_steps_of_an_epoch() -> None:
    ramp = "ramp: {class: L1RankedStructureParameterPruner_AGP, initial_sparsity: 0.0, final_sparsity: 0.5, group_type: Filters, weights: conv1.weight}"
    policies = "{pruner: {instance_name: ramp}, starting_step: 0, ending_step: 21, frequency: 5}, {extension: {instance_name: thinner}, epochs: [2]}"
    text = schedule(ramp, policies)
    found = rehearse(text, Net(), INPUTS, steps_per_epoch=10)
    assert found.rows[0].thinned == (8, 3, 3, 3), "the ramp ends at step 20, where epoch 2 begins"
    with pytest.raises(ScheduleError, match="steps-per-epoch"):
        rehearse(text, Net(), INPUTS)


def test_what_depends_on_data_is_named_and_not_guessed() -> None:
    pruners = "noise: {class: SensitivityPruner, sensitivities: {conv1.weight: 0.5}}"
    one = "{pruner: {instance_name: noise}, epochs: [0]}"
    found = rehearse(schedule(pruners, one), Net(), INPUTS)
    assert found.data_dependent == ("policies[0]: SensitivityPruner 'noise'",)
    assert found.rows[0].nonzeros is None
    assert (found.nonzeros, found.sparsity, found.weights_kept) == (None, None, None)
    assert found.macs_kept == 1.0, "without thinning nothing changes the compute"
    thinned = rehearse(schedule(pruners, f"{one}, {{extension: {{instance_name: thinner}}, epochs: [1]}}"), Net(), INPUTS)
    assert thinned.after is None
    assert thinned.macs_kept is None
    assert json.loads(json.dumps(thinned.to_json()))["total"]["macs_after"] is None
    assert "depends on data" in " ".join(thinned.table().notes)


def test_a_criterion_that_waits_for_gradients_is_left_out() -> None:
    pruners = "taylor: {class: TaylorPruner, sparsity: 0.5, scope: tensor, weights: [conv1.weight]}"
    found = rehearse(schedule(pruners, "{pruner: {instance_name: taylor}, epochs: [0]}"), Net(), INPUTS)
    assert found.data_dependent == ("policies[0]: TaylorPruner 'taylor'",)


def test_a_model_without_numbers_is_refused() -> None:
    with torch.device("meta"):
        model = Net()
    with pytest.raises(LimbeckError, match="meta"):
        rehearse(schedule(HALF, "{pruner: {instance_name: half}, epochs: [0]}"), model, INPUTS)


class Sum(nn.Module):
    """Two convolutions of one input, whose outputs are added and read by a third; the first has its smallest filters at 0 and 1, the second at 1 and 2."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = (nn.Conv2d(3, 4, 1, bias=False) for _ in range(2))
        self.last = nn.Conv2d(4, 2, 1)
        with torch.no_grad():
            for conv, small in ((self.one, (0, 1)), (self.other, (1, 2))):
                conv.weight.fill_(1.0)
                conv.weight[list(small)] = 0.1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to maps."""
        found: torch.Tensor = self.last((self.one(x) + self.other(x)).relu())
        return found


@pytest.mark.parametrize(("more", "left"), [("", 3), (", coupling: joint", 2), (", group_dependency: Leader", 2)])
def test_masks_that_disagree_where_outputs_are_added_are_told_of(more: str, left: int) -> None:
    pruners = f"half: {{class: L1RankedStructureParameterPruner, desired_sparsity: 0.5, group_type: Filters, weights: [one.weight, other.weight]{more}}}"
    both = "{pruner: {instance_name: half}, epochs: [0]}, {extension: {instance_name: thinner}, epochs: [1]}"
    found = rehearse(schedule(pruners, both), Sum(), INPUTS)
    assert found.rows[0].thinned == (left, 3, 1, 1)
    assert bool(found.notes) == (left == 3)
    assert left == 2 or "other.weight" in " ".join(found.notes)

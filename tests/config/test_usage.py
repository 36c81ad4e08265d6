"""What a policy asks of its instance: arguments, windows, amounts and tensors that do not go together are faults before any training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.config.build import check_file, load_schedule
from limbeck.config.plan import plan
from limbeck.errors import MaskError, ScheduleError

ONCE = "policies: [{pruner: {instance_name: p}, epochs: [0]}]"
LEVEL = "pruners:\n  p: {class: SparsityLevelParameterPruner, levels: {0.weight: 0.5}}\n"


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 6))


def faults(text: str) -> list[str]:
    return [str(fault) for fault in check_file(text, model()).faults]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("{pruner: {instance_name: p, args: {keep_mask: true, discard_masks_at_minibatch_end: true}}, epochs: [0]}",
         "line 3, policies[0].pruner.args: keep_mask and discard_masks_at_minibatch_end exclude each other: leave one of them out"),
        ("{pruner: {instance_name: p, args: {mini_batch_pruning_frequency: -1}}, epochs: [0]}",
         "line 3, policies[0].pruner.args.mini_batch_pruning_frequency: -1 should be greater than or equal to 0"),
        ("{pruner: {instance_name: p, args: {mini_batch_pruning_frequency: 10}}, steps: [0, 5]}",
         "line 3, policies[0]: mini_batch_pruning_frequency renews within epochs; a window by step has a frequency of its own"),
        ("{pruner: {instance_name: p, args: {after_step: true}}, epochs: [0]}",
         "line 3, policies[0]: after_step follows single steps; give the window in steps"),
        ("{pruner: {instance_name: p, args: {levels: {0.wieght: 0.5}}}, epochs: [0]}",
         "line 3, policies[0].pruner.args.levels['0.wieght']: no parameter is named '0.wieght'; did you mean '0.weight'?"),
        ("{pruner: {instance_name: p, args: {levels: {0.weight: 1.5}}}, epochs: [0]}",
         "line 3, policies[0].pruner.args.levels['0.weight']: 1.5 should be less than or equal to 1"),
    ],
)  # fmt: skip
def test_arguments_of_a_policy(policy: str, message: str) -> None:
    assert faults(f"{LEVEL}policies: [{policy}]") == [message]


@pytest.mark.parametrize(
    ("pruner", "message"),
    [
        ("{class: Pruner, weights: 2.weight, sparsity: 0.5, granularity: kernels}",
         "line 1, pruners.p: '2.weight' cannot be cut into units: a shape of (6, 16) has no groups of type 2D; they take 3 axes or more"),
        ("{class: Pruner, weights: 0.bias, n_of_m: 2:4}", "line 1, pruners.p: '0.bias' cannot be cut into units: "),
        ("{class: Pruner, weights: 2.weight, sparsity: 0.5, granularity: blocks, block_shape: [4, 4]}",
         "line 1, pruners.p: '2.weight' cannot be cut into units: "),
        ("{class: StructureParameterPruner, reg_regims: {2.weight: [0.1, 2D]}}",
         "line 1, pruners.p: '2.weight' cannot be cut into units: a shape of (6, 16) has no groups of type 2D; they take 3 axes or more"),
        ("{class: L1RankedStructureParameterPruner, group_type: Filters, desired_sparsity: 0.5, weights: [0.weight, 2.weight], "
         "group_dependency: Leader}", "line 1, pruners.p: '2.weight' has 6 units and '0.weight' 4: "),
    ],
)  # fmt: skip
def test_units_that_a_tensor_does_not_have(pruner: str, message: str) -> None:
    found = faults(f"pruners: {{p: {pruner}}}\n{ONCE}")
    assert [fault[: len(message)] for fault in found] == [message]


def test_levels_have_the_units_of_the_pruner() -> None:
    text = "pruners: {p: {class: Pruner, weights: 0.weight, sparsity: 0.5, granularity: kernels}}\npolicies: "
    [fault] = faults(text + "[{pruner: {instance_name: p, args: {levels: {2.weight: 0.5}}}, epochs: [0]}]")
    assert fault.startswith("line 2, policies[0].pruner.args.levels: '2.weight' cannot be cut into units: ")


def test_a_pool_of_all_tensors_has_one_amount() -> None:
    text = "pruners: {p: {class: Pruner, weights: '*.weight', sparsity: 0.5, scope: global}}\npolicies: "
    levels = "[{pruner: {instance_name: p, args: {levels: {0.weight: 0.5, 2.weight: 0.4}}}, epochs: [0]}]"
    assert faults(text + levels) == [
        "line 2, policies[0]: pruner 'p': a pool of all tensors needs one amount for all of them, not {'0.weight': 0.5, '2.weight': 0.4}"
    ]


GRADIENTS = """
pruners:
  level: {class: SparsityLevelParameterPruner, levels: {"*.weight": 0.5}}
  taylor: {class: Pruner, weights: 0.weight, sparsity: 0.5, criterion: taylor}
policies:
  - {pruner: {instance_name: level, args: {mask_gradients: true}}, starting_epoch: 0, ending_epoch: 5}
  - {pruner: {instance_name: taylor}, starting_epoch: 4, ending_epoch: 9}
"""


def test_gradients_that_an_earlier_policy_zeroes_cannot_be_ranked() -> None:
    assert faults(GRADIENTS) == [
        "line 7, policies[1]: ranks 0.weight by gradients, of which mask_gradients in policies[0] hides those of what has fallen; "
        "leave mask_gradients out there, or let one end where the other begins"
    ]
    assert not faults(GRADIENTS.replace("ending_epoch: 5", "ending_epoch: 4"))
    assert not faults(GRADIENTS.replace("mask_gradients: true", "keep_mask: true"))
    assert not faults(GRADIENTS.replace('"*.weight"', "2.weight"))


PLUGINS = """
from limbeck.regularization import Regularizer


def number(weights):
    return 3


def rate(optimizer):
    return 3


def broken(weights):
    return {}["weights"]


def by_matrix(units):
    return units.weight


def by_whole_numbers(units):
    return units.weight.sum(1).long()
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "limbeck_plugins_of_mine.py").write_text(PLUGINS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("number", "line 1, pruners.p: the plugin 'limbeck_plugins_of_mine:number' gave 3, not a Pruner"),
        ("broken", "line 1, pruners.p: the plugin 'limbeck_plugins_of_mine:broken' raised KeyError: 'weights'"),
    ],
)
def test_a_plugin_that_makes_no_pruner(function: str, message: str) -> None:
    text = f"pruners: {{p: {{class: 'limbeck_plugins_of_mine:{function}', weights: 0.weight}}}}\n{ONCE}"
    with pytest.raises(ScheduleError) as error:
        load_schedule(text, model(), allow_plugins=True)
    assert error.value.faults == (message,)


@pytest.mark.usefixtures("plugins")
def test_a_plugin_that_makes_no_learning_rate() -> None:
    text = "lr_schedulers: {l: {class: 'limbeck_plugins_of_mine:rate'}}\npolicies: [{lr_scheduler: {instance_name: l}, epochs: [0]}]"
    network = model()
    with pytest.raises(ScheduleError) as error:
        load_schedule(text, network, torch.optim.SGD(network.parameters(), 0.1), allow_plugins=True)
    assert error.value.faults == (
        "line 1, lr_schedulers.l: limbeck_plugins_of_mine:rate: gave int, which is no torch.optim.lr_scheduler.LRScheduler",
    )


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ("by_matrix", r"'0.weight': the criterion gave float32 of shape \(4, 27\), not a floating-point score for each of 4 units"),
        ("by_whole_numbers", r"'0.weight': the criterion gave int64 of shape \(4,\), not a floating-point score for each of 4 units"),
        ("number", r"'0.weight': the criterion gave int, not a floating-point score for each of 4 units"),
    ],
)
def test_a_criterion_that_gives_no_scores(criterion: str, message: str) -> None:
    text = f"pruners: {{p: {{class: Pruner, weights: 0.weight, sparsity: 0.5, granularity: filters, criterion: 'limbeck_plugins_of_mine:{criterion}'}}}}"
    scheduler = load_schedule(f"{text}\n{ONCE}", model(), allow_plugins=True)
    with pytest.raises(MaskError, match=message):
        scheduler.on_epoch_begin(0)


FAULTY = """
pruners:
  agp: {class: AutomatedGradualPruner, initial_sparsity: 0, final_sparsity: 80, weights: 2.weight}
  none: {class: NoSuchPruner}
regularizers:
  l1: {class: L1Regularizer, reg_regims: {2.weight: -1}}
lr_schedulers:
  plateau: {class: ReduceLROnPlateau, factor: none}
policies:
  - {pruner: {instance_name: agp, args: {after_step: true}}, epochs: [0]}
  - {pruner: {instance_name: agp, args: {mini_batch_pruning_frequency: 9}}, steps: [0]}
  - {pruner: {instance_name: none, args: {levels: {2.wieght: 0.5}}}, steps: [1]}
  - {regularizer: {instance_name: l1, args: {keep_mask: true}}, epochs: [0]}
  - {lr_scheduler: {instance_name: plateau}, steps: [0]}
"""


def test_faults_of_an_instance_hide_none_of_the_policies_that_use_it() -> None:
    assert [fault.split(":")[0] for fault in faults(FAULTY)] == [
        "line 3, pruners.agp.final_sparsity",
        "line 4, pruners.none",
        "line 6, regularizers.l1.reg_regims['2.weight']",
        "line 8, lr_schedulers.plateau.factor",
        "line 10, policies[0]",
        "line 11, policies[1]",
        "line 12, policies[2].pruner.args.levels['2.wieght']",
        "line 14, policies[4]",
    ]


@pytest.mark.parametrize(
    ("pruner", "window", "arrives", "last"),
    [
        ("{class: Pruner, weights: 2.weight, sparsity: {ramp: one_shot, stop: 0.8, after: 100}}", "starting_epoch: 0, ending_epoch: 3", 100, 2),
        ("{class: Pruner, weights: 2.weight, sparsity: {ramp: one_shot, stop: 0.8, after: 2}}", "starting_epoch: 1, ending_epoch: 4", 3, 3),
        ("{class: Pruner, weights: 2.weight, sparsity: {ramp: piecewise, points: [[0, 0.1], [9, 0.5]]}}",
         "starting_epoch: 0, ending_epoch: 10, frequency: 2", 9, 8),
        ("{class: Pruner, weights: 2.weight, sparsity: {ramp: piecewise, points: [[0, 0.1], [8, 0.5], [99, 0.5]]}}",
         "starting_epoch: 0, ending_epoch: 10, frequency: 2", 8, 8),
        ("{class: L1RankedStructureParameterPruner, group_type: Filters, weights: 2.weight, desired_sparsity: {ramp: one_shot, stop: 0.8, after: 9}}",
         "epochs: [2, 4]", 11, 4),
        ("{class: PolynomialDecayPruner, target_sparsity: 0.5, weights: 2.weight, end_step: 500}", "starting_step: 0, ending_step: 500", 500, 499),
        ("{class: PolynomialDecayPruner, target_sparsity: 0.5, weights: 2.weight}", "starting_step: 0, ending_step: 500, frequency: 3", 0, 0),
    ],
)  # fmt: skip
def test_a_ramp_that_never_arrives_is_a_warning(pruner: str, window: str, arrives: int, last: int) -> None:
    text = f"pruners:\n  p: {pruner}\npolicies:\n  - {{pruner: {{instance_name: p}}, {window}}}"
    unit = "step" if "step: " in window else "epoch"
    message = (
        f"line 4, policies[0]: pruner 'p': its ramp arrives at {unit} {arrives}, after this window's last firing at {unit} {last}; "
        "let the window be longer, or the ramp shorter"
    )
    expected = [message] if arrives > last else []
    assert [str(warning) for warning in check_file(text, model()).warnings] == expected
    assert [str(warning) for warning in check_file(text).warnings] == expected
    assert list(plan(text, model()).warnings) == expected


NORMED = nn.ModuleDict({"fc1": nn.Linear(4, 6), "bn1": nn.BatchNorm1d(6), "fc2": nn.Linear(6, 6), "bn2": nn.BatchNorm1d(6)})


@pytest.mark.parametrize(
    ("pruner", "fault"),
    [
        ("class: NetworkSlimmingPruner, weights: '*bn*.weight', sparsity: 0.5", None),
        ("class: FollowingPruner, weights: '*bn*.bias'", None),
        ("class: NetworkSlimmingPruner, weights: fc1.weight, sparsity: 0.5", "'fc1.weight' is no scale of a batch norm"),
        ("class: FollowingPruner, weights: fc1.weight", "'fc1.weight' has a shape of (6, 4), and what follows is a vector"),
        (
            "class: WandaPruner, weights: bn1.weight, sparsity: 0.5",
            "'bn1.weight' has a shape of (6,), and is weighed by the inputs of a layer",
        ),
        ("class: Pruner, criterion: apoz, weights: fc1.weight, sparsity: 0.5", "'fc1.weight' is scored by the activations of its filters"),
        ("class: SplicingPruner, sensitivities: {fc1.weight: 1}, low_thresh_mult: 2, hi_thresh_mult: 1", "low_thresh_mult 2"),
    ],
)
def test_what_cannot_be_scored_is_a_fault_and_what_is_meant_no_warning(tmp_path: Path, pruner: str, fault: str | None) -> None:
    file = tmp_path / "schedule.yaml"
    file.write_text(f"pruners: {{p: {{{pruner}}}}}\npolicies: [{{pruner: {{instance_name: p}}, epochs: [0]}}]")
    report = check_file(file, NORMED)
    assert [str(line.message).removeprefix("SplicingPruner: ").startswith(fault or "-") for line in report.faults] == [True] * bool(fault)
    assert not report.warnings

"""Every kind of fault of a schedule file, message by message."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.config.build import check_file, load_schedule
from limbeck.config.check import check
from limbeck.config.components import SECTIONS
from limbeck.config.load import load
from limbeck.errors import ScheduleError
from limbeck.names import named_parameters
from limbeck.pruning import Pruner
from limbeck.pruning.methods import PRUNERS
from limbeck.tile import Tile

AGP = "{class: AutomatedGradualPruner, initial_sparsity: 0.1, final_sparsity: 0.9, weights: [0.weight]}"
CHOICES = f"docs/schedule.md tells which pruner is for what, and limbeck schema lists all {len(PRUNERS)}"
ONCE = "policies: [{pruner: {instance_name: p}, epochs: [0]}]"
INT8 = "{class: PostTrainLinearQuantizer, bits_activations: 8}"
RATE = "policies: [{lr_scheduler: {instance_name: lr}, epochs: [0]}]"


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def report(text: str, with_model: bool = False) -> str:
    parameters = named_parameters(model()) if with_model else None
    return check(load(textwrap.dedent(text) + "\n"), parameters).report.text()


def faults(text: str, with_model: bool = False) -> list[str]:
    head, *lines = report(text, with_model).splitlines()
    assert head == f"schedule: {len(lines)} fault" + "s" * (len(lines) > 1)
    return [line.removeprefix("  ") for line in lines]


def test_the_report_in_full(tmp_path: Path) -> None:
    path = tmp_path / "agp.yaml"
    path.write_text(
        textwrap.dedent("""\
            version: 1
            pruners:
              low_pruner:
                class: AutomatedGradualPruner
                initial_sparsity: 0.05
                final_sparsity: 0.5
                weights: [0.weight]
              fc_pruner:
                class: AutomatedGradualPruner
                initial_sparsity: 0.05
                final_sparsty: 0.5
                weights: 2.weight
            policies:
              - pruner: {instance_name: low_pruner}
                epochs: [1]
              - pruner: {instance_name: fc_pruner}
                epochs: [1]
              - pruner:
                  instance_name: fine
                starting_epoch: 0
                ending_epoch: 3
            """),
        encoding="utf-8",
    )
    assert check_file(path).text() == (
        f"{path}: 2 faults\n"
        "  line 11, pruners.fc_pruner: AutomatedGradualPruner has no 'final_sparsty'; did you mean 'final_sparsity'?\n"
        "  line 19, policies[2].pruner: no pruner named 'fine'; defined: low_pruner, fc_pruner"
    )


def test_no_faults() -> None:
    assert report(f"version: 1\npruners: {{p: {AGP}}}\n{ONCE}", with_model=True) == "schedule: no faults"


def test_an_instance_whose_name_a_policy_misspells_is_not_called_unused() -> None:
    text = f"pruners:\n  embedding: {AGP}\n  idle: {AGP}\npolicies: [{{pruner: {{instance_name: embeding}}, epochs: [0]}}]"
    assert report(text) == (
        "schedule: 1 fault\n  line 4, policies[0].pruner: no pruner named 'embeding'; did you mean 'embedding'?\n"
        "schedule: 1 warning\n  line 3, pruners.idle: declared, but no policy applies this pruner"
    )


# What is wrong with the pruner that a file composes: its arguments, and the fault on the line where they begin.
COMPOSED = [
    ("weights: w\n    sparsty: 0.5", "line 5, pruners.p: Pruner has no 'sparsty'; did you mean 'sparsity'?"),
    ("sparsity: 0.5", "line 2, pruners.p: Pruner needs 'weights'"),
    ("weights: w", "line 2, pruners.p: Pruner: needs 'sparsity', a fraction of zeros or a ramp of it, or 'n_of_m', as in 2:4"),
    ("weights: w\n    sparsity: 1.5", "line 5, pruners.p.sparsity: 1.5 should be less than or equal to 1"),
    ("weights: w\n    sparsity: [1]", "line 5, pruners.p.sparsity: a list should be a valid number"),
    ("weights: w\n    sparsity: {start: 0}",
     "line 5, pruners.p.sparsity: is a mapping without 'ramp'; name one of constant, cosine, cyclic, exponential, linear, one_shot, "
     "piecewise, polynomial, as in {ramp: linear, start: 0.0, stop: 0.8}"),
    ("weights: w\n    sparsity: {ramp: cosin, start: 0, stop: 1}", "line 5, pruners.p.sparsity: no ramp is named 'cosin'; did you mean 'cosine'?"),
    ("weights: w\n    sparsity:\n      ramp: cosine\n      stat: 0\n      stop: 1",
     "line 7, pruners.p.sparsity: the ramp 'cosine' has no 'stat'; did you mean 'start'?"),
    ("weights: w\n    sparsity:\n      ramp: cosine\n      stop: 1", "line 5, pruners.p.sparsity: the ramp 'cosine' needs 'start'"),
    ("weights: w\n    sparsity:\n      ramp: polynomial\n      start: 0\n      stop: -1\n      power: 0",
     "line 8, pruners.p.sparsity.stop: -1 should be greater than or equal to 0"),
    ("weights: w\n    sparsity: {ramp: piecewise, points: [[0, 0.1], [0, 0.5]]}",
     "line 5, pruners.p.sparsity: a piecewise ramp needs points whose times rise, as in [[0, 0.2], [5, 0.8]]; these are at [0, 0]"),
    ("weights: w\n    sparsity:\n      ramp: piecewise\n      points: [0.3, 0.6]",
     "line 7, pruners.p.sparsity.points[0]: 0.3 should be [epochs or steps, sparsity], as in [5, 0.8]"),
    ("weights: w\n    sparsity: 80%", "line 5, pruners.p.sparsity: '80%' should be a number; write 0.8"),
    ("weights: w\n    sparsity: 0.5\n    criterion: L1", "line 6, pruners.p.criterion: no criterion is named 'L1'; did you mean 'l1'?"),
    ("weights: w\n    sparsity: {ramp: cyclic, start: 0.1, stop: 0.5, cycles: 2}",
     "line 6, policies[0]: pruner 'p': 2 cycles need two firings each, and this window fires 1 times: give it more, or fewer cycles"),
    ("weights: w\n    sparsity: 0.5\n    criterion: l3", "line 6, pruners.p.criterion: no criterion is named 'l3'"),
    ("weights: w\n    sparsity: 0.5\n    criterion: [l1]", "line 6, pruners.p.criterion: a list should be a valid string"),
    ("weights: w\n    sparsity: 0.5\n    criterion: my.code:score",
     "line 6, pruners.p.criterion: 'my.code:score' is a plugin, whose code would run; "
     "if you trust it, it is allowed with --allow-plugins (in Python: allow_plugins=True)"),
    ("weights: w\n    sparsity: 0.5\n    granularity: filter",
     "line 6, pruners.p.granularity: 'filter' should be 'element', 'filters', 'channels', 'rows', 'cols', 'kernels' or 'blocks'"),
    ("weights: w\n    sparsity: 0.5\n    granularity: blocks\n    block_shape: [0, 8]",
     "line 7, pruners.p.block_shape[0]: 0 should be greater than or equal to 1"),
    ("weights: w\n    sparsity: 0.5\n    n_of_m: 2:4", "line 2, pruners.p: Pruner: n_of_m: 2:4 says how much is kept already; take sparsity out, or n_of_m"),
    ("weights: w\n    n_of_m: 4:2",
     "line 2, pruners.p: Pruner: n_of_m 4:2 would keep 4 of every 2; the first number must lie between 0 and the second"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), COMPOSED)
def test_faults_of_a_composed_pruner(arguments: str, message: str) -> None:
    text = f"pruners:\n  p:\n    class: Pruner\n    {arguments}\n{ONCE}"
    assert [fault[: len(message)] if "criterion is named" in message else fault for fault in faults(text)][:1] == [message]


def test_a_criterion_of_ones_own_needs_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "criteria_of_mine.py").write_text("def backwards(units):\n    return -units.weight.abs().sum(1)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    text = "pruners: {p: {class: Pruner, weights: weight, sparsity: 0.5, criterion: 'criteria_of_mine:backwards'}}\n" + ONCE
    model = nn.Linear(2, 1)
    with pytest.raises(ScheduleError, match="is a plugin, whose code would run"):
        load_schedule(text, model)
    assert check_file(text, model, allow_plugins=True).ok
    assert "criteria_of_mine" not in sys.modules
    assert check_file(text.replace("weights: weight", "weights: wieght"), model, allow_plugins=True).faults
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
    load_schedule(text, model, allow_plugins=True).on_epoch_begin(0)
    assert model.weight.tolist() == [[1.0, 0.0]]
    with pytest.raises(ScheduleError, match=r"line 1, pruners.p.criterion: the plugin 'criteria_of_mine:sideways' cannot be imported"):
        load_schedule(text.replace("backwards", "sideways"), model, allow_plugins=True)


def test_the_model_before_the_schedule_is_an_error_that_says_so() -> None:
    with pytest.raises(TypeError, match=r"a model is a torch.nn.Module, not str; a schedule comes first, and the model second"):
        load_schedule(nn.Linear(2, 2), "agp.yaml")  # type: ignore[arg-type]  # the fault under test
    with pytest.raises(
        TypeError, match=r"a schedule is the path of a file, its text or a mapping, not Linear; it comes first, and the model second"
    ):
        check_file(nn.Linear(2, 2))  # type: ignore[arg-type]  # the fault under test


def test_an_absent_version_is_version_1_and_an_empty_section_is_none() -> None:
    assert report(f"pruners: {{p: {AGP}}}\nextensions:\n{ONCE}") == "schedule: no faults"


def test_a_quantizer_needs_no_policy_and_leaves_those_of_a_training_alone() -> None:
    assert report(f"quantizers: {{q: {INT8}}}") == "schedule: no faults"
    assert report(f"pruners:\n  p: {AGP}\nquantizers: {{q: {INT8}}}\n{ONCE}") == "schedule: no faults"
    assert report(f"pruners:\n  p: {AGP}\nquantizers: {{q: {INT8}}}").endswith(
        "line 2, pruners.p: declared, but no policy applies this pruner"
    )


def test_a_declared_instance_that_no_policy_applies_is_a_warning() -> None:
    text = f"version: 1\npruners:\n  p: {AGP}\n  fine: {AGP}\n{ONCE}"
    assert report(text) == "schedule: no faults\nschedule: 1 warning\n  line 4, pruners.fine: declared, but no policy applies this pruner"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the schedule is empty; it must be a mapping of version, pruners, regularizers, quantizers, lr_schedulers, extensions, policies"),
        ("- 1", "the schedule is a list; it must be a mapping of version, pruners, regularizers, quantizers, lr_schedulers, extensions, policies"),
        (f"pruners: {{p: {AGP}}}", "no policies: nothing would be applied; list under 'policies' what is applied when"),
        (f"pruners: {{p: {AGP}}}\npolicies: []", "line 2: no policies: nothing would be applied; list under 'policies' what is applied when"),
        (f"version: 2\npruners: {{p: {AGP}}}\n{ONCE}", "line 1, version: version 2 is unknown; this program reads version 1"),
        (f"version:\npruners: {{p: {AGP}}}\n{ONCE}", "line 1, version: is empty; this program reads version 1"),
        (f"pruners: {{p: {AGP}}}\nprunners: {{}}\n{ONCE}", "line 2: no section is named 'prunners'; did you mean 'pruners'?"),
        (f"pruners: {{p: {AGP}}}\nx: 1\n{ONCE}",
         "line 2: no section is named 'x'; sections: version, pruners, regularizers, quantizers, lr_schedulers, extensions, policies"),
        (f"pruners: {{p: {AGP}}}\nregularizers: [a]\n{ONCE}", "line 2, regularizers: must be a mapping of names to regularizers, not a list"),
        (f"pruners: {{p: {AGP}}}\npruners: {{p: {AGP}}}\n{ONCE}", "line 2: 'pruners' is given twice, on lines 1 and 2"),
        (f"pruners: {{p: 3}}\n{ONCE}", "line 1, pruners.p: must be a mapping with 'class' and its arguments, not 3"),
        (f"pruners:\n  p:\n{ONCE}",
         f"line 2, pruners.p: is empty; it needs 'class' and that class's arguments; {CHOICES}"),
        (f"pruners: {{p: {{class: SparsityLevelParameterPruner, levels: {{}}}}}}\n{ONCE}",
         "line 1, pruners.p.levels: is empty; name at least one parameter, as in 'fc.weight' or '*.weight'"),
        (f"pruners: {{p: {{class: AutomatedGradualPruner, initial_sparsity: 0, final_sparsity: 1, weights: []}}}}\n{ONCE}",
         "line 1, pruners.p.weights: is empty; name at least one parameter, as in 'fc.weight' or '*.weight'"),
        (f"pruners: {{p: {{q: 1}}}}\n{ONCE}",
         f"line 1, pruners.p: needs 'class'; {CHOICES}"),
        (f"pruners: {{p: {{class: AutomaticGradualPruner}}}}\n{ONCE}",
         "line 1, pruners.p: no pruner class is named 'AutomaticGradualPruner'; did you mean 'AutomatedGradualPruner'?"),
        (f"pruners: {{p: {{class: AGP}}}}\n{ONCE}", "line 1, pruners.p: no pruner class is named 'AGP'; did you mean 'AutomatedGradualPruner'?"),
        (f"pruners: {{p: {{class: Bernoulli}}}}\n{ONCE}",
         "line 1, pruners.p: no pruner class is named 'Bernoulli'; the nearest are BernoulliFilterPruner, BernoulliFilterPruner_AGP; " + CHOICES),
        ("regularizers: {p: {class: Dropout}}\npolicies: [{regularizer: {instance_name: p}, epochs: [0]}]",
         "line 1, regularizers.p: no regularizer class is named 'Dropout'; "
         "choose one of GroupLassoRegularizer, GroupVarianceRegularizer, L1Regularizer"),
        ("regularizers: {p: {class: GroupLassoRegularizer, reg_regims: {fc1.weight: 0.001}}}\n"
         "policies: [{regularizer: {instance_name: p}, epochs: [0]}]",
         "line 1, regularizers.p.reg_regims['fc1.weight']: 0.001 should be [strength, group], as in [0.001, Rows]"),
        ("regularizers: {p: {class: GroupVarianceRegularizer, reg_regims: {fc1.weight: [1]}}}\n"
         "policies: [{regularizer: {instance_name: p}, epochs: [0]}]",
         "line 1, regularizers.p.reg_regims['fc1.weight']: a list should be a valid number or [strength, Channels], as in [0.001, Channels]"),
        (f"pruners: {{p: {{class: StructureParameterPruner, reg_regims: {{fc1.weight: 0.001}}}}}}\n{ONCE}",
         "line 1, pruners.p.reg_regims['fc1.weight']: 0.001 should be [threshold, group], as in [0.001, Rows]"),
        (f"pruners: {{p: {{class: SparsityLevelParameterPruner, levels: {{fc1.weight: 80%}}}}}}\n{ONCE}",
         "line 1, pruners.p.levels['fc1.weight']: '80%' should be a number; write 0.8"),
        (f"pruners: {{p: {{class: PolynomialDecayPruner, target_sparsity: 5%, weights: w}}}}\n{ONCE}",
         "line 1, pruners.p.target_sparsity: '5%' should be a number; write 0.05"),
        (f"pruners: {{p: {{class: SparsityLevelParameterPruner, levels: {{fc1.weight: 80}}}}}}\n{ONCE}",
         "line 1, pruners.p.levels['fc1.weight']: 80 should be less than or equal to 1; for 80 % write 0.8"),
        ("quantizers: {q: {class: DorefaQuantizer}}",
         "line 1, quantizers.q: no quantizer class is named 'DorefaQuantizer'; choose one of PostTrainLinearQuantizer"),
        (f"quantizers:\n  q: {INT8}\n  r: {INT8}",
         "line 3, quantizers.r: a model is quantized once, and 'q' does it already; leave one of them in the file"),
        (f"quantizers: {{q: {INT8}}}\npolicies: [{{quantizer: {{instance_name: q}}, epochs: [0]}}]",
         "line 2, policies[0].quantizer: 'q' comes after training: limbeck quantize FILE --model RUN applies it to a trained model; "
         "take the policy out"),
        ("quantizers:\n  q:\n    class: PostTrainLinearQuantizer\n    bits_activations: 40",
         "line 4, quantizers.q.bits_activations: 40 should be less than or equal to 16"),
        ("quantizers:\n  q:\n    class: PostTrainLinearQuantizer\n    mode: ASYMETRIC_SIGNED",
         "line 4, quantizers.q.mode: no mode is named 'ASYMETRIC_SIGNED'; did you mean 'asymmetric_signed'?"),
        ("quantizers:\n  q:\n    class: PostTrainLinearQuantizer\n    mode: {acts: symmetric}",
         "line 4, quantizers.q.mode: a mode is for activations or weights, not for 'acts'"),
        ("quantizers:\n  q:\n    class: PostTrainLinearQuantizer\n    clip_act: avg",
         "line 4, quantizers.q: PostTrainLinearQuantizer has no 'clip_act'; did you mean 'clip_acts'?"),
        ("quantizers:\n  q:\n    class: PostTrainLinearQuantizer\n    overrides:\n      fc: {bits_wieghts: 4, clip_n_stds: 0}",
         "line 5, quantizers.q.overrides.fc: clip_n_stds should be greater than 0, not 0; "
         "unknown key 'bits_wieghts'; did you mean 'bits_weights'?"),
        ("quantizers:\n  q:\n    class: PostTrainLinearQuantizer\n    overrides: [fc]",
         "line 4, quantizers.q.overrides: a list should be a mapping"),
        (f"pruners:\n  p:\n    class: SparsityLevelParameterPruner\n{ONCE}", "line 2, pruners.p: SparsityLevelParameterPruner needs 'levels'"),
        (f"pruners:\n  p:\n    class: SparsityLevelParameterPruner\n    levels: {{0.weight: 1.5}}\n{ONCE}",
         "line 4, pruners.p.levels['0.weight']: 1.5 should be less than or equal to 1"),
        (f"pruners:\n  p:\n    class: SparsityLevelParameterPruner\n    levels: {{0.weight: .nan}}\n{ONCE}",
         "line 4, pruners.p.levels['0.weight']: nan should be a finite number"),
        (f"pruners:\n  p:\n    class: SparsityLevelParameterPruner\n    levels: most\n{ONCE}",
         "line 4, pruners.p.levels: 'most' should be a mapping"),
        (f"pruners:\n  p:\n    class: SparsityLevelParameterPruner\n    levels:\n      0.weight: much\n{ONCE}",
         "line 5, pruners.p.levels['0.weight']: 'much' should be a valid number, unable to parse string as a number"),
        (f"pruners:\n  p:\n    class: SparsityLevelParameterPruner\n    levels: {{x: 0.5}}\n    colour: 3\n{ONCE}",
         "line 5, pruners.p: SparsityLevelParameterPruner has no 'colour'; it has levels"),
        (f"pruners:\n  p:\n    class: SparsityLevelParameterPruner\n    levels: {{'re:(': 0.5}}\n{ONCE}",
         "line 4, pruners.p.levels['re:(']: 're:(' is not a regular expression: missing ), unterminated subpattern at position 0"),
        (f"pruners: {{p: {{class: 'my.code:pruner', q: 1}}}}\n{ONCE}",
         "line 1, pruners.p: 'my.code:pruner' is a plugin, whose code would run; "
         "if you trust it, it is allowed with --allow-plugins (in Python: allow_plugins=True)"),
        (f"lr_schedulers: {{lr: {{class: LambdaLR}}}}\n{RATE}",
         "line 1, lr_schedulers.lr: no schedule file can describe LambdaLR: it needs a Python function"),
        (f"lr_schedulers: {{lr: {{class: SequentialLR}}}}\n{RATE}",
         "line 1, lr_schedulers.lr: no schedule file can describe SequentialLR: it needs other schedulers; give each a policy with a window of its own"),
        (f"lr_schedulers: {{lr: {{class: ExponentalLR, gamma: 0.9}}}}\n{RATE}",
         "line 1, lr_schedulers.lr: no lr_scheduler class is named 'ExponentalLR'; did you mean 'ExponentialLR'?"),
        (f"lr_schedulers: {{lr: {{class: ExponentialLR, gama: 0.9}}}}\n{RATE}",
         "line 1, lr_schedulers.lr: ExponentialLR has no 'gama'; did you mean 'gamma'?"),
        (f"lr_schedulers: {{lr: {{class: ExponentialLR, gamma: 0.9, last_epoch: 3}}}}\n{RATE}",
         "line 1, lr_schedulers.lr: ExponentialLR has no 'last_epoch'; it has gamma"),
        (f"lr_schedulers: {{lr: {{class: CyclicLR, base_lr: 0.1, max_lr: 0.2, scale_fn: f}}}}\n{RATE}",
         "line 1, lr_schedulers.lr: CyclicLR takes a Python function as 'scale_fn', which a schedule file cannot hold; leave it out"),
        (f"lr_schedulers: {{lr: {{class: CosineAnnealingWarmRestarts, T_0: 0}}}}\n{RATE}",
         "line 1, lr_schedulers.lr: CosineAnnealingWarmRestarts: Expected positive integer T_0, but got 0"),
        (f"lr_schedulers: {{lr: {{class: StepLR, step_size: 0}}}}\n{RATE}",
         "line 1, lr_schedulers.lr: StepLR: divides by zero at its first steps; no length, and no share of one, may come to 0"),
        (f"lr_schedulers: {{lr: {{class: OneCycleLR, max_lr: 1.0, total_steps: 10, pct_start: 0.1}}}}\n{RATE}",
         "line 1, lr_schedulers.lr: OneCycleLR: divides by zero at its first steps; no length, and no share of one, may come to 0"),
        (f"lr_schedulers: {{lr: {{class: ReduceLROnPlateau, mode: low}}}}\n{RATE}", "line 1, lr_schedulers.lr.mode: 'low' should be 'min' or 'max'"),
        (f"lr_schedulers: {{lr: {{class: MultiStepMultiGammaLR, milestones: [1, 2], gammas: [0.1]}}}}\n{RATE}",
         "line 1, lr_schedulers.lr: MultiStepMultiGammaLR: milestones and gammas must be of one length, not 2 and 1"),
    ],
)  # fmt: skip
def test_one_fault(text: str, message: str) -> None:
    assert faults(text) == [message]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("3", "line 2, policies[0]: must be a mapping, not 3"),
        ("~", "line 2, policies[0]: is empty; give it an instance and a window, or take its '-' out"),
        ("{pruner: , epochs: [0]}", "line 2, policies[0].pruner: is empty; it needs 'instance_name'"),
        ("{epochs: [0]}", "line 2, policies[0]: applies nothing; it needs one of pruner, regularizer, quantizer, lr_scheduler, extension"),
        ("{pruner: {instance_name: p}, regularizer: {instance_name: r}, epochs: [0]}",
         "line 2, policies[0]: applies pruner and regularizer at once; give each a policy of its own"),
        ("{pruner: {instance_name: p}, epochs: [0], frequncy: 2}", "line 2, policies[0]: a policy has no 'frequncy'; did you mean 'frequency'?"),
        ("{pruner: p, epochs: [0]}", "line 2, policies[0].pruner: must be a mapping with 'instance_name', not 'p'"),
        ("{pruner: {args: {}}, epochs: [0]}", "line 2, policies[0].pruner: needs 'instance_name'"),
        ("{pruner: {instance_nam: p}, epochs: [0]}",
         "line 2, policies[0].pruner: the policy's pruner has no 'instance_nam'; did you mean 'instance_name'?"),
        ("{pruner: {instance_name: p, args: {levels: 3}}, epochs: [0]}",
         "line 2, policies[0].pruner.args.levels: 3 should be a mapping"),
        ("{pruner: {instance_name: p, args: {keep_masks: true}}, epochs: [0]}",
         "line 2, policies[0].pruner.args: a pruner policy has no 'keep_masks'; did you mean 'keep_mask'?"),
        ("{pruner: {instance_name: p, args: 3}, epochs: [0]}", "line 2, policies[0].pruner.args: must be a mapping, not 3"),
        ("{pruner: {instance_name: fine}, epochs: [0]}", "line 2, policies[0].pruner: no pruner named 'fine'; defined: p"),
        ("{regularizer: {instance_name: l1}, epochs: [0]}", "line 2, policies[0].regularizer: no regularizer named 'l1'; none is defined"),
        ("{pruner: {instance_name: p}}",
         "line 2, policies[0]: has no window; give starting_epoch and ending_epoch, or starting_step and ending_step, or epochs, or steps"),
        ("{pruner: {instance_name: p}, starting_epoch: 0}", "line 2, policies[0]: has 'starting_epoch' and needs 'ending_epoch' too"),
        ("{pruner: {instance_name: p}, ending_step: 9}", "line 2, policies[0]: has 'ending_step' and needs 'starting_step' too"),
        ("{pruner: {instance_name: p}, starting_epoch: 0, ending_epoh: 3}",
         "line 2, policies[0]: a policy has no 'ending_epoh'; did you mean 'ending_epoch'?"),
        ("{pruner: {instance_name: p}, epochs: [0], starting_epoch: 0}",
         "line 2, policies[0]: has both 'epochs' and 'starting_epoch'; give the list alone, or starting_epoch, ending_epoch and frequency"),
        ("{pruner: {instance_name: p}, epochs: [0], frequency: 2}",
         "line 2, policies[0]: has both 'epochs' and 'frequency'; give the list alone, or starting_epoch, ending_epoch and frequency"),
        ("{pruner: {instance_name: p}, starting_epoch: 0, ending_step: 3}",
         "line 2, policies[0]: mixes epochs and steps: it has 'starting_epoch' and 'ending_step'; give both ends in epochs, or both in steps"),
        ("{pruner: {instance_name: p}, starting_epoch: 3, ending_epoch: 3}",
         "line 2, policies[0]: the window from epoch 3 to 3 never fires: its end is excluded and must lie after its begin"),
        ("{pruner: {instance_name: p}, starting_step: -1, ending_step: 3}",
         "line 2, policies[0]: a window cannot begin at step -1: steps count from 0"),
        ("{pruner: {instance_name: p}, starting_epoch: 0, ending_epoch: 3, frequency: 0}",
         "line 2, policies[0]: a frequency of 0 never fires: it must be 1 or more"),
        ("{pruner: {instance_name: p}, starting_epoch: one, ending_epoch: 3}", "line 2, policies[0].starting_epoch: 'one' should be a whole number"),
        ("{pruner: {instance_name: p}, epochs: []}", "line 2, policies[0].epochs: must be a list of epochs, as in [0, 2, 4], not an empty list"),
        ("{pruner: {instance_name: p}, steps: [1, x]}", "line 2, policies[0].steps[1]: 'x' should be a whole number"),
        ("{pruner: {instance_name: p}, steps: [1], epochs: [1]}",
         "line 2, policies[0]: has both 'epochs' and 'steps'; give the list alone, or starting_epoch, ending_epoch and frequency"),
        ("{pruner: {instance_name: p}, steps: [1], starting_step: 1}",
         "line 2, policies[0]: has both 'steps' and 'starting_step'; give the list alone, or starting_step, ending_step and frequency"),
        ("{pruner: {instance_name: p}, step: [1]}", "line 2, policies[0]: a policy has no 'step'; did you mean 'steps'?"),
        ("{pruner: {instance_name: p}, starting_epoch: 0, ending_epoch: 9, freq: 3}",
         "line 2, policies[0]: a policy has no 'freq'; did you mean 'frequency'?"),
        ("{pruner: {instance_name: p}, start: 0, ending_step: 9}",
         "line 2, policies[0]: a policy has no 'start'; did you mean 'starting_epoch' or 'starting_step'?"),
        ("{pruner: {instance_name: p}, epochs: 3}", "line 2, policies[0].epochs: must be a list of epochs, as in [0, 2, 4], not 3"),
        ("{pruner: {instance_name: p}, epochs: [0, 1.5]}", "line 2, policies[0].epochs[1]: 1.5 should be a whole number"),
        ("{pruner: {instance_name: p}, epochs: [-1]}", "line 2, policies[0]: epochs [-1] never fire as listed: epochs count from 0"),
    ],
)  # fmt: skip
def test_one_fault_of_a_policy(policy: str, message: str) -> None:
    assert [fault for fault in report(f"pruners: {{p: {AGP}}}\npolicies: [{policy}]").splitlines() if "warning" not in fault][:2] == [
        "schedule: 1 fault",
        "  " + message,
    ]


def test_policies_must_be_a_list() -> None:
    assert faults("policies: {pruner: {}}") == ["line 1, policies: must be a list, each item with a '-', not a mapping"]


def test_two_learning_rates_must_not_overlap() -> None:
    text = """\
        lr_schedulers:
          a: {class: ExponentialLR, gamma: 0.9}
          b: {class: StepLR, step_size: 3}
        policies:
          - {lr_scheduler: {instance_name: a}, starting_epoch: 0, ending_epoch: 10}
          - {lr_scheduler: {instance_name: b}, starting_epoch: 10, ending_epoch: 20}
          - {lr_scheduler: {instance_name: a}, starting_epoch: 19, ending_epoch: 30}
        """
    assert faults(text) == [
        "line 7, policies[2]: 'a' sets the learning rate in epochs 19 to 30, and policies[1] sets it in epochs 10 to 20; "
        "let one end where the other begins"
    ]


def test_learning_rates_by_step_and_by_epoch_must_not_overlap_for_certain() -> None:
    text = """\
        lr_schedulers:
          a: {class: ExponentialLR, gamma: 0.9}
          b: {class: StepLR, step_size: 3}
        policies:
          - {lr_scheduler: {instance_name: a}, starting_step: 0, ending_step: 10}
          - {lr_scheduler: {instance_name: b}, starting_epoch: BEGIN, ending_epoch: 20}
        """
    assert report(text.replace("BEGIN", "1")) == "schedule: no faults"
    assert faults(text.replace("BEGIN", "0")) == [
        "line 6, policies[1]: 'b' sets the learning rate in epochs 0 to 20, and policies[0] sets it in steps 0 to 10; "
        "let one end where the other begins"
    ]


def test_a_learning_rate_must_go_with_the_unit_of_its_window() -> None:
    text = """\
        lr_schedulers:
          plateau: {class: ReduceLROnPlateau}
          cycle: {class: OneCycleLR, max_lr: 0.1, total_steps: 9}
        policies:
          - {lr_scheduler: {instance_name: plateau}, starting_step: 5, ending_step: 10}
          - {lr_scheduler: {instance_name: cycle}, starting_epoch: 4, ending_epoch: 9}
        """
    assert report(text).splitlines() == [
        "schedule: 1 fault",
        "  line 5, policies[0]: ReduceLROnPlateau watches what is measured at the end of an epoch, so it cannot move by step; "
        "give starting_epoch and ending_epoch",
        "schedule: 1 warning",
        "  line 6, policies[1]: OneCycleLR steps once an epoch in this window, and is made to move in every step; "
        "give starting_step and ending_step",
    ]


def warnings(text: str) -> list[str]:
    """The warnings of a schedule without faults, given the model; without it there are none."""
    assert report(text) == "schedule: no faults"
    first, *rest = report(text, with_model=True).splitlines()
    assert first == "schedule: no faults"
    return [line.removeprefix("  ") for line in rest[1:]]


@pytest.mark.parametrize(
    ("levels", "messages"),
    [
        ("{'*.weight': 0.5, '0.w*': 0.9}",
         ["line 1, pruners.p.levels['0.w*']: '0.w*' has no effect: all that it matches is taken by '*.weight'; "
          "among patterns the first wins, so put it first"]),
        ("{'*.weight': 0.5, '0.w*': 0.5}", []),
        ("{'0.w*': 0.5, '*.weight': 0.9}", []),
        ("{0.weight: 0.5, module.0.weight: 0.5, '*.weight': 0.9}", []),
        ("{0.weight: 0.5, 2.weight: 0.6, 're:..weight': 0.9}",
         ["line 1, pruners.p.levels['re:..weight']: 're:..weight' has no effect: all that it matches is taken by '0.weight', '2.weight'; "
          "among patterns the first wins, so put it first"]),
        ("{'*': 0.5}",
         ["line 1, pruners.p.levels['*']: '*' prunes 0.bias, 2.bias too, which are biases or gains; "
          "if that is not meant, give a narrower pattern or names"]),
        ("{'2.*': 0.5, 0.bias: 0.5}",
         ["line 1, pruners.p.levels['2.*']: '2.*' prunes 2.bias too, which is a bias or a gain; "
          "if that is not meant, give a narrower pattern or names"]),
        ("{'*.bias': 0, '*': 0.5}", []),
    ],
)  # fmt: skip
def test_patterns_that_are_probably_not_meant(levels: str, messages: list[str]) -> None:
    assert warnings(f"pruners: {{p: {{class: SparsityLevelParameterPruner, levels: {levels}}}}}\n{ONCE}") == messages


def test_a_regularizer_may_take_biases() -> None:
    text = "regularizers: {l1: {class: L1Regularizer, reg_regims: {'*': 0.1}}}\npolicies: [{regularizer: {instance_name: l1}, epochs: [0]}]"
    assert warnings(text) == []


def test_pruners_that_renew_one_tensor_at_a_time() -> None:
    text = """\
        pruners:
          a: {class: SparsityLevelParameterPruner, levels: {0.weight: 0.5}}
          b: {class: SparsityLevelParameterPruner, levels: {'*.weight': 0.8}}
        policies:
          - {pruner: {instance_name: b}, starting_epoch: 4, ending_epoch: 9}
          - {pruner: {instance_name: a}, starting_epoch: 0, ending_epoch: 5}
          - {pruner: {instance_name: a}, starting_epoch: 8, ending_epoch: 10}
          - {pruner: {instance_name: b}, starting_epoch: 10, ending_epoch: 12}
          - {pruner: {instance_name: a}, starting_step: 10, ending_step: 12}
        """
    also = "where both fire the later one decides; let one end where the other begins"
    assert warnings(text) == [
        f"line 6, policies[1]: renews 0.weight in epochs 0 to 5, as policies[0] does in epochs 4 to 9: {also}",
        f"line 7, policies[2]: renews 0.weight in epochs 8 to 10, as policies[0] does in epochs 4 to 9: {also}",
    ]


def test_names_that_match_no_parameter() -> None:
    text = """\
        pruners:
          p:
            class: AutomatedGradualPruner
            initial_sparsity: 0
            final_sparsity: 0.5
            weights:
              - 0.weight
              - 0.wieght
              - '*.gamma'
          q: {class: SensitivityPruner, sensitivities: {2.weigth: 0.5}}
        regularizers:
          l1: {class: L1Regularizer, reg_regims: {module.0.weight: 1e-6, fc: 1e-6}}
        policies:
          - {pruner: {instance_name: p}, epochs: [0]}
          - {pruner: {instance_name: q}, epochs: [0]}
          - {regularizer: {instance_name: l1}, epochs: [0]}
        """
    assert report(text) == "schedule: no faults"
    assert faults(text, with_model=True) == [
        "line 8, pruners.p.weights[1]: no parameter is named '0.wieght'; did you mean '0.weight'?",
        "line 9, pruners.p.weights[2]: no parameter matches '*.gamma'",
        "line 10, pruners.q.sensitivities['2.weigth']: no parameter is named '2.weigth'; did you mean '2.weight'?",
        "line 12, regularizers.l1.reg_regims.fc: no parameter is named 'fc'",
    ]


def test_two_names_of_one_parameter_must_agree() -> None:
    text = """\
        pruners:
          p:
            class: SparsityLevelParameterPruner
            levels:
              0.weight: 0.5
              module.0.weight: 0.9
        policies:
          - {pruner: {instance_name: p}, epochs: [0]}
        """
    assert faults(text, with_model=True) == [
        "line 6, pruners.p.levels['module.0.weight']: 'module.0.weight' is another name of '0.weight', which is given 0.5 already, not 0.9; "
        "name it once"
    ]


def test_names_are_checked_although_other_arguments_are_wrong() -> None:
    text = """\
        pruners:
          p:
            class: AutomatedGradualPruner
            initial_sparsity: 2
            final_sparsty: 0.5
            weights: 0.wieght
        policies:
          - {pruner: {instance_name: p}, epochs: [0]}
        """
    assert faults(text, with_model=True) == [
        "line 4, pruners.p.initial_sparsity: 2 should be less than or equal to 1",
        "line 5, pruners.p: AutomatedGradualPruner has no 'final_sparsty'; did you mean 'final_sparsity'?",
        "line 6, pruners.p.weights: no parameter is named '0.wieght'; did you mean '0.weight'?",
    ]


def test_units_must_fit_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    section = replace(SECTIONS[0], classes={"Blocks": lambda: Pruner({"0.weight": 0.5, "2.weight": 0.5}, unit=Tile((4, 4)))})
    monkeypatch.setattr("limbeck.config.check.SECTIONS", (section,))
    text = f"pruners: {{p: {{class: Blocks}}}}\n{ONCE}"
    assert report(text) == "schedule: no faults"
    assert faults(text, with_model=True) == [
        "line 1, pruners.p: '2.weight' cannot be cut into units: blocks of 4 x 4 do not fill a tensor of shape (2, 4): 4 does not divide 2"
    ]


def test_a_mapping_has_faults_without_lines() -> None:
    tree = {"version": 1, "pruners": {"p": {"class": "Nothing"}}, "policies": [{"pruner": {"instance_name": "q"}, "epochs": [0]}]}
    assert [str(fault) for fault in check(load(tree)).report.faults] == [
        f"pruners.p: no pruner class is named 'Nothing'; {CHOICES}",
        "policies[0].pruner: no pruner named 'q'; defined: p",
    ]


def test_faults_of_all_kinds_come_at_once_in_the_order_of_lines() -> None:
    text = """\
        version: 3
        policies:
          - {pruner: {instance_name: p}, epochs: []}
        pruners:
          p: {class: AutomatedGradualPruner, initial_sparsity: -1, final_sparsity: 2}
          p: {class: AutomatedGradualPruner, initial_sparsity: -1, final_sparsity: 2}
        """
    assert [fault.split(":")[0] for fault in faults(text)] == [
        "line 1, version",
        "line 3, policies[0].epochs",
        "line 6, pruners",
        "line 6, pruners.p",
        "line 6, pruners.p.initial_sparsity",
        "line 6, pruners.p.final_sparsity",
    ]


def test_checking_does_not_run_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugin_that_must_not_run.py").write_text("raise SystemExit('ran')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "plugin.yaml"
    path.write_text(f"pruners: {{p: {{class: 'plugin_that_must_not_run:make'}}}}\n{ONCE}\n", encoding="utf-8")
    assert check_file(path, model(), allow_plugins=True).text() == f"{path}: no faults"
    assert "plugin_that_must_not_run" not in sys.modules


def test_an_optimizer_decides_what_a_learning_rate_needs() -> None:
    text = f"lr_schedulers: {{lr: {{class: CyclicLR, base_lr: [0.1, 0.2], max_lr: [0.2, 0.3]}}}}\n{RATE}\n"
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    three = torch.optim.SGD([{"params": [weight]} for weight in weights], lr=0.1, momentum=0.5)
    assert check(load(text)).report.ok
    assert [str(fault) for fault in check(load(text), optimizer=three).report.faults] == [
        "line 1, lr_schedulers.lr: CyclicLR: base_lr must have the same length as optimizer.param_groups. "
        "base_lr has 2 values, param_groups has 3."
    ]


def test_an_amount_must_mean_something_in_the_window_that_applies_it() -> None:
    text = """\
        pruners:
          rnn: {class: BaiduRNNPruner, q: 0.2, ramp_epoch_offset: 9, ramp_slope_mult: 2, weights: [fc.weight]}
        policies:
          - {pruner: {instance_name: rnn}, starting_epoch: 0, ending_epoch: 20, frequency: 1}
          - {pruner: {instance_name: rnn}, starting_epoch: 20, ending_epoch: 28, frequency: 1}
        """
    assert faults(text) == [
        "line 5, policies[1]: pruner 'rnn': ramp_epoch_offset 9 must lie within the window: from 0 to 8 epochs after its begin"
    ]


def test_overrides_are_checked_against_the_layers_of_a_model(tmp_path: Path) -> None:
    file = tmp_path / "int8.yaml"
    text = "quantizers:\n  int8:\n    class: PostTrainLinearQuantizer\n    overrides: {{{}}}\n"
    network = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "rnn": nn.LSTM(4, 4)})
    file.write_text(text.format("convv: {bits_weights: 4}"))
    assert check_file(file).ok
    assert "no layer is named 'convv'; did you mean 'conv'?" in check_file(file, network).text()
    file.write_text(text.format("rnn.cells.0.act_f: {bits_activations: 4}, c*: {bits_weights: 4}, conv: {bits_weights: 6}"))
    found = check_file(file, network)
    assert found.ok
    assert "the override 'conv' says nothing" in found.text()
    assert isinstance(network["rnn"], nn.LSTM)
    file.write_text(text.format("'re:(': {bits_weights: 4}"))
    assert "re:(" in check_file(file, network).text()
    network["conv"].extra = torch.ones(1, requires_grad=True) * 2  # a copy of it cannot be made
    del network["rnn"]
    file.write_text(text.format("conv: {bits_weights: 4}"))
    assert check_file(file, network).ok

"""From file to scheduler: all faults before anything is built, and what is built."""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from limbeck.config.build import load_quantizer, load_schedule
from limbeck.config.plan import plan
from limbeck.errors import ScheduleError, ScheduleWarning
from limbeck.pruning import Prune
from limbeck.schedules import Window

SCHEDULES = sorted((Path(__file__).parents[2] / "schedules").rglob("*.yaml"))
TEXT = """
version: 1
pruners:
  half: {class: SparsityLevelParameterPruner, levels: {'*.weight': 0.5}}
regularizers:
  l1: {class: L1Regularizer, reg_regims: {0.weight: 1e-6}}
lr_schedulers:
  decay: {class: ExponentialLR, gamma: 0.5}
policies:
  - {pruner: {instance_name: half}, starting_step: 3, ending_step: 9, frequency: 2}
  - {regularizer: {instance_name: l1}, epochs: [4, 1]}
  - {pruner: {instance_name: half}, starting_epoch: 1, ending_epoch: 3}
  - {lr_scheduler: {instance_name: decay}, starting_epoch: 0, ending_epoch: 3}
"""


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))


def test_policies_become_windows_and_actions_in_file_order() -> None:
    model = network()
    scheduler = load_schedule(TEXT, model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert [window for window, _ in scheduler.schedule] == [Window(3, 9, 2, "step"), Window(only=(1, 4)), Window(1, 3), Window(0, 3)]
    assert [type(action).__name__ for _, action in scheduler.schedule] == ["Prune", "Regularize", "Prune", "LearningRate"]
    prunes = [action for _, action in scheduler.schedule if isinstance(action, Prune)]
    assert prunes[0] is not prunes[1]
    assert prunes[0].pruner.targets == prunes[1].pruner.targets == {"0.weight": 0.5, "1.weight": 0.5}
    assert scheduler.text == TEXT


def test_the_learning_rate_follows_the_file() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = load_schedule(TEXT, model, optimizer)
    rates = []
    for _ in scheduler.epochs(5):
        for _ in scheduler.steps([0]):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
    assert rates == pytest.approx([0.1, 0.05, 0.025, 0.0125, 0.0125])


def test_a_mapping_is_a_schedule_too_and_keeps_its_text() -> None:
    tree = {"pruners": {"p": {"class": "SparsityLevelParameterPruner", "levels": {"0.weight": 0.5}}}}
    tree["policies"] = [{"pruner": {"instance_name": "p"}, "epochs": [0]}]  # type: ignore[assignment]  # two shapes in one dict
    scheduler = load_schedule(tree, network())
    assert yaml.safe_load(scheduler.text or "") == tree


def test_a_mapping_may_hold_what_python_holds() -> None:
    """Tuples, other mappings and keys that are numbers are read as a file would hold them."""
    agp = {"class": "AutomatedGradualPruner", "initial_sparsity": 0, "final_sparsity": 0.5, "weights": ("0.weight", "1.weight")}
    tree = {"pruners": OrderedDict({1: agp}), "policies": ({"pruner": {"instance_name": 1}, "epochs": (0,)},)}
    scheduler = load_schedule(tree, network())
    scheduler.on_epoch_begin(0)
    assert list(scheduler.masks) == ["0.weight", "1.weight"]
    assert load_schedule(scheduler.text or "", network()).text == scheduler.text


def test_warnings_come_once_for_a_load() -> None:
    text = "version: 1\npruners:\n"
    text += "".join(f"  {name}: {{class: SparsityLevelParameterPruner, levels: {{0.weight: 0.5}}}}\n" for name in "abc")
    text += "policies: [{pruner: {instance_name: b}, epochs: [0]}]\n"
    with pytest.warns(ScheduleWarning) as caught:
        load_schedule(text, network())
    assert [str(warning.message) for warning in caught] == [
        "schedule: 2 warnings\n"
        "  line 3, pruners.a: declared, but no policy applies this pruner\n"
        "  line 5, pruners.c: declared, but no policy applies this pruner"
    ]
    assert caught[0].filename == __file__


def test_the_error_is_the_whole_report() -> None:
    with pytest.raises(ScheduleError) as caught:
        load_schedule("version: 1\npruners: {p: {class: Nothing}}\npolicies: [{pruner: {instance_name: q}, epochs: [0]}]\n", network())
    assert str(caught.value).splitlines()[0] == "schedule: 2 faults"
    assert caught.value.faults[1] == "line 3, policies[0].pruner: no pruner named 'q'; defined: p"


def test_a_learning_rate_needs_the_optimizer() -> None:
    with pytest.raises(ScheduleError) as caught:
        load_schedule(TEXT, network())
    assert caught.value.faults == (
        "line 13, policies[3].lr_scheduler: changes the learning rate and needs the optimizer: load_schedule(file, model, optimizer)",
    )


def test_nothing_is_built_from_a_faulty_schedule() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ScheduleError):
        load_schedule(TEXT.replace("gamma: 0.5", "gama: 0.5"), model, optimizer)
    assert not optimizer._optimizer_step_post_hooks
    assert "initial_lr" not in optimizer.param_groups[0]


def test_plugins_run_only_with_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_pruners.py").write_text(
        "from limbeck.pruning import Pruner\n\n\ndef fixed(amount: float, names: list[str]) -> Pruner:\n    return Pruner(dict.fromkeys(names, amount))\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "pruners: {p: {class: 'my_pruners:fixed', amount: 0.25, names: [0.weight]}}\npolicies: [{pruner: {instance_name: p}, epochs: [0]}]\n"
    with pytest.raises(ScheduleError, match="is a plugin, whose code would run"):
        load_schedule(text, network())
    assert "my_pruners" not in sys.modules
    scheduler = load_schedule(text, network(), allow_plugins=True)
    scheduler.on_epoch_begin(0)
    assert int(scheduler.masks["0.weight"].sum()) == 12
    faulty = {
        text.replace("amount", "amuont"): "my_pruners:fixed has no 'amuont'; did you mean 'amount'?",
        text.replace(":fixed", ":fluid"): "the plugin 'my_pruners:fluid' cannot be imported: module 'my_pruners' has no attribute 'fluid'",
        text.replace("my_pruners", "no_pruners"): "the plugin 'no_pruners:fixed' cannot be imported: No module named 'no_pruners'",
        text.replace(":fixed", ":__name__"): "the plugin 'my_pruners:__name__' is 'my_pruners', not a function",
    }
    for schedule, message in faulty.items():
        with pytest.raises(ScheduleError) as caught:
            load_schedule(schedule, network(), allow_plugins=True)
        assert caught.value.faults == (f"line 1, pruners.p: {message}",)


INT8 = "quantizers: {int8: {class: PostTrainLinearQuantizer, clip_acts: AVG}}"


def test_a_quantizer_waits_for_the_end_of_the_training_that_its_file_describes() -> None:
    both, model = TEXT.replace("lr_schedulers:", f"{INT8}\nlr_schedulers:"), network()
    assert len(load_schedule(both, model, torch.optim.SGD(model.parameters(), lr=0.1)).schedule) == 4
    quantizer = load_quantizer(both)
    assert quantizer.arguments["clip_acts"] == "avg"
    planned = plan({"quantizers": {"int8": {"class": "PostTrainLinearQuantizer"}}}, network())
    assert planned.afterwards == ("PostTrainLinearQuantizer 'int8': limbeck quantize FILE --model RUN applies it to a trained model",)
    assert planned.nonzeros == planned.weights


def test_a_file_of_quantizers_alone_is_no_training_and_one_of_a_training_alone_quantizes_nothing() -> None:
    with pytest.raises(
        ScheduleError, match="line 1, quantizers: nothing is applied while training: there are only quantizers; limbeck quantize"
    ):
        load_schedule(f"{INT8}\n", network())
    with pytest.raises(ScheduleError, match="there are no quantizers; name one, as in"):
        load_quantizer(TEXT)


def test_there_are_schedules_to_test() -> None:
    assert len(SCHEDULES) > 5

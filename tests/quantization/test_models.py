"""Whole models: every recurrent module at any depth, with masks, optimizers, ties and checkpoints."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.apps.lm.model import CELLS, RNNModel
from limbeck.errors import QuantizationError
from limbeck.graph.capture import capture
from limbeck.names import named_parameters
from limbeck.pruning import Prune, level_pruner
from limbeck.quantization.models import modular, modular_names, renamed, unmodular
from limbeck.quantization.observe import collect_stats
from limbeck.quantization.recurrent import ModularRecurrent
from limbeck.scheduler import Scheduler
from limbeck.schedules import Window
from limbeck.stats import sparsity


def language_model(cell: str = "LSTM") -> RNNModel:
    return RNNModel(cell, vocabulary=11, emsize=6, nhid=6, nlayers=2, dropout=0.0, tied=True)


class Nested(nn.Module):
    """A recurrent module deep down, one that stands in two places, and a cell."""

    def __init__(self) -> None:
        super().__init__()
        shared = nn.GRU(4, 4)
        self.blocks = nn.ModuleList([nn.ModuleDict({"one": shared}), nn.ModuleDict({"two": shared, "cell": nn.LSTMCell(4, 4)})])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            for name, module in block.items():
                x = module(x)[0] if name != "cell" else torch.stack([module(step)[0] for step in x])
        return x


@pytest.mark.parametrize("cell", CELLS)
def test_a_language_model_computes_what_it_did(cell: str) -> None:
    model = language_model(cell)
    words = torch.randint(11, (5, 3))
    hidden = model.initial_hidden(3)
    logits, state = model(words, hidden)
    assert modular(model) is model
    assert isinstance(model.rnn, ModularRecurrent)
    again, after = model(words, model.initial_hidden(3))
    torch.testing.assert_close((again, after), (logits, state), rtol=0, atol=1e-6)
    assert unmodular(model) is model
    torch.testing.assert_close(model(words, hidden), (logits, state), rtol=0, atol=0)


def test_every_recurrent_module_is_replaced_and_one_in_two_places_once() -> None:
    model = Nested()
    x = torch.randn(5, 2, 4)
    before, expected, reference = repr(model), model(x), dict(model.named_parameters())
    modular(model)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-6)
    assert model.get_submodule("blocks.0.one") is model.get_submodule("blocks.1.two")
    assert not [module for module in model.modules() if isinstance(module, nn.RNNBase | nn.RNNCellBase)]
    unmodular(model)
    assert repr(model) == before
    assert all(parameter is reference[name] for name, parameter in model.named_parameters())


class StepByStep(nn.Module):
    """A cell that is called whole, step after step."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> None:
        state = None
        for step in x:
            state = self.cell(step, state)


def test_statistics_of_all_steps_at_once_are_those_of_the_steps() -> None:
    """``fc_gate_x`` runs once for a sequence; what a calibration gets to see does not depend on that."""
    model = modular(nn.Sequential(nn.LSTM(4, 4))).eval()
    x = torch.randn(5, 3, 4)
    with collect_stats(model) as at_once:
        model(x)
    steps = StepByStep(model.get_submodule("0.cells.0")).eval()
    with collect_stats(steps) as by_step:
        steps(x)
    for part in ("fc_gate_x", "fc_gate_h", "act_f", "eltwiseadd_cell"):
        mine, its = at_once.stats[f"0.cells.0.{part}"].output, by_step.stats[f"cell.{part}"].output
        for number in ("min", "max", "avg_min", "avg_max", "mean", "std", "b"):
            assert getattr(mine, number) == pytest.approx(getattr(its, number), rel=1e-5)


@pytest.mark.long
def test_a_graph_names_each_operation_by_its_part() -> None:
    """What statistics of a network's operations, and what follows them, are looked up by."""
    model = modular(nn.ModuleDict({"rnn": nn.LSTM(3, 4, bidirectional=True)}))
    model.forward = lambda x: model["rnn"](x)[0]  # type: ignore[method-assign]
    nodes = [node for node in capture(model, (torch.zeros(2, 1, 3),)).nodes if node.kind == "call"]
    parts = {node.module: node.operation for node in nodes}
    for cells in ("cells", "cells_reverse"):
        assert parts[f"rnn.{cells}.0.act_g"] == "tanh"
        assert parts[f"rnn.{cells}.0.eltwisemult_cell_forget"] == "mul"
        assert [node.module for node in nodes].count(f"rnn.{cells}.0.act_f") == 2
    assert parts["rnn.concat.0"] == "cat"


def test_a_copy_leaves_the_model_alone() -> None:
    model = language_model()
    other = modular(model, inplace=False)
    assert isinstance(model.rnn, nn.LSTM)
    assert isinstance(other.rnn, ModularRecurrent)
    with torch.no_grad():
        other.get_parameter("rnn.cells.0.fc_gate_x.weight").zero_()
    assert model.rnn.weight_ih_l0.all()
    assert other.decoder.weight is other.encoder.weight


def test_a_scheduler_s_masks_and_an_optimizer_with_momentum_go_on() -> None:
    """Pruned to 75 % before the conversion, trained on after it: the weights that have fallen stay zero, the others move."""
    model = language_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    scheduler = Scheduler(model, [(Window(0, 1), Prune(level_pruner({"rnn.weight_*": 0.75})))], optimizer)
    words = torch.randint(11, (5, 3))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(words).flatten(0, 1), words.flatten()).backward()
        optimizer.step()

    step()
    scheduler.on_epoch_begin(0)
    modular(model)
    weight = model.get_parameter("rnn.cells.1.fc_gate_h.weight")
    before = weight.detach().clone()
    step()
    assert sparsity(weight) == sparsity(before) == 0.75
    assert not torch.equal(weight, before)


def test_masks_follow_by_name_in_both_directions() -> None:
    model = language_model()
    scheduler = Scheduler(model, [(Window(0, 1), Prune(level_pruner({"rnn.weight_*": 0.5})))])
    scheduler.on_epoch_begin(0)
    masks = scheduler.masks.state_dict()
    other = modular(model, inplace=False)
    names = modular_names(model)
    assert names == modular_names(other) == modular_names(nn.DataParallel(other))

    follower = Scheduler(other)
    follower.masks.load_state_dict(renamed(masks, names))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(1)
    follower.masks.apply()
    densities = {name: 1 - sparsity(named.parameter) for name, named in named_parameters(other).items()}
    assert {name for name, density in densities.items() if density == 0.5} == {names[name] for name in masks}
    back = renamed(follower.masks.state_dict(), {ours: theirs for theirs, ours in names.items()})
    assert all(torch.equal(back[name], mask) for name, mask in masks.items())


def test_a_checkpoint_of_one_form_loads_into_the_other() -> None:
    model, other = language_model("GRU"), modular(language_model("GRU"))
    names = modular_names(other)
    other.load_state_dict(renamed(model.state_dict(), names))
    words = torch.randint(11, (5, 3))
    torch.testing.assert_close(other(words), model(words), rtol=0, atol=1e-6)
    assert renamed(other.state_dict(), {ours: theirs for theirs, ours in names.items()}).keys() == model.state_dict().keys()


def test_weights_that_are_tied_stay_tied() -> None:
    model = nn.ModuleDict({"one": nn.LSTM(4, 4), "two": nn.LSTM(4, 4)})
    model["two"].weight_ih_l0 = model["one"].weight_ih_l0
    modular(model)
    assert named_parameters(model)["one.cells.0.fc_gate_x.weight"].aliases == ("two.cells.0.fc_gate_x.weight",)


def test_a_model_without_recurrent_modules_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    assert modular(model)[0] is model[0]
    assert modular_names(model) == {}
    assert isinstance(copy.deepcopy(modular(nn.Sequential(nn.LSTM(2, 3))))[0], ModularRecurrent)


def test_a_fault_names_the_module_and_leaves_the_model_alone() -> None:
    model: Any = nn.ModuleDict({"good": nn.LSTM(3, 4), "bad": nn.LSTM(3, 4)})
    handle = model["bad"].register_forward_hook(lambda *_: None)
    with pytest.raises(QuantizationError, match="bad: a LSTM with hooks would lose them"):
        modular(model)
    assert isinstance(model["good"], nn.LSTM)
    handle.remove()
    modular(model)["bad"].cells[0].act_f = nn.Hardsigmoid()
    with pytest.raises(QuantizationError, match=r"bad: its part 'cells\.0\.act_f' is a Hardsigmoid"):
        unmodular(model)
    assert isinstance(model["good"], ModularRecurrent)


def test_a_model_that_is_itself_recurrent_is_told_what_to_call() -> None:
    with pytest.raises(QuantizationError, match=r"the model is itself a LSTM; from_torch\(model\) gives its other form"):
        modular(nn.LSTM(3, 4))
    with pytest.raises(QuantizationError, match=r"itself a ModularRecurrent; to_torch\(model\)"):
        unmodular(modular(nn.Sequential(nn.LSTM(3, 4)))[0])

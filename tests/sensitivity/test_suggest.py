"""What is suggested must pass the check, and keep its budget when the schedule is carried out on the model."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.apps.images.models import MODELS
from limbeck.config import check_file, load_schedule
from limbeck.errors import DataError
from limbeck.sensitivity import Group, Row, Structure, analysed, parse_budget, parse_levels, schedule_text, suggest
from limbeck.sensitivity.suggest import level_of
from limbeck.stats import nonzero_groups
from limbeck.summaries.compute import compute
from limbeck.thinning import thin

END = 6
INPUTS = (torch.zeros(1, 3, 32, 32),)


def resnet20() -> nn.Module:
    """With norms that shift, as in a trained network."""
    torch.manual_seed(0)
    model = MODELS["resnet20_cifar"]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def table(model: nn.Module, group: Group) -> list[Row]:
    """Losses that rise differently from layer to layer."""
    return [
        Row(name, level, 90 - 20 * (1 + index % 3) * level**2, 99.0, 0.3 + (1 + index % 3) * level**3, level)
        for index, name in enumerate(analysed(model, (), group))
        for level in parse_levels("0:0.95:0.05")
    ]


def weights(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)


def trained(model: nn.Module, text: str, thinned: bool) -> None:
    """The schedule's epochs without data: masks renewed, structures taken out or not yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = load_schedule(text, model, example_inputs=INPUTS)
    for epoch in range(END + 1):
        scheduler.on_epoch_begin(epoch)
        if epoch == END - 1 and not thinned:
            return
        scheduler.on_minibatch_begin(epoch, 0, 1)
        scheduler.on_minibatch_end(epoch, 0, 1)
        scheduler.on_epoch_end(epoch)


@pytest.mark.parametrize(
    ("group", "budget"),
    [
        ("filter", "macs=0.5"),
        ("filter", "parameters=0.6"),
        ("channel", "macs=0.6"),
        ("element", "sparsity=0.8"),
        ("filter", "sparsity=0.3"),
    ],
)
def test_a_suggestion_passes_the_check_and_keeps_its_budget(group: Group, budget: str, tmp_path: Path) -> None:
    model = resnet20()
    dense_macs, dense_weights = compute(model, INPUTS).macs, weights(model)
    made = suggest(table(model, group), model, INPUTS, group, parse_budget(budget))
    text = schedule_text(made, END, ["made by a test"])
    (tmp_path / "s.yaml").write_text(text)
    assert check_file(tmp_path / "s.yaml", model).text().endswith("s.yaml: no faults")
    assert text.startswith("# made by a test\n")
    assert f"Predicted for {budget}" in text
    masks_alone = made.budget.kind == "sparsity"
    trained(model, text, thinned=not masks_alone)
    if masks_alone:
        nonzeros = sum(nonzero_groups(parameter.detach()) for parameter in model.parameters() if parameter.dim() > 1)
        assert 1 - nonzeros / dense_weights == pytest.approx(made.kept["sparsity"], abs=1e-12)
        assert made.budget.amount <= made.kept["sparsity"] < made.budget.amount + 0.05
        return
    kept = {"macs": compute(model, INPUTS).macs / dense_macs, "parameters": weights(model) / dense_weights}
    assert kept == pytest.approx({kind: made.kept[kind] for kind in kept}, abs=1e-12)
    assert 0.9 * made.budget.kept < kept[made.budget.kind] <= made.budget.kept


def test_what_cannot_go_alone_is_left_dense_with_the_reason() -> None:
    model = resnet20()
    made = suggest(table(model, "filter"), model, INPUTS, "filter", parse_budget("macs=0.5"))
    assert all(name.endswith("conv1.weight") and name.startswith("layer") for name in made.levels)
    assert "other layers compute the same units" in made.left["layer1.0.conv2.weight"]


def test_the_prediction_is_the_sum_of_the_rises() -> None:
    net = nn.Sequential(nn.Linear(4, 10, bias=False), nn.ReLU(), nn.Linear(10, 4, bias=False))
    rows = [Row("0.weight", level, 90 - 10 * level, 99.0, 1 + level, level) for level in (0.0, 0.5)]
    rows += [Row("2.weight", level, 90 - 40 * level, 99.0, 1 + 4 * level, level) for level in (0.0, 0.5)]
    made = suggest(rows, net, (torch.zeros(1, 4),), "element", parse_budget("sparsity=0.3"))
    assert made.levels == {"0.weight": 0.5, "2.weight": pytest.approx(0.1)}
    assert (made.loss, made.top1) == (pytest.approx(1 + 0.5 + 0.4), pytest.approx(90 - 5 - 4))
    assert made.kept == pytest.approx({"sparsity": 0.3, "parameters": 0.7, "macs": 0.7})


def test_an_output_layer_is_left() -> None:
    net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 4))
    rows = [Row(name, level, 90 - level, 99.0, 1 + level, level) for name in ("0.weight", "2.weight") for level in (0.0, 0.5)]
    made = suggest(rows, net, (torch.zeros(1, 4),), "filter", parse_budget("parameters=0.7"))
    assert made.levels == {"0.weight": 0.3}
    assert made.left == {"2.weight": "it is the model's output"}
    thin(net, (torch.zeros(1, 4),))


def test_of_coupled_convolutions_the_first_loses_units() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)
    )
    structure, names = Structure.of(net, (torch.zeros(1, 3, 6, 6),)), ["0.weight", "3.weight", "6.weight"]
    assert structure.removable(net, names, "filter") == {
        "0.weight": "", "3.weight": "for its units go with those of an earlier layer", "6.weight": "it is the model's output"
    }  # fmt: skip
    assert structure.removable(net, names, "channel")["6.weight"] == ""
    assert structure.removable(net, names, "channel")["3.weight"]


def test_where_nothing_can_go_that_is_said() -> None:
    rows = [Row("weight", level, 90.0, 99.0, 1 + level, level) for level in (0.0, 0.5)]
    with pytest.raises(DataError, match="no filter can be taken out by itself: of weight, it is the model's output"):
        suggest(rows, nn.Linear(4, 4), (torch.zeros(1, 4),), "filter", parse_budget("macs=0.5"))


@pytest.mark.parametrize("text", ["latency=0.5", "macs", "macs=half", "macs=0", "macs=1", "macs=50", "macs=nan"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="budget"):
        parse_budget(text)


def test_another_models_table_is_refused() -> None:
    with pytest.raises(DataError, match="no weight of this model"):
        suggest(
            [Row("conv9.weight", 0.0, 90.0, 99.0, 0.3, 0.0)], nn.Linear(2, 2), (torch.zeros(1, 2),), "element", parse_budget("sparsity=0.5")
        )


def test_a_level_drops_exactly_its_count() -> None:
    for units in (2, 3, 10, 16, 64, 1000, 12_345):
        for count in {1, units // 3, units // 2, units - 1} - {0}:
            level = level_of(count, units)
            assert math.floor(level * units) == count
            assert len(f"{level:.12g}") <= 2 + max(2, len(str(units)))

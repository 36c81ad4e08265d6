from __future__ import annotations

from collections.abc import Collection

import pytest
import torch
from torch import Tensor, nn

from limbeck.errors import TargetError
from limbeck.sensitivity import Group, Metrics, Row, Structure, analysed, sensitivity

LEVELS = (0.0, 0.25, 0.5, 0.75)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=False), nn.Flatten(), nn.Linear(24, 4), nn.Dropout()
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


class Spy:
    """Counts zeros, and remembers how often it was asked and for what."""

    def __init__(self, fails_at: int = -1) -> None:
        self.calls: list[tuple[dict[str, int], tuple[str, ...]]] = []
        self.fails_at = fails_at

    def __call__(self, model: nn.Module, changed: Collection[str]) -> Metrics:
        assert not any(module.training for module in model.modules())
        zeros = {name: int((parameter == 0).sum()) for name, parameter in model.named_parameters()}
        self.calls.append((zeros, tuple(changed)))
        if len(self.calls) - 1 == self.fails_at:
            raise RuntimeError("evaluation failed")
        return Metrics(100.0 - sum(zeros.values()), 100.0, float(sum(zeros.values())))


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone().reshape(-1).view(torch.uint8) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(("group", "axis"), [("element", None), ("filter", 0), ("channel", 1)])
def test_each_point_prunes_one_parameter_to_its_level(group: Group, axis: int | None) -> None:
    model, spy = small(), Spy()
    rows = list(sensitivity(model, ["3.weight"], LEVELS, group, spy))
    weight = model[3].weight
    units = weight.numel() if axis is None else weight.shape[axis]
    expected = [int(level * units) * (weight.numel() // units) for level in LEVELS]
    assert [row.loss for row in rows] == expected
    assert [(row.parameter, row.sparsity) for row in rows] == [("3.weight", level) for level in LEVELS]
    assert [row.pruned for row in rows] == pytest.approx([int(level * units) / units for level in LEVELS])
    assert all(set(changed) <= {"3.weight"} for _, changed in spy.calls)


def test_the_smallest_go() -> None:
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -0.1], [0.5, -3.0]]))
    kept = []

    def evaluate(model: nn.Module, changed: Collection[str]) -> Metrics:
        kept.append(layer.weight.detach().clone())
        return Metrics(0.0, 0.0, 0.0)

    list(sensitivity(layer, ["weight"], [0.5], "element", evaluate))
    list(sensitivity(layer, ["weight"], [0.5], "filter", evaluate))
    list(sensitivity(layer, ["weight"], [0.5], "channel", evaluate))
    assert kept[0].tolist() == [[1.0, 0.0], [0.0, -3.0]]
    assert kept[1].tolist() == [[0.0, 0.0], [0.5, -3.0]]
    assert kept[2].tolist() == [[0.0, torch.tensor(-0.1).item()], [0.0, -3.0]]


def test_the_model_is_what_it_was_after_each_point() -> None:
    model = small().train()
    model[5].eval()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = -0.0
    before, modes = bits(model), [module.training for module in model.modules()]
    for _ in sensitivity(model, analysed(model, (), "element"), LEVELS, "element", Spy()):
        assert all(torch.equal(value, before[name]) for name, value in bits(model).items())
        assert [module.training for module in model.modules()] == modes


def test_the_model_is_what_it_was_after_an_error() -> None:
    model = small()
    before = bits(model)
    with pytest.raises(RuntimeError, match="evaluation failed"):
        list(sensitivity(model, ["0.weight"], LEVELS, "filter", Spy(fails_at=2)))
    assert all(torch.equal(value, before[name]) for name, value in bits(model).items())


def test_points_that_drop_the_same_units_are_measured_once() -> None:
    model, spy = small(), Spy()
    rows = list(sensitivity(model, ["3.weight", "0.weight"], [0.0, 0.05, 0.1, 0.2, 0.25, 0.3], "filter", spy))
    assert len(rows) == 12
    assert [changed for _, changed in spy.calls] == [(), ("3.weight",), ("0.weight",), ("0.weight",)]


def test_a_known_row_is_not_measured_again() -> None:
    whole = list(sensitivity(small(), ["0.weight", "3.weight"], LEVELS, "filter", Spy()))
    for known in range(len(whole) + 1):
        spy = Spy()
        rest = list(sensitivity(small(), ["0.weight", "3.weight"], LEVELS, "filter", spy, whole[:known]))
        assert whole[:known] + rest == whole
        assert len(spy.calls) == 7 - len({(row.parameter if row.sparsity else "", row.sparsity) for row in whole[:known]})


def test_biases_and_norms_fall_silent_with_a_filter() -> None:
    model, spy = small().eval(), Spy()
    structure = Structure.of(model, (torch.zeros(1, 3, 6, 6),))
    list(sensitivity(model, ["0.weight"], [0.5], "filter", spy, (), structure.follow))
    zeros, changed = spy.calls[0]
    assert {name: number for name, number in zeros.items() if number} == {"0.weight": 4 * 27, "0.bias": 4, "1.weight": 4, "1.bias": 4}
    assert set(changed) == {"0.weight", "0.bias", "1.weight", "1.bias"}


def test_what_is_analysed_by_default() -> None:
    assert analysed(small(), (), "element") == ["0.weight", "3.weight", "5.weight"]
    assert analysed(small(), (), "filter") == ["0.weight", "3.weight"]
    assert analysed(small(), ["5.*"], "channel") == ["5.weight"]
    with pytest.raises(TargetError, match="did you mean"):
        analysed(small(), ["3.weigth"], "filter")
    with pytest.raises(TargetError, match="only biases"):
        analysed(small(), ["0.bias"], "element")
    with pytest.raises(TargetError, match="no convolutions"):
        analysed(nn.Linear(2, 2), (), "channel")


def test_rows_carry_the_metrics() -> None:
    assert Row("a", 0.5, 1.0, 2.0, 3.0, 0.5).metrics == Metrics(1.0, 2.0, 3.0)

"""The L1 regularizer against the dense formula: loss, gradient, threshold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from limbeck.errors import TargetError
from limbeck.regularization import Regularize, l1_regularizer
from limbeck.scheduler import Scheduler
from limbeck.schedules import Window


def scheduled(model: nn.Module, reg_regims: dict[str, float], criteria: str | None = None, window: Window | None = None) -> Scheduler:
    return Scheduler(model, [(window or Window(), Regularize(l1_regularizer(reg_regims, criteria)))])  # type: ignore[arg-type]  # a str of the two


def penalty(model: nn.Linear, weight: float, bias: float) -> Tensor:
    return weight * model.weight.abs().sum() + bias * model.bias.abs().sum()


@pytest.mark.parametrize(
    ("reg_regims", "weight", "bias"),
    [({"weight": 0.3}, 0.3, 0.0), ({"*": 0.2}, 0.2, 0.2), ({"*": 0.2, "bias": 0.5}, 0.2, 0.5), ({"*": 0.2, "weight": 0.0}, 0.0, 0.2)],
)
def test_loss_and_gradient(reg_regims: dict[str, float], weight: float, bias: float) -> None:
    model, twin = nn.Linear(5, 4, dtype=torch.float64), nn.Linear(5, 4, dtype=torch.float64)
    with torch.no_grad():
        model.weight[0, 0] = 0.0
    twin.load_state_dict(model.state_dict())
    x = torch.randn(3, 5, dtype=torch.float64)
    scheduler = scheduled(model, reg_regims)
    loss = scheduler.before_backward_pass(0, 0, 1, model(x).square().mean())
    expected = twin(x).square().mean() + penalty(twin, weight, bias)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-14)
    loss.backward()
    expected.backward()
    assert torch.allclose(model.weight.grad, twin.weight.grad, rtol=1e-14, atol=0)
    assert torch.allclose(model.bias.grad, twin.bias.grad, rtol=1e-14, atol=0)


def test_the_loss_is_returned_and_not_changed_in_place() -> None:
    model, loss = nn.Linear(5, 4), torch.tensor(2.0)
    returned = scheduled(model, {"weight": 0.1}).loss(loss)
    assert float(loss) == 2.0
    assert float(returned.detach()) == pytest.approx(2 + 0.1 * float(model.weight.detach().abs().sum()))


def test_the_component_has_the_ancestor_s_name() -> None:
    model = nn.Linear(5, 4)
    scheduler = scheduled(model, {"weight": 0.1})
    scheduler.loss(torch.tensor(2.0))
    assert list(scheduler.loss_components) == ["L1Regularizer_loss"]
    assert torch.allclose(scheduler.loss_components["L1Regularizer_loss"], 0.1 * model.weight.abs().sum())


def test_no_strength_is_no_penalty() -> None:
    loss = torch.tensor(2.0)
    scheduler = scheduled(nn.Linear(5, 4), {"*": 0.0})
    assert scheduler.loss(loss) is loss
    assert not scheduler.loss_components


def test_only_in_the_epochs_of_its_window() -> None:
    scheduler = scheduled(nn.Linear(5, 4), {"*": 0.1}, "Max", Window(1, 3))
    with torch.no_grad():
        losses = [float(scheduler.before_backward_pass(epoch, 0, 1, torch.tensor(0.0))) > 0 for epoch in range(4)]
    assert losses == [False, True, True, False]


@pytest.mark.parametrize("criteria", ["Mean_Abs", "Max"])
def test_the_threshold_is_the_strength_and_strict(criteria: str) -> None:
    model = nn.Linear(6, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.25, -0.25, 0.2500001, -0.3, 0.1, -0.0]], dtype=torch.float64))
    scheduled(model, {"weight": 0.25}, criteria).on_minibatch_end(0, 0, 1)
    assert model.weight.tolist() == [[0.0, 0.0, 0.2500001, -0.3, 0.0, 0.0]]


def test_cut_weights_may_come_back_and_no_mask_stays() -> None:
    model = nn.Linear(6, 2, bias=False)
    scheduler = scheduled(model, {"weight": 10.0}, "Max", Window(0, 1))
    scheduler.on_minibatch_end(0, 0, 1)
    assert model.weight.count_nonzero() == 0
    assert len(scheduler.masks) == 0
    with torch.no_grad():
        model.weight.fill_(0.5)
    scheduler.on_minibatch_end(1, 0, 1)  # the window is over
    assert model.weight.count_nonzero() == 12


def test_without_criteria_nothing_is_cut() -> None:
    model = nn.Linear(6, 2)
    before = model.weight.detach().clone()
    scheduled(model, {"*": 10.0}).on_minibatch_end(0, 0, 1)
    assert torch.equal(model.weight, before)


def test_other_tensors_are_left_alone() -> None:
    model = nn.Linear(6, 2)
    before = model.bias.detach().clone()
    scheduler = scheduled(model, {"weight": 10.0}, "Max")
    scheduler.loss(torch.tensor(0.0)).backward()
    scheduler.on_minibatch_end(0, 0, 1)
    assert torch.equal(model.bias, before)
    assert model.bias.grad is None


def test_tied_weights_are_penalized_once() -> None:
    model = nn.ModuleDict({"encoder": nn.Embedding(5, 3), "decoder": nn.Linear(3, 5, bias=False)})
    model["decoder"].weight = model["encoder"].weight
    for target in ("*", "decoder.weight", "encoder.weight"):
        with torch.no_grad():
            loss = scheduled(model, {target: 0.5}).loss(torch.tensor(0.0))
            assert torch.allclose(loss, 0.5 * model["encoder"].weight.abs().sum())


def test_an_unknown_name_shows_before_training() -> None:
    with pytest.raises(TargetError, match=r"no parameter is named 'wieght'; did you mean 'weight'\?"):
        scheduled(nn.Linear(5, 4), {"wieght": 0.1})

"""The ancestor's scheduler: its call shapes, its policies, its state."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau

from limbeck import Action, CheckpointError, ScheduleError, ScheduleWarning, Window
from limbeck.compat import distiller
from limbeck.compat.distiller import CompressionScheduler, LossComponent, PolicyLoss, ScheduledTrainingPolicy


def model_and_optimizer(momentum: float = 0.9) -> tuple[nn.Sequential, torch.optim.SGD]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)


def half(name: str = "0.weight") -> Any:
    return distiller.PruningPolicy(distiller.SparsityLevelParameterPruner("half", {name: 0.5}), None)


def l1(model: nn.Module, strength: float = 0.1) -> Any:
    return distiller.RegularizationPolicy(distiller.L1Regularizer("l1", model, {"0.weight": strength}))


def objective(model: nn.Module, batch: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return model(torch.randn(5, 8, generator=generator)).square().mean()


def train(
    scheduler: CompressionScheduler, optimizer: torch.optim.Optimizer, epochs: range, batches: int = 3, told: bool = True, use: bool = True
) -> None:
    """The ancestor's loop; ``told`` whether the callbacks get the optimizer, ``use`` whether what is returned is used."""
    given = {"optimizer": optimizer} if told else {}
    for epoch in epochs:
        scheduler.on_epoch_begin(epoch, **given)
        for batch in range(batches):
            scheduler.on_minibatch_begin(epoch, batch, batches, **given)
            loss = objective(scheduler.model, epoch * batches + batch)
            returned = scheduler.before_backward_pass(epoch, batch, batches, loss, **given)
            optimizer.zero_grad()
            (returned if use else loss).backward()
            scheduler.before_parameter_optimization(epoch, batch, batches, optimizer)
            optimizer.step()
            scheduler.on_minibatch_end(epoch, batch, batches, **given)
        scheduler.on_epoch_end(epoch, **given, metrics={"min": 1.0, "max": 50.0})


# --- policies and windows --------------------------------------------------------------------------------------------------------


def test_a_policy_prunes_in_its_window_and_the_mask_outlives_it() -> None:
    model, optimizer = model_and_optimizer()
    scheduler = CompressionScheduler(model, device=torch.device("cpu"))
    scheduler.add_policy(half("module.0.weight"), starting_epoch=1, ending_epoch=3, frequency=2)
    train(scheduler, optimizer, range(1))
    assert distiller.sparsity(model[0].weight) == 0
    for epoch in (1, 2, 3):
        train(scheduler, optimizer, range(epoch, epoch + 1))
        assert distiller.sparsity(model[0].weight) == 0.5
    assert distiller.sparsity(model[2].weight) == 0


def test_policies_fire_in_listed_epochs_and_may_be_added_again() -> None:
    seen: list[tuple[int, int, int]] = []

    class Notes(ScheduledTrainingPolicy):
        def on_epoch_begin(self, model: nn.Module, zeros_mask_dict: Any, meta: dict[str, Any], **kwargs: Any) -> None:
            seen.append((meta["current_epoch"], meta["starting_epoch"], meta["ending_epoch"]))

    model, optimizer = model_and_optimizer()
    scheduler = CompressionScheduler(model)
    policy = Notes()
    scheduler.add_policy(policy, epochs=[0, 3])
    scheduler.add_policy(policy, starting_epoch=1, ending_epoch=5, frequency=3)
    train(scheduler, optimizer, range(5), batches=1)
    assert seen == [(0, 0, 4), (1, 1, 5), (3, 0, 4), (4, 1, 5)]


def test_the_same_policy_in_two_windows_has_two_lives() -> None:
    model, optimizer = model_and_optimizer()
    scheduler = CompressionScheduler(model)
    policy = half()
    for epochs in ([0], [2]):
        scheduler.add_policy(policy, epochs=epochs)
    first, second = (action for _, action in scheduler.scheduler.schedule)
    assert first is not second
    train(scheduler, optimizer, range(3))
    assert distiller.sparsity(model[0].weight) == 0.5


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ({}, "no window"),
        ({"starting_epoch": 1}, "no window"),
        ({"epochs": [1], "starting_epoch": 1, "ending_epoch": 2}, "at once"),
        ({"epochs": []}, "empty list"),
        ({"starting_epoch": 3, "ending_epoch": 3}, "never fires"),
        ({"starting_epoch": 0, "ending_epoch": 3, "frequency": 0}, "never fires"),
    ],
)
def test_a_window_that_says_nothing_is_refused(window: dict[str, Any], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        CompressionScheduler(model_and_optimizer()[0]).add_policy(half(), **window)


def test_what_is_no_policy_is_refused() -> None:
    scheduler = CompressionScheduler(model_and_optimizer()[0])
    with pytest.raises(ScheduleError, match="is no policy"):
        scheduler.add_policy("half", epochs=[0])  # type: ignore[arg-type]
    with pytest.raises(ScheduleError, match="is no pruner"):
        distiller.PruningPolicy("half")  # type: ignore[arg-type]
    with pytest.raises(ScheduleError, match="is no regularizer"):
        distiller.RegularizationPolicy(3)  # type: ignore[arg-type]
    pruner = distiller.SparsityLevelParameterPruner("half", {"0.weight": 0.5})
    with pytest.raises(ScheduleError, match="did you mean 'keep_mask'"):
        distiller.PruningPolicy(pruner, {"keep_masks": True})
    with pytest.raises(ScheduleError, match="does nothing with 'classes'"):
        distiller.PruningPolicy(pruner, None, classes=[nn.Linear])


def test_arguments_of_a_policy_reach_the_action() -> None:
    model, optimizer = model_and_optimizer()
    scheduler = CompressionScheduler(model)
    pruner = distiller.SparsityLevelParameterPruner("half", {"0.weight": 0.5})
    scheduler.add_policy(distiller.PruningPolicy(pruner, {"levels": {"0.weight": 0.25}}), epochs=[0])
    train(scheduler, optimizer, range(1))
    assert distiller.sparsity(model[0].weight) == 0.25


def test_an_action_of_limbecks_is_a_policy_too() -> None:
    class Notes(Action):
        epochs: list[int]

        def on_epoch_begin(self, state: Any, moment: Any) -> None:
            self.epochs.append(moment.now)

    model, optimizer = model_and_optimizer()
    scheduler, notes = CompressionScheduler(model), Notes()
    notes.epochs = []
    scheduler.add_policy(notes, starting_epoch=0, ending_epoch=9, frequency=2)
    train(scheduler, optimizer, range(3), batches=1)
    assert notes.epochs == [0, 2]
    assert scheduler.scheduler.schedule[0][0] == Window(0, 9, 2)


def test_a_learning_rate_counts_the_epochs_of_its_window() -> None:
    model, optimizer = model_and_optimizer()
    scheduler = CompressionScheduler(model)
    scheduler.add_policy(distiller.LRPolicy(ExponentialLR(optimizer, gamma=0.5)), starting_epoch=2, ending_epoch=4)
    rates = []
    for epoch in range(5):
        train(scheduler, optimizer, range(epoch, epoch + 1), told=False)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.1, 0.1, 0.05, 0.025, 0.025]


def test_a_plateau_watches_the_metric_of_its_mode() -> None:
    model, optimizer = model_and_optimizer()
    scheduler = CompressionScheduler(model)
    plateau = ReduceLROnPlateau(optimizer, mode="max", patience=0, factor=0.5)
    scheduler.add_policy(distiller.LRPolicy(plateau), starting_epoch=0, ending_epoch=9)
    train(scheduler, optimizer, range(2))
    assert plateau.best == 50
    assert optimizer.param_groups[0]["lr"] == 0.05


# --- the loss --------------------------------------------------------------------------------------------------------------------


def penalized(kind: type[CompressionScheduler] = CompressionScheduler) -> tuple[CompressionScheduler, torch.optim.SGD]:
    model, optimizer = model_and_optimizer()
    scheduler = kind(model)
    scheduler.add_policy(l1(model), starting_epoch=0, ending_epoch=9)
    return scheduler, optimizer


@pytest.mark.parametrize("told", [True, False])
def test_loops_that_use_the_returned_loss_and_loops_that_drop_it_train_alike(told: bool) -> None:
    results = []
    for use in (True, False):
        scheduler, optimizer = penalized()
        train(scheduler, optimizer, range(2), told=told, use=use)
        results.append(scheduler.model.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_the_penalty_is_in_the_gradient_and_in_the_value() -> None:
    scheduler, _ = penalized()
    weight = scheduler.model[0].weight
    scheduler.on_epoch_begin(0)
    scheduler.on_minibatch_begin(0, 0, 1)
    loss = objective(scheduler.model)
    plain = loss.item()
    (expected,) = torch.autograd.grad(objective(scheduler.model) + 0.1 * weight.abs().sum(), weight)
    assert scheduler.before_backward_pass(0, 0, 1, loss=loss) is loss
    assert loss.item() == pytest.approx(plain + 0.1 * weight.abs().sum().item())
    loss.backward()
    torch.testing.assert_close(weight.grad, expected)


def test_components_leave_the_loss_alone_and_add_up() -> None:
    scheduler, _ = penalized()
    scheduler.on_epoch_begin(0)
    scheduler.on_minibatch_begin(0, 0, 1)
    loss = objective(scheduler.model)
    plain = loss.item()
    total = scheduler.before_backward_pass(0, 0, 1, loss, return_loss_components=True)
    assert isinstance(total, PolicyLoss)
    assert loss.item() == plain
    assert [component.name for component in total.loss_components] == ["L1Regularizer_loss"]
    assert total.overall_loss.item() == pytest.approx(plain + total.loss_components[0].value.item())


def test_without_a_policy_at_work_the_loss_is_what_it_was() -> None:
    scheduler = CompressionScheduler(model_and_optimizer()[0])
    scheduler.on_epoch_begin(0)
    loss = objective(scheduler.model)
    assert scheduler.before_backward_pass(0, 0, 1, loss) is loss
    assert scheduler.before_backward_pass(0, 0, 1, loss, return_loss_components=True) == PolicyLoss(loss, [])


class KeepsItsResult(torch.autograd.Function):
    """``exp`` in Python."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The exponential."""
        result = x.exp()
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The gradient, from the result."""
        return gradients[0] * ctx.saved_tensors[0]


@pytest.mark.parametrize(
    "make", [torch.exp, torch.sqrt, torch.sigmoid, KeepsItsResult.apply, lambda _: torch.tensor(1.0, requires_grad=True)]
)
def test_a_loss_that_cannot_change_in_place_is_returned_anew_with_a_warning(make: Any) -> None:
    scheduler, _ = penalized()
    scheduler.on_epoch_begin(0)
    scheduler.on_minibatch_begin(0, 0, 1)
    loss = make(objective(scheduler.model))
    plain = loss.item()
    with pytest.warns(ScheduleWarning, match="use that") as caught:
        total = scheduler.before_backward_pass(0, 0, 1, loss)
    assert caught[0].filename == __file__
    assert isinstance(total, Tensor)
    assert loss.item() == plain
    total.backward()
    assert scheduler.model[0].weight.grad is not None


@pytest.mark.parametrize(
    "make",
    [
        torch.log,
        torch.tanh,
        torch.relu,
        torch.abs,
        torch.mean,
        torch.square,
        torch.reciprocal,
        torch.prod,
        torch.max,
        torch.norm,
        torch.expm1,
        torch.rsqrt,
        torch.erf,
        torch.log1p,
        torch.squeeze,
        KeepsItsResult.apply,
        lambda x: x.logsumexp(0),
        lambda x: x**1.5,
        lambda x: x.clone()[None][0],
    ],
)
def test_whatever_made_the_loss_its_gradient_is_right(make: Any) -> None:
    """A warning or a change in place: the tensor that is returned has the right gradient, which autograd itself checks."""
    scheduler, _ = penalized()
    weight = scheduler.model[0].weight
    (expected,) = torch.autograd.grad(make(objective(scheduler.model)) + 0.1 * weight.abs().sum(), weight)
    scheduler.on_epoch_begin(0)
    scheduler.on_minibatch_begin(0, 0, 1)
    loss = make(objective(scheduler.model))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)
        total = scheduler.before_backward_pass(0, 0, 1, loss)
    assert isinstance(total, Tensor)
    total.backward()
    torch.testing.assert_close(weight.grad, expected)


# --- policies of one's own -------------------------------------------------------------------------------------------------------


class Everything(ScheduledTrainingPolicy):
    """Notes every call as the ancestor made it, and masks the first weight of its tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def on_epoch_begin(self, model: nn.Module, zeros_mask_dict: Any, meta: Any, **kwargs: Any) -> None:
        self.calls.append(("on_epoch_begin", meta["frequency"], kwargs))
        mask = torch.ones_like(model[0].weight)
        mask[0, 0] = 0
        zeros_mask_dict["module.0.weight"].mask = mask

    def on_minibatch_begin(self, *arguments: Any) -> None:
        model, epoch, minibatch, total, zeros_mask_dict, meta, optimizer = arguments
        self.calls.append(("on_minibatch_begin", epoch, minibatch, total, optimizer is meta["optimizer"]))
        assert model[0].weight[0, 0] == 0
        assert not zeros_mask_dict["0.weight"].mask[0, 0]

    def before_backward_pass(self, *arguments: Any) -> PolicyLoss:
        _, epoch, minibatch, total, loss, _, _ = arguments
        self.calls.append(("before_backward_pass", epoch, minibatch, total))
        return PolicyLoss(0.5 * loss, [LossComponent("half", loss)])

    def before_parameter_optimization(self, *arguments: Any) -> None:
        self.calls.append(("before_parameter_optimization", len(arguments)))

    def on_minibatch_end(self, *arguments: Any) -> None:
        self.calls.append(("on_minibatch_end", len(arguments)))

    def on_epoch_end(self, model: nn.Module, zeros_mask_dict: Any, meta: Any, **kwargs: Any) -> None:
        self.calls.append(("on_epoch_end", kwargs))


def test_a_policy_of_ones_own_gets_what_the_ancestor_gave() -> None:
    model, optimizer = model_and_optimizer()
    scheduler, policy = CompressionScheduler(model), Everything()
    scheduler.add_policy(policy, starting_epoch=0, ending_epoch=3, frequency=2)
    train(scheduler, optimizer, range(2), batches=1)
    assert policy.calls == [
        ("on_epoch_begin", 2, {}),
        ("on_minibatch_begin", 0, 0, 1, True),
        ("before_backward_pass", 0, 0, 1),
        ("before_parameter_optimization", 7),
        ("on_minibatch_end", 6),
        ("on_epoch_end", {"metrics": {"min": 1.0, "max": 50.0}}),
    ]
    assert model[0].weight[0, 0] == 0
    assert int((model[0].weight == 0).sum()) == 1


def test_a_policy_of_ones_own_replaces_the_loss_and_reports_its_terms() -> None:
    model, _ = model_and_optimizer()
    scheduler = CompressionScheduler(model)
    for _ in range(2):
        scheduler.add_policy(Everything(), starting_epoch=0, ending_epoch=1)
    scheduler.on_epoch_begin(0)
    scheduler.on_minibatch_begin(0, 0, 1)
    loss = objective(model)
    total = scheduler.before_backward_pass(0, 0, 1, loss, return_loss_components=True)
    assert isinstance(total, PolicyLoss)
    assert total.overall_loss.item() == pytest.approx(0.25 * loss.item())
    assert [(name, value.item()) for name, value in total.loss_components] == [
        ("half", pytest.approx(loss.item())),
        ("half", pytest.approx(0.5 * loss.item())),
    ]


@pytest.mark.parametrize("given", [torch.tensor(1.0), PolicyLoss(torch.tensor(1.0), [torch.tensor(1.0)])])  # type: ignore[list-item]
def test_a_policy_that_returns_something_else_is_told(given: Any) -> None:
    class Wrong(ScheduledTrainingPolicy):
        def before_backward_pass(self, *arguments: Any) -> Any:
            return given

    scheduler = CompressionScheduler(model_and_optimizer()[0])
    scheduler.add_policy(Wrong(), epochs=[0])
    scheduler.on_epoch_begin(0)
    with pytest.raises(TypeError, match="PolicyLoss"):
        scheduler.before_backward_pass(0, 0, 1, objective(scheduler.model))


# --- masks and state -------------------------------------------------------------------------------------------------------------


def test_masks_are_read_set_and_taken_away() -> None:
    layer = nn.Linear(2, 2)
    scheduler = CompressionScheduler(layer)
    maskers = scheduler.zeros_mask_dict
    assert list(maskers) == ["weight", "bias"]
    assert len(maskers) == 2
    assert maskers["weight"].param_name == "weight"
    maskers["weight"].mask = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    scheduler.mask_all_weights()
    assert distiller.sparsity(layer.weight) == 0.5
    assert maskers["weight"].apply_mask(torch.ones(2, 2)).tolist() == [[1, 0], [0, 1]]
    maskers["weight"].mask = None
    assert maskers["module.weight"].mask is None
    with pytest.raises(KeyError, match="did you mean 'weight'"):
        _ = maskers["weights"]


def saved(scheduler: CompressionScheduler, optimizer: torch.optim.Optimizer) -> Any:
    """Through a file, as a program would, and without pickled objects."""
    file = io.BytesIO()
    torch.save({"model": scheduler.model.state_dict(), "scheduler": scheduler.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


SCHEDULE = {
    "pruners": {"sensitive": {"class": "SensitivityPruner", "sensitivities": {"module.0.weight": 0.7}}},
    "lr_schedulers": {"decay": {"class": "StepLR", "step_size": 3, "gamma": 0.5}},
    "policies": [
        {"pruner": {"instance_name": "sensitive"}, "starting_epoch": 0, "ending_epoch": 9, "frequency": 1},
        {"lr_scheduler": {"instance_name": "decay"}, "starting_epoch": 0, "ending_epoch": 9, "frequency": 1},
    ],
}


@pytest.mark.parametrize("policies_first", [True, False])
def test_a_resumed_run_is_the_run(policies_first: bool) -> None:
    model, optimizer = model_and_optimizer()
    scheduler = distiller.dict_config(model, optimizer, SCHEDULE)
    train(scheduler, optimizer, range(2))
    state = saved(scheduler, optimizer)
    train(scheduler, optimizer, range(2, 5))

    resumed, its_optimizer = model_and_optimizer()
    resumed.load_state_dict(state["model"])
    again = CompressionScheduler(resumed)
    if policies_first:
        distiller.dict_config(resumed, its_optimizer, SCHEDULE, again)
        again.load_state_dict(state["scheduler"])
    else:
        again.load_state_dict(state["scheduler"])
        distiller.dict_config(resumed, its_optimizer, SCHEDULE, again, resumed_epoch=1)
    its_optimizer.load_state_dict(state["optimizer"])
    train(again, its_optimizer, range(2, 5))
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in model.state_dict().items())
    assert its_optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == 0.05


def test_a_checkpoint_of_the_ancestor_gives_its_masks_and_says_so() -> None:
    model, optimizer = model_and_optimizer()
    scheduler = CompressionScheduler(model)
    mask = torch.ones(6, 8)
    mask[0] = 0
    with pytest.warns(ScheduleWarning, match="masks only"):
        scheduler.load_state_dict({"masks_dict": {"module.0.weight": mask, "module.0.bias": None}}, normalize_dataparallel_keys=True)
    train(scheduler, optimizer, range(1))
    assert model[0].weight[0].tolist() == [0] * 8
    assert scheduler.state_dict()["masks_dict"]["0.weight"].tolist() == mask.bool().tolist()
    assert scheduler.state_dict()["masks_dict"]["0.bias"] is None


def test_a_checkpoint_of_another_schedule_gives_its_masks_and_says_so() -> None:
    model, optimizer = model_and_optimizer()
    scheduler = CompressionScheduler(model)
    scheduler.add_policy(half(), epochs=[0])
    train(scheduler, optimizer, range(1))
    state = scheduler.state_dict()
    other = CompressionScheduler(model)
    other.load_state_dict(state)
    other.add_policy(l1(model, 0.0), epochs=[5])
    with pytest.warns(ScheduleWarning, match="another schedule") as caught:
        other.on_epoch_begin(0)
    assert caught[0].filename == __file__
    assert int(other.scheduler.masks["0.weight"].sum()) == 24


def test_what_is_no_state_is_refused() -> None:
    scheduler = CompressionScheduler(model_and_optimizer()[0])
    with pytest.raises(CheckpointError, match="no 'masks_dict'"):
        scheduler.load_state_dict({"epoch": 3})
    with pytest.raises(CheckpointError, match="which the model lacks"):
        scheduler.init_from_masks_dict({"fc.weight": torch.ones(2)})


def test_masks_of_one_scheduler_go_into_another() -> None:
    model, _ = model_and_optimizer()
    maskers = distiller.create_model_masks_dict(model)
    maskers["0.weight"].mask = torch.zeros(6, 8)
    assert not CompressionScheduler(model, maskers).scheduler.masks["0.weight"].any()

"""The life of masks: what becomes of the weights that fall, and when masks are renewed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import LBFGS, SGD, Adam, Optimizer

from limbeck.errors import CheckpointError, MaskError, ScheduleError
from limbeck.pruning import Prune, Pruner, level_pruner
from limbeck.pruning.criteria import Units
from limbeck.pruning.methods import baidu_rnn_pruner, magnitude_pruner, sensitivity_pruner, splicing_pruner
from limbeck.pruning.structures import l1_ranked_structure_pruner, structure_pruner
from limbeck.ramps import Ramp
from limbeck.scheduler import Scheduler
from limbeck.schedules import Window
from limbeck.tile import FILTERS
from limbeck.watch import Activations, Gradients

SOFT = {"use_double_copies": True, "mask_on_forward_only": True}
FORWARD = {"mask_on_forward_only": True}
STEPS = 4
BATCHES = [torch.randn(5, 6, generator=torch.Generator().manual_seed(step)) for step in range(STEPS)]


class Net(nn.Module):
    """A layer to prune, and one to leave alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.first(x))))


def net() -> Net:
    torch.manual_seed(3)
    return Net()


def sgd(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=0.01)


def half(window: Window, **options: Any) -> list[tuple[Window, Prune]]:
    return [(window, Prune(level_pruner({"first.weight": 0.5}), **options))]


def objective(model: nn.Module, x: Tensor) -> Tensor:
    return functional.mse_loss(model(x), x[:, :3].sin())


def train(
    scheduler: Scheduler, model: nn.Module, optimizer: Optimizer, epochs: int, seen: Callable[[], None] = lambda: None, after: Any = None
) -> None:
    for _ in scheduler.epochs(epochs, after):
        for x in scheduler.steps(BATCHES, after):
            seen()
            optimizer.zero_grad()
            scheduler.loss(objective(model, x)).backward()
            optimizer.step()
            seen()


def zeros(weight: Tensor) -> int:
    return int((weight == 0).sum())


# --- soft masks ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [sgd, lambda model: Adam(model.parameters(), lr=0.05)], ids=["sgd", "adam"])
def test_soft_masks_are_a_step_of_dense_weights_by_gradients_of_masked_ones(kind: Callable[[nn.Module], Optimizer]) -> None:
    """Against a loop that keeps dense and masked weights apart by hand; the mask is renewed from the dense ones in each epoch."""
    model, twin = net(), net()
    optimizer, other = kind(model), kind(twin)
    scheduler = Scheduler(model, half(Window(0, 3), **SOFT), optimizer)
    train(scheduler, model, optimizer, 3, lambda: None)
    for _ in range(3):
        dense = twin.first.weight.detach().clone()
        keep = dense.abs() > dense.abs().flatten().sort().values[23]
        for x in BATCHES:
            dense = twin.first.weight.detach().clone()
            other.zero_grad()
            twin.first.weight.data = dense * keep
            objective(twin, x).backward()  # type: ignore[no-untyped-call]
            twin.first.weight.data = dense
            other.step()
    assert torch.equal(model.first.weight, twin.first.weight * keep)
    assert torch.equal(scheduler.masks.dense("first.weight"), twin.first.weight)
    assert all(torch.equal(one, two) for one, two in zip(model.last.parameters(), twin.last.parameters(), strict=True))


@pytest.mark.parametrize("options", [{}, SOFT, FORWARD, {"use_double_copies": True}], ids=["hard", "soft", "forward", "copies"])
def test_nothing_but_the_step_itself_sees_a_weight_that_is_not_masked(options: dict[str, bool]) -> None:
    model = net()
    optimizer = sgd(model)
    scheduler = Scheduler(model, half(Window(0, 2), **options), optimizer)
    counted: list[int] = []
    train(
        scheduler, model, optimizer, 4, lambda: counted.append(zeros(model.first.weight)), lambda: counted.append(zeros(model.first.weight))
    )
    assert counted == [24] * len(counted)
    assert "first.weight" in model.state_dict()
    assert list(model.state_dict()) == list(net().state_dict())


def test_soft_masks_revive_and_hard_ones_do_not() -> None:
    """A gradient that drives up a weight which has fallen: its dense copy grows until it outranks others."""
    results = []
    for options in ({}, {"use_double_copies": True}):
        layer = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[1.0, 0.5]]))
        optimizer = SGD(layer.parameters(), lr=0.2)
        scheduler = Scheduler(layer, [(Window(), Prune(level_pruner({"weight": 0.5}), **options))], optimizer)
        for _ in scheduler.epochs(5):
            for _ in scheduler.steps([0]):
                optimizer.zero_grad()
                (-layer.weight[0, 1]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        results.append(layer.weight.tolist())
    assert results[0] == [[1.0, 0.0]]
    assert results[1] == [[0.0, pytest.approx(1.5)]]


def test_masks_on_the_forward_pass_only_rank_what_one_step_made() -> None:
    """The ancestor's timing: the weights that fell compete by the change of one step, which is not accumulated."""
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.5]]))
    optimizer = SGD(layer.parameters(), lr=1.0)
    scheduler = Scheduler(layer, [(Window(), Prune(level_pruner({"weight": 0.5}), mask_on_forward_only=True))], optimizer)
    for epoch in scheduler.epochs(2):
        for _ in scheduler.steps([0]):
            optimizer.zero_grad()
            (layer.weight * torch.tensor([[0.0, -2.0]])).sum().backward()
            optimizer.step()
            assert scheduler.masks.dense("weight").tolist() == [[1.0, 2.0]] if epoch == 0 else [[0.0, 4.0]]
        assert layer.weight.tolist() == ([[1.0, 0.0]] if epoch == 0 else [[0.0, 4.0]])


def test_soft_masks_need_to_see_the_step() -> None:
    model = net()
    optimizer = sgd(model)
    scheduler = Scheduler(model, half(Window(0, 2), **SOFT))
    with pytest.raises(ScheduleError, match=r"'first.weight' is for the forward pass alone, and the optimizer's step was not seen"):
        train(scheduler, model, optimizer, 1)


def test_soft_masks_in_a_loop_that_calls_before_parameter_optimization_by_hand() -> None:
    models = net(), net()
    for model, attached in zip(models, (True, False), strict=True):
        optimizer = sgd(model)
        scheduler = Scheduler(model, half(Window(0, 3), **SOFT), optimizer if attached else None)
        for epoch in range(3):
            scheduler.on_epoch_begin(epoch)
            for step, x in enumerate(BATCHES):
                scheduler.on_minibatch_begin(epoch, step, STEPS)
                optimizer.zero_grad()
                objective(model, x).backward()  # type: ignore[no-untyped-call]
                scheduler.before_parameter_optimization(epoch, step, STEPS)
                optimizer.step()
                scheduler.on_minibatch_end(epoch, step, STEPS)
            scheduler.on_epoch_end(epoch)
    assert torch.equal(models[0].first.weight, models[1].first.weight)
    assert zeros(models[0].first.weight) == 24


def test_a_step_that_is_skipped_leaves_soft_masks_as_they_were() -> None:
    """As a gradient scaler does that has met an infinity."""
    model = net()
    optimizer = sgd(model)
    scheduler = Scheduler(model, half(Window(0, 2), **SOFT), optimizer)
    train(scheduler, model, optimizer, 1)
    weight, dense = model.first.weight.detach().clone(), scheduler.masks.dense("first.weight").clone()
    scheduler.on_minibatch_begin(1, 0, STEPS)
    scheduler.before_parameter_optimization(1, 0, STEPS)
    assert zeros(model.first.weight) == 0
    scheduler.on_minibatch_end(1, 0, STEPS)
    assert torch.equal(model.first.weight, weight)
    assert torch.equal(scheduler.masks.dense("first.weight"), dense)


def test_what_others_write_into_a_soft_masked_weight_is_not_undone() -> None:
    model = net()
    optimizer = sgd(model)
    scheduler = Scheduler(model, half(Window(0, 1), **SOFT), optimizer)
    train(scheduler, model, optimizer, 1)
    keep, dense = scheduler.masks["first.weight"], scheduler.masks.dense("first.weight").clone()
    with torch.no_grad():
        model.first.weight.mul_(2)
    assert torch.equal(scheduler.masks.dense("first.weight"), torch.where(keep, 2 * dense, dense))


def test_a_closure_runs_forward_on_masked_weights() -> None:
    model = net()
    optimizer = LBFGS(model.parameters(), max_iter=4, line_search_fn="strong_wolfe")
    scheduler = Scheduler(model, half(Window(0, 2), **SOFT, mask_gradients=True), optimizer)
    losses = []

    def closure() -> Tensor:
        assert zeros(model.first.weight) == 24
        optimizer.zero_grad()
        loss = objective(model, BATCHES[0])
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    for _ in scheduler.epochs(3):
        for _ in scheduler.steps([0]):
            losses.append(float(optimizer.step(closure)))  # type: ignore[arg-type]  # torch types closures as giving floats
            assert zeros(model.first.weight) == 24
    assert losses[-1] < losses[0]


# --- keep, discard, gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [Window(0, 3), Window(0, 5, 3), Window(only=(1, 3)), Window(0, 7, 3, "step")], ids=str)
def test_keep_mask_ends_a_soft_life_with_the_last_firing(window: Window) -> None:
    """In the ancestor never, where the frequency does not meet the last epoch."""
    model = net()
    optimizer = sgd(model)
    scheduler = Scheduler(model, half(window, **SOFT, keep_mask=True), optimizer)
    lives: list[str] = []
    train(scheduler, model, optimizer, 5, after=lambda: lives.append(scheduler.masks.life("first.weight")))
    ends = {Window(0, 3): 3, Window(0, 5, 3): 4, Window(only=(1, 3)): 4}
    first = lives.index("hard", lives.index("soft"))
    if window.unit == "epoch":
        assert first == ends[window] * (STEPS + 1) - 1  # after the last step of the epoch the evaluation still may look
    else:
        assert first == (STEPS + 1) + 3  # step 6 is the third of epoch 1; its dense copy goes when the fourth begins
    assert set(lives[first:]) == {"hard"}
    assert scheduler.state_dict()["aside"] == {}
    assert zeros(model.first.weight) == 24


def test_discarded_masks_last_from_a_firing_to_the_end_of_the_minibatch() -> None:
    model, dense = net(), net()
    optimizer, other = sgd(model), sgd(dense)
    options = {**SOFT, "discard_masks_at_minibatch_end": True, "mini_batch_pruning_frequency": 2}
    scheduler = Scheduler(model, half(Window(0, 1), **options), optimizer)
    masked: list[bool] = []
    held: list[bool] = []
    train(
        scheduler,
        model,
        optimizer,
        2,
        lambda: masked.append(zeros(model.first.weight) == 24),
        lambda: held.append(len(scheduler.masks) > 0),
    )
    assert masked[::2] == [True, False, True, False] + [False] * STEPS
    assert masked[::2] == masked[1::2]
    assert not any(held)
    for _ in range(2):
        for x in BATCHES:
            other.zero_grad()
            objective(dense, x).backward()  # type: ignore[no-untyped-call]
            other.step()
    assert not torch.equal(model.first.weight, dense.first.weight)
    assert zeros(model.first.weight) == 0


def test_discarded_masks_of_a_firing_that_was_put_off_last_to_the_end_of_its_minibatch() -> None:
    model = net()
    optimizer = sgd(model)
    scheduler = Scheduler(
        model, half(Window(0, 8, 3, "step"), **SOFT, discard_masks_at_minibatch_end=True, skip_first_minibatch=True), optimizer
    )
    masked: list[bool] = []
    held: list[bool] = []
    train(scheduler, model, optimizer, 2, lambda: masked.append(len(scheduler.masks) > 0), lambda: held.append(len(scheduler.masks) > 0))
    assert masked[::2] == [step in {1, 3, 6} for step in range(8)]
    assert not any(held)


def test_discarding_touches_no_mask_of_another_policy() -> None:
    """In the ancestor it drops them all."""
    model = net()
    optimizer = sgd(model)
    schedule = [
        (Window(0, 1), Prune(level_pruner({"last.weight": 0.5}))),
        *half(Window(0, 2), **SOFT, discard_masks_at_minibatch_end=True, mini_batch_pruning_frequency=1),
    ]
    scheduler = Scheduler(model, schedule, optimizer)
    train(scheduler, model, optimizer, 2)
    assert list(scheduler.masks) == ["last.weight"]
    assert zeros(model.last.weight) == 12


def test_a_life_belongs_to_the_policy_that_made_the_mask_last() -> None:
    """In the ancestor the flags of the later policy hold for the parameters of all."""
    model = net()
    optimizer = sgd(model)
    schedule = [
        *half(Window(0, 2), **SOFT, keep_mask=True),
        (Window(0, 4), Prune(level_pruner({"last.weight": 0.5}))),
        (Window(1, 3), Prune(level_pruner({"first.weight": 0.75}), use_double_copies=True)),
    ]
    scheduler = Scheduler(model, schedule, optimizer)
    lives: list[tuple[str, str]] = []
    train(
        scheduler,
        model,
        optimizer,
        4,
        after=lambda: lives.append((scheduler.masks.life("first.weight"), scheduler.masks.life("last.weight"))),
    )
    assert set(lives) == {("soft", "hard")}  # the first policy's keep_mask finds a mask that is no longer its own
    assert zeros(model.first.weight) == 36


def test_masked_gradients_are_zero_from_the_window_s_begin_to_its_end() -> None:
    model = net()
    optimizer = SGD(model.parameters(), lr=0.1)
    scheduler = Scheduler(model, half(Window(1, 3, 2), mask_gradients=True), optimizer)
    zeroed: list[int] = []
    optimizer.register_step_pre_hook(lambda *_: zeroed.append(zeros(model.first.weight.grad)))  # type: ignore[arg-type]  # there is one
    train(scheduler, model, optimizer, 4)
    assert zeroed == [0] * STEPS + [24] * STEPS * 2 + [0] * STEPS


def test_masked_gradients_of_a_sparse_embedding() -> None:
    table = nn.Embedding(6, 4, sparse=True)
    optimizer = SGD(table.parameters(), lr=0.1)
    scheduler = Scheduler(table, [(Window(0, 1), Prune(level_pruner({"weight": 0.5}), mask_gradients=True))], optimizer)
    scheduler.on_epoch_begin(0)
    scheduler.on_minibatch_begin(0, 0)
    table(torch.tensor([1, 3, 1])).sum().backward()
    scheduler.before_parameter_optimization(0, 0)
    grad, keep = table.weight.grad, scheduler.masks["weight"]
    assert grad is not None
    assert grad.is_sparse
    expected = torch.zeros(6, 4)
    expected[[1, 3]] = torch.tensor([2.0, 1.0])[:, None].expand(2, 4)
    assert torch.equal(grad.to_dense(), expected * keep)


def test_masked_gradients_need_the_optimizer() -> None:
    model = net()
    with pytest.raises(ScheduleError, match="mask_gradients needs the optimizer"):
        train(Scheduler(model, half(Window(0, 2), mask_gradients=True)), model, sgd(model), 1)


@pytest.mark.parametrize(
    ("options", "window", "message"),
    [
        ({"keep_mask": True, "discard_masks_at_minibatch_end": True}, Window(), "exclude each other"),
        ({"mini_batch_pruning_frequency": 3}, Window(unit="step"), "a window by step has a frequency of its own"),
        ({"after_step": True}, Window(), "after_step follows single steps"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], window: Window, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        Scheduler(net(), half(window, **options))


# --- when masks are renewed ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Log:
    """A criterion that notes when it is asked, and at which amount."""

    times: list[tuple[int, int, float]] = field(default_factory=list)
    clock: list[Scheduler] = field(default_factory=list)

    def __call__(self, units: Units) -> Tensor:
        clock = self.clock[0].clock
        self.times.append((clock.epoch, clock.minibatch, round(units.amount, 6)))
        return units.weight.abs().mean(1)


def renewals(window: Window, epochs: int = 3, driven: bool = False, batches: Any = BATCHES, **options: Any) -> list[tuple[int, int, float]]:
    model, log = net(), Log()
    optimizer = sgd(model)
    scheduler = Scheduler(model, [(window, Prune(Pruner({"first.weight": Ramp(0, 0.5, 1)}, score=log), **options))], optimizer)
    log.clock.append(scheduler)
    for _ in scheduler.epochs(epochs):
        for x in scheduler.steps(batches):
            optimizer.zero_grad()
            objective(model, x).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return log.times


def test_masks_renewed_every_so_many_minibatches_of_an_epoch_that_fires() -> None:
    assert renewals(Window(0, 3, 2)) == [(0, 0, 0.0), (2, 0, 0.5)]
    assert renewals(Window(0, 3, 2), mini_batch_pruning_frequency=3) == [(0, 0, 0.0), (0, 3, 0.0), (2, 0, 0.5), (2, 1, 0.5)]
    assert renewals(Window(0, 3, 2), mini_batch_pruning_frequency=1)[:5] == [(0, minibatch, 0.0) for minibatch in range(4)] + [(2, 0, 0.5)]


def test_the_first_minibatch_is_skipped_once() -> None:
    assert renewals(Window(1, 3), skip_first_minibatch=True) == [(1, 1, 0.0), (2, 0, 0.5)]
    assert renewals(Window(5, 9, 2, "step"), skip_first_minibatch=True) == [(1, 2, 0.0), (1, 3, 0.5)]


@pytest.mark.parametrize(
    "pruner",
    [
        structure_pruner({"first.weight": (0.1, "Rows")}),
        l1_ranked_structure_pruner("Rows", 0.5, ["last.weight", "first.weight"], group_dependency="Leader"),
    ],
)
def test_levels_are_refused_where_targets_say_more_than_an_amount(pruner: Pruner) -> None:
    with pytest.raises(ScheduleError, match="leave levels out"):
        Prune(pruner, levels={"first.weight": 0.5})


@pytest.mark.parametrize(
    "pruner",
    [
        magnitude_pruner({"first.weight": 0.1}),
        sensitivity_pruner({"first.weight": 0.1}),
        splicing_pruner({"first.weight": 0.1}, 0.9, 1.1),
        baidu_rnn_pruner(0.1, 0, 2, ["first.weight"]),
    ],
)
def test_levels_are_refused_where_an_amount_is_a_threshold(pruner: Pruner) -> None:
    with pytest.raises(ScheduleError, match="goes by thresholds, which they would not be: leave levels out"):
        Prune(pruner, levels={"first.weight": 0.5})


@pytest.mark.parametrize("given", ["AutomatedGradualPruner", {"first.weight": 0.5}, level_pruner])
def test_what_is_no_pruner_is_told_what_is(given: Any) -> None:
    with pytest.raises(ScheduleError, match=r"^Prune takes a Pruner, not .*; one is made as in Pruner\("):
        Prune(given)


def test_a_mask_on_the_forward_pass_only_changes_nothing_beside_a_dense_copy() -> None:
    ends = []
    for options in (SOFT, {"use_double_copies": True}):
        torch.manual_seed(0)
        model = net()
        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = Scheduler(model, half(Window(0, 2), **options), optimizer)
        train(scheduler, model, optimizer, 2)
        ends.append((model.state_dict(), scheduler.state_dict()["aside"]))
    assert equal(*ends)


def test_levels_take_the_place_of_the_pruner_s() -> None:
    model = net()
    scheduler = Scheduler(model, [(Window(), Prune(level_pruner({"first.weight": 0.5}), levels={"last.weight": 0.25}))])
    scheduler.on_epoch_begin(0)
    assert list(scheduler.masks) == ["last.weight"]
    assert zeros(model.last.weight) == 6


def test_after_step_counts_the_step_and_lets_fallen_weights_compete_with_its_change() -> None:
    """NeurST: dense update, then a mask made of what it left, at steps counted from 1."""
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    optimizer = SGD(layer.parameters(), lr=1.0)
    scheduler = Scheduler(layer, [(Window(2, 5, 2, "step"), Prune(level_pruner({"weight": 0.5}), after_step=True))])
    scheduler.drive(optimizer)
    seen = []
    for grad in ([0.0, 0, 0, 0], [0.0, 0, 0, 0], [-5.0, 0, 0, 0], [-9.0, 0, 0, 0], [0.0, -9, 0, 0]):
        layer.weight.grad = torch.tensor([grad])
        optimizer.step()
        seen.append(layer.weight.flatten().tolist())
    assert seen == [[1, 2, 3, 4], [0, 0, 3, 4], [0, 0, 3, 4], [9, 0, 0, 4], [9, 0, 0, 4]]


# --- what must have been seen --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """Scores by what a need has measured."""

    needs: Any

    def __call__(self, units: Units) -> Tensor:
        assert units.stats is not None
        return units.stats[self.needs.key].mean(1)


def gradients() -> Gradients:
    return Gradients("sizes", lambda total, weight, grad: total.add_(grad.abs().sum(1)))


def outputs() -> Activations:
    return Activations("means", lambda owner, attribute, x: x.abs().mean(0)[:, None])


@pytest.mark.parametrize("need", [gradients(), outputs()], ids=["gradients", "activations"])
def test_a_firing_whose_needs_are_unseen_is_put_off(need: Any) -> None:
    model = net()
    optimizer = sgd(model)
    pruner = Pruner({"first.weight": 0.5}, score=Seen(need), unit=FILTERS)
    scheduler = Scheduler(model, [(Window(0, 1), Prune(pruner))], optimizer)
    counted: list[int] = []
    train(scheduler, model, optimizer, 2, lambda: counted.append(zeros(model.first.weight)))
    assert counted == [0, 0] + [24] * (2 * STEPS * 2 - 2)
    assert not any(part._forward_hooks for part in model.modules())


def test_what_is_seen_before_the_window_is_used() -> None:
    """From one period before the begin: a firing at epoch 1 ranks by all of epoch 0."""
    model = net()
    optimizer = SGD(model.parameters(), lr=0.0)
    pruner = Pruner({"first.weight": 0.5}, score=Seen(gradients()), unit=FILTERS)
    scheduler = Scheduler(model, [(Window(1, 2), Prune(pruner))], optimizer)
    total = torch.zeros(8)

    def add(*_: object) -> None:
        assert model.first.weight.grad is not None
        total.add_(model.first.weight.grad.abs().sum(1))

    optimizer.register_step_pre_hook(add)
    train(scheduler, model, optimizer, 1)
    scheduler.on_epoch_begin(1)
    assert torch.equal(model.first.weight.any(1), total > total.sort().values[3])


@pytest.mark.parametrize("window", [Window(0, 1), Window(0, 6, 2, "step")], ids=str)
def test_what_is_never_seen_is_an_error_that_names_it(window: Window) -> None:
    model = net()
    model.eval()
    optimizer = sgd(model)
    pruner = Pruner({"first.weight": 0.5}, score=Seen(outputs()), unit=FILTERS)
    scheduler = Scheduler(model, [(window, Prune(pruner))], optimizer)
    with pytest.raises(MaskError, match=r"has not seen what it ranks by \('first.weight': no .* output of its module.*model.train\(\)"):
        train(scheduler, model, optimizer, 2)


def test_folded_batch_norm_ranks_filters_as_they_act() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    scale = torch.tensor([0.001, 1.0, 0.002, 2.0])
    with torch.no_grad():
        model[1].weight.copy_(scale)
    optimizer = SGD(model.parameters(), lr=0.0)
    pruner = Pruner({"0.weight": 0.5}, unit=FILTERS)
    scheduler = Scheduler(model, [(Window(0, 1), Prune(pruner, fold_batchnorm=True))], optimizer)
    for _ in scheduler.epochs(1):
        for x in scheduler.steps([torch.randn(4, 2, 8, 8) for _ in range(2)]):
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
    assert model[0].weight.flatten(1).any(1).tolist() == [False, True, False, True]


def test_a_pruner_that_rescales_divides_by_the_kept_fraction() -> None:
    model = net()
    optimizer = sgd(model)
    before = model.first.weight.detach().clone()
    pruner = Pruner({"first.weight": 0.75}, rescale=True)
    scheduler = Scheduler(model, [(Window(0, 1), Prune(pruner, use_double_copies=True))], optimizer)
    scheduler.on_epoch_begin(0)
    keep = scheduler.masks["first.weight"]
    assert torch.equal(model.first.weight, before * keep * 4)
    assert torch.equal(scheduler.masks.dense("first.weight"), before)
    scheduler.masks.open()
    assert torch.equal(model.first.weight, before)


# --- resuming ------------------------------------------------------------------------------------------------------------------------

CASES: Mapping[str, tuple[Window, Mapping[str, Any]]] = {
    "soft": (Window(0, 3), SOFT),
    "forward": (Window(0, 4, 2), FORWARD),
    "kept": (Window(0, 3), {**SOFT, "keep_mask": True}),
    "kept by step": (Window(1, 8, 3, "step"), {**SOFT, "keep_mask": True}),
    "discarded": (Window(1, 3), {**SOFT, "discard_masks_at_minibatch_end": True, "mini_batch_pruning_frequency": 2}),
    "gradients": (Window(1, 3), {"mask_gradients": True, "mini_batch_pruning_frequency": 3}),
    "skipped": (Window(1, 3), {"skip_first_minibatch": True}),
    "after": (Window(2, 9, 3, "step"), {"after_step": True}),
}


def states(parts: Mapping[str, Any]) -> dict[str, Any]:
    return copy.deepcopy({name: part.state_dict() for name, part in parts.items()})


def tensors(tree: Any) -> Iterator[Any]:
    if isinstance(tree, Mapping):
        for key in tree:
            yield key
            yield from tensors(tree[key])
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from tensors(item)
    else:
        yield tree


def equal(one: Any, other: Any) -> bool:
    pairs = zip(tensors(one), tensors(other), strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("seen", [None, gradients, outputs], ids=["magnitude", "gradients", "activations"])
@pytest.mark.parametrize("case", CASES)
def test_every_life_resumes_at_any_step_bit_for_bit(case: str, seen: Callable[[], Any] | None) -> None:
    window, options = CASES[case]

    def made() -> dict[str, Any]:
        model = net()
        optimizer = sgd(model)
        score = {} if seen is None else {"score": Seen(seen())}
        pruner = Pruner({"first.weight": Ramp(0.25, 0.5)}, unit=FILTERS, **score)
        return {"model": model, "scheduler": Scheduler(model, [(window, Prune(pruner, **options))], optimizer), "optimizer": optimizer}

    parts = made()
    taken: list[dict[str, Any]] = []
    train(parts["scheduler"], parts["model"], parts["optimizer"], 4, after=lambda: taken.append(states(parts)))
    end = states(parts)
    for saved in taken[:-1]:
        again = made()
        with torch.no_grad():
            again["model"].first.weight.normal_()
        for name in again:
            again[name].load_state_dict(saved[name])
        train(again["scheduler"], again["model"], again["optimizer"], 4)
        assert equal(states(again), end)


def test_a_dense_copy_of_another_shape_is_refused() -> None:
    model = net()
    scheduler = Scheduler(model, half(Window(), **SOFT))
    scheduler.on_epoch_begin(0)
    saved = scheduler.state_dict()
    saved["aside"]["first.weight"]["values"] = torch.zeros(3)
    with pytest.raises(CheckpointError, match=r"the dense copy of 'first.weight' must be of shape \(8, 6\), not \(3,\)"):
        Scheduler(net(), half(Window(), **SOFT)).load_state_dict(saved)

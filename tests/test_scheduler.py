"""The scheduler in real training loops: who calls what, and what no optimizer may undo."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer

from limbeck.errors import CheckpointError, ScheduleError, TargetError
from limbeck.events import HOOKS, Action, State
from limbeck.pruning import Prune, automated_gradual_pruner, level_pruner, sensitivity_pruner
from limbeck.regularization import Regularize, l1_regularizer
from limbeck.scheduler import Scheduler
from limbeck.schedules import Clock, Moment, Window
from limbeck.training import LearningRate

Policies = list[tuple[Window, Action]]
STEPS = 3
BATCHES = [(torch.randn(4, 6, generator=torch.Generator().manual_seed(step)), torch.arange(4) % 3) for step in range(STEPS)]
OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], Optimizer]] = {
    "sgd": lambda weights: SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda weights: SGD(weights, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda weights: Adam(weights, lr=0.01, weight_decay=0.01),
    "adamw": lambda weights: AdamW(weights, lr=0.01, foreach=True),
}


class Small(nn.Module):
    """Two layers and a tied pair."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 8, bias=False)
        self.tied = nn.Linear(8, 8, bias=False)
        self.tied.weight = self.second.weight
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.tied(torch.tanh(self.second(torch.tanh(self.first(x)))))))


def small() -> Small:
    torch.manual_seed(1)
    return Small()


def policies() -> Policies:
    return [
        (Window(0, 4), Prune(automated_gradual_pruner(0.2, 0.8, ["first.weight", "tied.weight"]))),
        (Window(1, 3), Prune(sensitivity_pruner({"last.weight": 0.4}))),
        (Window(0, 5), Regularize(l1_regularizer({"last.*": 1e-3}, "Max"))),
        (Window(2, 6), LearningRate("ExponentialLR", {"gamma": 0.9})),
    ]


def objective(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def update(optimizer: Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def short_form(scheduler: Scheduler, model: nn.Module, optimizer: Optimizer, epochs: int, check: Callable[[], None] = lambda: None) -> None:
    for _ in scheduler.epochs(epochs):
        for batch in scheduler.steps(BATCHES):
            update(optimizer, scheduler.loss(objective(model, batch)))
            check()
        scheduler.metrics(loss=1.0)


def long_form(scheduler: Scheduler, model: nn.Module, optimizer: Optimizer, epochs: int) -> None:
    """All six hooks, with the ancestor's names and arguments in the order of its own training loop."""
    for epoch in range(epochs):
        scheduler.on_epoch_begin(epoch, optimizer)
        for step, batch in enumerate(BATCHES):
            scheduler.on_minibatch_begin(epoch, minibatch_id=step, minibatches_per_epoch=STEPS, optimizer=optimizer)
            loss = objective(model, batch)
            loss = scheduler.before_backward_pass(epoch, minibatch_id=step, minibatches_per_epoch=STEPS, loss=loss, optimizer=optimizer)
            optimizer.zero_grad()
            loss.backward()
            scheduler.before_parameter_optimization(epoch, minibatch_id=step, minibatches_per_epoch=STEPS, optimizer=optimizer)
            optimizer.step()
            scheduler.on_minibatch_end(epoch, minibatch_id=step, minibatches_per_epoch=STEPS, optimizer=optimizer)
        scheduler.on_epoch_end(epoch, optimizer, metrics={"min": 1.0, "max": 50.0})


def tutorial_form(scheduler: Scheduler, model: nn.Module, optimizer: Optimizer, epochs: int) -> None:
    """The calls of the ancestor's language-model tutorial: no optimizer, no before_parameter_optimization."""
    for epoch in range(epochs):
        scheduler.on_epoch_begin(epoch)
        for step, batch in enumerate(BATCHES):
            scheduler.on_minibatch_begin(epoch, minibatch_id=step, minibatches_per_epoch=STEPS)
            loss = objective(model, batch)
            loss = scheduler.before_backward_pass(epoch, minibatch_id=step, minibatches_per_epoch=STEPS, loss=loss)
            update(optimizer, loss)
            scheduler.on_minibatch_end(epoch, minibatch_id=step, minibatches_per_epoch=STEPS)
        scheduler.on_epoch_end(epoch)


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return list(states[0]) == list(states[1]) and all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def equal(one: object, other: object) -> bool:
    """Whether two nested states are the same to the bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return one == other


def held(scheduler: Scheduler) -> None:
    """No dropped weight is anything but zero."""
    for name, keep in scheduler.masks.items():
        weight = scheduler.state.parameters[name].parameter
        assert not weight[~keep].any(), name


@pytest.mark.parametrize("form", [long_form, tutorial_form])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_short_form_and_long_form_are_equal_bit_for_bit(kind: str, form: Callable[..., None]) -> None:
    models = small(), small()
    for model, run in zip(models, (short_form, form), strict=True):
        optimizer = OPTIMIZERS[kind](model.parameters())
        run(Scheduler(model, policies(), optimizer), model, optimizer, 7)
    assert same(*models)


def test_the_tutorial_s_loop_needs_no_optimizer() -> None:
    models = small(), small()
    for model, attached in zip(models, (True, False), strict=True):
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        scheduler = Scheduler(model, policies()[:3], optimizer if attached else None)
        tutorial_form(scheduler, model, optimizer, 7)
        held(scheduler)
        assert len(scheduler.masks) == 3
    assert same(*models)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_masks_hold_after_every_step_of_every_epoch(kind: str) -> None:
    model = small()
    optimizer = OPTIMIZERS[kind](model.parameters())
    scheduler = Scheduler(model, policies(), optimizer)
    checked: list[float] = []

    def check() -> None:
        held(scheduler)
        checked.append(float((model.first.weight == 0).float().mean()))

    short_form(scheduler, model, optimizer, 8, check)  # all windows of the pruners end by epoch 4
    levels = [math.floor((0.8 - 0.6 * (1 - epoch / 3) ** 3) * 48) / 48 for epoch in range(4)]
    assert checked == pytest.approx([level for level in levels for _ in range(STEPS)] + [levels[-1]] * 4 * STEPS)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_masks_hold_in_a_loop_that_calls_no_hook(kind: str) -> None:
    model = small()
    optimizer = OPTIMIZERS[kind](model.parameters())
    for batch in BATCHES:  # momentum from before the pruning
        update(optimizer, objective(model, batch))
    scheduler = Scheduler(model, [(Window(0, 1), Prune(level_pruner({"*": 0.5})))])
    scheduler.on_epoch_begin(0)
    scheduler.attach(optimizer)
    for batch in BATCHES * 2:
        update(optimizer, objective(model, batch))
        held(scheduler)


def test_lbfgs() -> None:
    model = small()
    optimizer = LBFGS(model.parameters(), max_iter=4, line_search_fn="strong_wolfe")
    scheduler = Scheduler(model, policies()[:2], optimizer)
    x, y = BATCHES[0]
    losses = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        return loss.detach()

    for _ in scheduler.epochs(6):
        for _ in scheduler.steps(range(2)):
            losses.append(float(optimizer.step(closure)))
            held(scheduler)
    assert losses[-1] < losses[0]
    assert len(scheduler.masks) == 3


def test_no_optimizer_step_is_followed_twice() -> None:
    """Two optimizers that are passed in turn, as a GAN does, gather no hooks."""
    model = small()
    optimizers = SGD(model.first.parameters(), lr=0.1), SGD(model.last.parameters(), lr=0.1)
    scheduler = Scheduler(model)
    for step in range(6):
        for optimizer in optimizers:
            scheduler.on_minibatch_begin(0, step, 6, optimizer)
    for optimizer in optimizers:
        assert len(optimizer._optimizer_step_post_hooks) == 1


def test_masks_hold_when_another_optimizer_moves_their_tensors() -> None:
    """The step of an optimizer that the scheduler follows must not pass for the step of one that it was never shown."""
    model = small()
    followed, other = (SGD(layer.parameters(), lr=0.1, momentum=0.9) for layer in (model.first, model.last))
    scheduler = Scheduler(model, [(Window(2, 3), Prune(level_pruner({"last.weight": 0.5})))], followed)
    for _ in scheduler.epochs(4):
        for batch in scheduler.steps(BATCHES):
            model.zero_grad()
            objective(model, batch).backward()  # type: ignore[no-untyped-call]
            other.step()
            followed.step()
            other.step()
        held(scheduler)
    assert list(scheduler.masks) == ["last.weight"]


def test_a_policy_touches_only_its_own_tensors() -> None:
    models = small(), small()
    plain, pruned = (OPTIMIZERS["sgd"](model.parameters()) for model in models)
    scheduler = Scheduler(models[1], [(Window(), Prune(level_pruner({"first.weight": 0.5})))], pruned)
    for _ in scheduler.epochs(2):
        before = copy.deepcopy(models[1].state_dict())
        scheduler.on_epoch_begin(scheduler.clock.epoch)
        for name, weight in models[1].state_dict().items():
            if name != "first.weight":
                assert torch.equal(weight, before[name])
        for batch in scheduler.steps(BATCHES):
            update(pruned, scheduler.loss(objective(models[1], batch)))
    assert list(scheduler.masks) == ["first.weight"]
    for batch in BATCHES * 2:
        update(plain, objective(models[0], batch))
    assert not models[1].last.weight.eq(0).any()
    assert not models[0].first.weight.eq(0).any()


def test_a_regularizer_cuts_its_own_tensors_and_keeps_a_pruner_s_mask() -> None:
    """In the ancestor a threshold overwrites and then drops the mask of a pruner of the same tensor."""
    model = small()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    schedule: Policies = [
        (Window(0, 1), Prune(level_pruner({"first.weight": 0.5}))),
        (Window(0, 2), Regularize(l1_regularizer({"first.weight": 1e-2}, "Mean_Abs"))),
    ]
    scheduler = Scheduler(model, schedule, optimizer)
    short_form(scheduler, model, optimizer, 4, lambda: held(scheduler))
    assert int(scheduler.masks["first.weight"].count_nonzero()) == 24


def test_tied_weights_are_pruned_once_and_stay_tied() -> None:
    for target in ("second.weight", "tied.weight", "module.tied.weight", "*d.weight"):
        model = small()
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        scheduler = Scheduler(model, [(Window(), Prune(level_pruner({target: 0.75})))], optimizer)
        short_form(scheduler, model, optimizer, 2)
        assert list(scheduler.masks) == ["second.weight"]
        assert model.tied.weight is model.second.weight
        assert int(model.tied.weight.count_nonzero()) == 16


def test_the_model_stays_as_it_is() -> None:
    model = small()
    keys, parameters, modules = (
        list(model.state_dict()),
        [id(weight) for weight in model.parameters()],
        [type(part) for part in model.modules()],
    )
    optimizer = OPTIMIZERS["adam"](model.parameters())
    short_form(Scheduler(model, policies(), optimizer), model, optimizer, 2)
    assert list(model.state_dict()) == keys
    assert [id(weight) for weight in model.parameters()] == parameters
    assert [type(part) for part in model.modules()] == modules
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.modules())
    assert set(optimizer.state[model.first.weight]) == {"step", "exp_avg", "exp_avg_sq"}


def test_a_deep_copy_is_a_model_of_its_own() -> None:
    model = small()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    scheduler = Scheduler(model, policies(), optimizer)
    short_form(scheduler, model, optimizer, 2)
    twin = copy.deepcopy(model)
    assert same(twin, model)
    kept = copy.deepcopy(twin.state_dict())
    short_form(scheduler, model, optimizer, 4)
    assert all(torch.equal(weight, kept[name]) for name, weight in twin.state_dict().items())
    optimizer = OPTIMIZERS["sgd"](twin.parameters())
    other = Scheduler(twin, [(Window(2), Prune(level_pruner({"first.weight": 0.9})))], optimizer)
    short_form(other, twin, optimizer, 3)
    assert int(twin.first.weight.count_nonzero()) == 48 - 43


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")], ids=["DataParallel", "compile"])
def test_a_wrapped_model_is_pruned_by_the_same_names(wrap: Callable[[nn.Module], nn.Module]) -> None:
    plain, inner = small(), small()
    wrapped = wrap(inner)
    for model, weights in ((plain, plain), (wrapped, inner)):
        optimizer = OPTIMIZERS["sgd"](weights.parameters())
        schedule: Policies = [(Window(0, 4), Prune(automated_gradual_pruner(0.2, 0.8, ["module.first.weight", "tied.weight"])))]
        scheduler = Scheduler(model, schedule, optimizer)
        short_form(scheduler, model, optimizer, 5, lambda scheduler=scheduler: held(scheduler))
        assert list(scheduler.masks) == ["first.weight", "second.weight"]
        assert scheduler.masks["first.weight"].count_nonzero() == 48 - math.floor(0.8 * 48)
    assert same(plain, inner)


class Recorder(Action):
    """Writes down which hook ran when."""

    def __init__(self, log: list[tuple[str, int, str]]) -> None:
        self.log = log

    def __getattr__(self, name: str) -> object:
        if name not in HOOKS:
            raise AttributeError(name)
        return lambda state, moment: self.log.append((name, moment.now, f"{state.clock.epoch}.{state.clock.minibatch}"))


def test_each_hook_runs_once_where_its_window_fires() -> None:
    log: list[tuple[str, int, str]] = []
    model = small()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    scheduler = Scheduler(model, [(Window(1, 2), Recorder(log))], optimizer)
    short_form(scheduler, model, optimizer, 3)
    step = HOOKS[1:5]
    assert log == [
        ("on_epoch_begin", 1, "1.0"),
        *[(name, 1, f"1.{minibatch}") for minibatch in range(STEPS) for name in step],
        ("on_epoch_end", 1, f"1.{STEPS}"),
    ]
    long: list[tuple[str, int, str]] = []
    long_form(Scheduler(model, [(Window(1, 2), Recorder(long))], optimizer), model, optimizer, 3)
    assert long == log


def test_the_clock() -> None:
    model = small()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    scheduler = Scheduler(model, (), optimizer)
    seen = []
    after: list[Clock] = []
    for epoch in scheduler.epochs(2, after=lambda: after.append(scheduler.clock)):
        for batch in scheduler.steps(iter(BATCHES), after=lambda: after.append(scheduler.clock)):
            seen.append((epoch, scheduler.clock))
            update(optimizer, scheduler.loss(objective(model, batch)))
    assert seen == [(epoch, Clock(epoch, step, epoch * STEPS + step)) for epoch in range(2) for step in range(STEPS)]
    assert after == [
        Clock(0, 1, 1),
        Clock(0, 2, 2),
        Clock(0, 3, 3),
        Clock(1, 0, 3),
        Clock(1, 1, 4),
        Clock(1, 2, 5),
        Clock(1, 3, 6),
        Clock(2, 0, 6),
    ]


class StepRecorder(Recorder):
    """Has the two hooks that follow steps."""

    def __getattr__(self, name: str) -> object:
        if name not in ("on_minibatch_begin", "on_minibatch_end"):
            raise AttributeError(name)
        return super().__getattr__(name)


def accumulate(scheduler: Scheduler, model: nn.Module, optimizer: Optimizer, epochs: int, every: int) -> None:
    """One optimizer step for ``every`` minibatches."""
    for _ in scheduler.epochs(epochs):
        for batch in scheduler.steps(BATCHES):
            scheduler.loss(objective(model, batch)).backward()
            if scheduler.clock.minibatch % every == every - 1:
                optimizer.step()
                optimizer.zero_grad()


def test_steps_are_the_optimizer_s_where_gradients_are_accumulated() -> None:
    log: list[tuple[str, int, str]] = []
    model = small()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    rate = LearningRate("ExponentialLR", {"gamma": 0.5})
    scheduler = Scheduler(model, [(Window(0, 3, unit="step"), StepRecorder(log)), (Window(0, 2, unit="step"), rate)], optimizer)
    accumulate(scheduler, model, optimizer, 2, every=3)
    assert scheduler.clock == Clock(2, 0, 2)
    assert log == [
        ("on_minibatch_begin", 0, "0.0"), ("on_minibatch_end", 0, "0.2"), ("on_minibatch_begin", 1, "1.0"), ("on_minibatch_end", 1, "1.2"),
    ]  # fmt: skip
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**2)


def test_a_step_after_which_the_loop_breaks_counts() -> None:
    model = small()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    scheduler = Scheduler(model, (), optimizer)
    for epoch in scheduler.epochs(3):
        for batch in scheduler.steps(BATCHES):
            if epoch == 1:
                break
            update(optimizer, objective(model, batch))
            break
        restored = Scheduler(model, (), optimizer)
        restored.load_state_dict(scheduler.state_dict())
        restored.on_epoch_end(epoch)
        assert restored.clock.step == (1, 1, 2)[epoch]
    assert scheduler.clock == Clock(3, 0, 2)


def test_every_minibatch_is_a_step_without_an_optimizer_and_up_to_the_hook_that_brings_one() -> None:
    model = small()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    scheduler = Scheduler(model)
    for step, batch in enumerate(BATCHES):
        assert scheduler.clock.step == step
        scheduler.on_minibatch_begin(0, step)
        update(optimizer, objective(model, batch))
        scheduler.on_minibatch_end(0, step, optimizer=optimizer)
    assert scheduler.clock.step == STEPS


def test_a_run_that_is_resumed_between_two_minibatches_of_one_step_fires_once() -> None:
    log: list[tuple[str, int, str]] = []
    model = small()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    first = Scheduler(model, [(Window(unit="step"), StepRecorder(log))], optimizer)
    first.on_epoch_begin(0)
    first.on_minibatch_begin(0, 0)
    first.on_minibatch_end(0, 0)
    again = Scheduler(model, [(Window(unit="step"), StepRecorder(log))], optimizer)
    again.load_state_dict(first.state_dict())
    again.on_minibatch_begin(0, 1)
    optimizer.step()
    again.on_minibatch_end(0, 1)
    assert again.clock == Clock(0, 2, 1)
    assert log == [("on_minibatch_begin", 0, "0.0"), ("on_minibatch_end", 0, "0.1")]


def test_a_renewed_mask_is_applied_at_once() -> None:
    model = small()
    scheduler = Scheduler(model, [(Window(0, 1), Prune(level_pruner({"first.weight": 0.5})))])
    scheduler.on_epoch_begin(0)
    assert int(model.first.weight.count_nonzero()) == 24


def test_policies_run_in_the_order_of_the_schedule() -> None:
    model = small()
    schedule: Policies = [(Window(), Prune(level_pruner({"first.weight": level}))) for level in (0.75, 0.5)]
    scheduler = Scheduler(model, schedule)
    scheduler.on_epoch_begin(0)
    assert int(scheduler.masks["first.weight"].count_nonzero()) == 24
    assert int(model.first.weight.count_nonzero()) == 12


def test_a_target_that_matches_nothing_shows_before_training() -> None:
    with pytest.raises(TargetError, match=r"no parameter is named 'frist.weight'; did you mean 'first.weight'\?"):
        Scheduler(small(), [(Window(), Prune(level_pruner({"frist.weight": 0.5})))])


def test_loss_components() -> None:
    model = small()
    scheduler = Scheduler(model, [(Window(), Regularize(l1_regularizer({"first.weight": strength}))) for strength in (0.5, 0.25)])
    loss = scheduler.loss(torch.tensor(1.0))
    assert list(scheduler.loss_components) == ["L1Regularizer_loss"]
    penalty = 0.75 * float(model.first.weight.detach().abs().sum())
    assert float(scheduler.loss_components["L1Regularizer_loss"]) == pytest.approx(penalty)
    assert float(loss.detach()) == pytest.approx(1 + penalty)
    assert not scheduler.loss_components["L1Regularizer_loss"].requires_grad
    assert scheduler.penalties["L1Regularizer_loss"].requires_grad


def test_a_loss_without_policies_is_the_loss() -> None:
    loss = torch.tensor(1.0)
    assert Scheduler(small()).loss(loss) is loss


class Measured(Action):
    """Looks at the metrics of an epoch."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_epoch_end(self, state: State, moment: Moment) -> None:
        self.seen.append(dict(state.metrics))


def test_metrics_belong_to_their_epoch() -> None:
    action = Measured()
    scheduler = Scheduler(small(), [(Window(), action)])
    for epoch in scheduler.epochs(3):
        if epoch != 1:
            scheduler.metrics(loss=float(epoch), top1=50)
    scheduler.on_epoch_end(3, metrics={"min": 2.0})
    assert action.seen == [{"loss": 0.0, "top1": 50.0}, {}, {"loss": 2.0, "top1": 50.0}, {"min": 2.0}]


# --- resuming --------------------------------------------------------------------------------------------------------------------------


def snapshot(model: nn.Module, optimizer: Optimizer, scheduler: Scheduler) -> dict[str, object]:
    return copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()})


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("order", [("model", "scheduler", "optimizer"), ("optimizer", "model", "scheduler")], ids=lambda order: order[0])
def test_a_run_that_is_resumed_at_any_step_ends_equal_bit_for_bit(kind: str, order: tuple[str, ...]) -> None:
    model = small()
    optimizer = OPTIMIZERS[kind](model.parameters())
    scheduler = Scheduler(model, policies(), optimizer)
    taken: list[dict[str, object]] = []

    def after() -> None:
        taken.append(snapshot(model, optimizer, scheduler))

    def train(model: nn.Module, optimizer: Optimizer, scheduler: Scheduler, after: Callable[[], None] | None = None) -> None:
        for _ in scheduler.epochs(5, after):
            for batch in scheduler.steps(BATCHES, after):
                update(optimizer, scheduler.loss(objective(model, batch)))
            scheduler.metrics(loss=1.0)

    after()
    train(model, optimizer, scheduler, after)
    assert len(taken) == 1 + 5 * (STEPS + 1)
    end = snapshot(model, optimizer, scheduler)
    for saved in taken:
        torch.manual_seed(99)
        twin = Small()
        resumed = OPTIMIZERS[kind](twin.parameters())
        again = Scheduler(twin, policies(), resumed)
        parts = {"model": twin, "optimizer": resumed, "scheduler": again}
        for part in order:
            parts[part].load_state_dict(saved[part])
        train(twin, resumed, again)
        assert same(twin, model)
        assert equal(snapshot(twin, resumed, again), end)


def test_a_checkpoint_of_another_schedule_is_refused() -> None:
    model = small()
    saved = Scheduler(model, policies()[:2]).state_dict()
    with pytest.raises(
        CheckpointError, match=r"has the actions \['Prune', 'Prune'\], this one \['Prune'\]; resume with the schedule that was saved"
    ):
        Scheduler(model, policies()[:1]).load_state_dict(saved)


def test_steps_outside_of_an_epoch_are_refused_rather_than_skipped() -> None:
    scheduler = Scheduler(nn.Linear(2, 2))
    with pytest.raises(ScheduleError, match="no epoch has begun"):
        list(scheduler.steps([1, 2]))
    for _ in scheduler.epochs(1):
        assert list(scheduler.steps([1, 2])) == [1, 2]
    with pytest.raises(ScheduleError, match="no epoch has begun"):
        list(scheduler.steps([1, 2]))

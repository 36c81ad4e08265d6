"""Steps: driven by the optimizer alone, with closures, with penalties, and what goes wrong where a loop forgets them."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import LBFGS, SGD, Optimizer

from limbeck.errors import CheckpointError, ScheduleError, ScheduleWarning
from limbeck.events import Action, State
from limbeck.pruning import Prune, Pruner, automated_gradual_pruner, level_pruner
from limbeck.regularization import Regularize, l1_regularizer
from limbeck.scheduler import Scheduler
from limbeck.schedules import Moment, Window
from limbeck.training import LearningRate

BATCHES = [torch.randn(4, 6, generator=torch.Generator().manual_seed(step)) for step in range(9)]


def made() -> tuple[nn.Sequential, Optimizer]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    return model, SGD(model.parameters(), lr=0.1, momentum=0.9)


def objective(model: nn.Module, x: Tensor) -> Tensor:
    return functional.mse_loss(model(x), x[:, :3].sin())


def policies(**options: Any) -> list[tuple[Window, Action]]:
    return [
        (Window(2, 9, 2, "step"), Prune(automated_gradual_pruner(0.1, 0.75, ["0.weight"]), **options)),
        (Window(1, 6, unit="step"), LearningRate("ExponentialLR", {"gamma": 0.9})),
    ]


def trainer(model: nn.Module, optimizer: Optimizer, batches: list[Tensor]) -> None:
    """A loop that knows nothing of us."""
    for x in batches:
        optimizer.zero_grad()
        objective(model, x).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def hooks(scheduler: Scheduler, model: nn.Module, optimizer: Optimizer, batches: list[Tensor]) -> None:
    for _ in scheduler.epochs(1):
        for x in scheduler.steps(batches):
            loss = scheduler.loss(objective(model, x))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def state_of(*parts: Any) -> list[Any]:
    return copy.deepcopy([part.state_dict() for part in parts])


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("options", [{}, {"use_double_copies": True}, {"after_step": True}, {"mask_gradients": True}], ids=str)
def test_a_driven_schedule_is_that_of_a_loop_with_hooks(options: dict[str, bool]) -> None:
    (model, optimizer), (twin, other) = made(), made()
    driven = Scheduler(model, policies(**options), optimizer)
    driven.drive(optimizer)
    trainer(model, optimizer, BATCHES)
    hooked = Scheduler(twin, policies(**options), other)
    hooks(hooked, twin, other, BATCHES)
    assert driven.clock.step == len(BATCHES)
    assert same(model, twin)
    assert optimizer.param_groups[0]["lr"] == other.param_groups[0]["lr"] == pytest.approx(0.1 * 0.9**5)
    assert int((model[0].weight == 0).sum()) == 36


def test_penalties_of_a_driven_schedule_reach_the_gradients() -> None:
    (model, optimizer), (twin, other) = made(), made()
    driven, hooked = (
        Scheduler(net, [(Window(2, 6, unit="step"), Regularize(l1_regularizer({"0.weight": 0.05})))]) for net in (model, twin)
    )
    driven.drive(optimizer)
    hooked.attach(other)
    trainer(model, optimizer, BATCHES[:3])
    assert float(driven.loss_components["L1Regularizer_loss"]) > 0
    trainer(model, optimizer, BATCHES[3:])
    hooks(hooked, twin, other, BATCHES)
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    assert not driven.loss_components


@pytest.mark.parametrize("options", [{}, {"use_double_copies": True}, {"after_step": True}], ids=str)
@pytest.mark.parametrize("loaded", ["before", "after", "model before, state after"])
def test_a_driven_run_resumes_at_any_step_bit_for_bit(options: dict[str, bool], loaded: str) -> None:
    model, optimizer = made()
    scheduler = Scheduler(model, [*policies(**options), (Window(0, 9, 3, "step"), Prune(level_pruner({"2.weight": 0.5})))], optimizer)
    scheduler.drive(optimizer)
    taken = []
    for x in BATCHES:
        taken.append(state_of(model, scheduler, optimizer))
        trainer(model, optimizer, [x])
    for step, (weights, schedule, steps) in enumerate(taken):
        twin, other = made()
        again = Scheduler(twin, [*policies(**options), (Window(0, 9, 3, "step"), Prune(level_pruner({"2.weight": 0.5})))], other)
        if loaded == "before":
            again.load_state_dict(schedule)
        if loaded != "after":
            twin.load_state_dict(weights)
        again.drive(other)
        if loaded != "before":
            again.load_state_dict(schedule)
        if loaded == "after":
            twin.load_state_dict(weights)
        other.load_state_dict(steps)
        trainer(twin, other, BATCHES[step:])
        assert same(twin, model), step
        assert again.clock == scheduler.clock


def test_what_fires_at_step_0_fires_within_the_first_step() -> None:
    model, optimizer = made()
    scheduler = Scheduler(model, [(Window(0, 1, unit="step"), Prune(level_pruner({"0.weight": 0.5})))])
    scheduler.drive(optimizer)
    assert len(scheduler.masks) == 0
    trainer(model, optimizer, BATCHES[:1])
    assert int((model[0].weight == 0).sum()) == 24


def test_windows_by_epoch_cannot_be_driven() -> None:
    model, optimizer = made()
    with pytest.raises(ScheduleError, match=r"Prune has a window by epoch, from 1 to 4, .* give it in steps"):
        Scheduler(model, [(Window(1, 4), Prune(level_pruner({"0.weight": 0.5})))]).drive(optimizer)
    scheduler = Scheduler(model)
    scheduler.on_epoch_begin(0)
    with pytest.raises(ScheduleError, match="an epoch has begun"):
        scheduler.drive(optimizer)


def test_a_driven_scheduler_refuses_a_loop_s_hooks() -> None:
    model, optimizer = made()
    scheduler = Scheduler(model, policies()[:1])
    scheduler.drive(optimizer)
    for call in (
        lambda: scheduler.on_epoch_begin(0),
        lambda: scheduler.on_minibatch_begin(0, 0),
        lambda: scheduler.loss(torch.zeros(())),
        lambda: scheduler.on_minibatch_end(0, 0),
        lambda: next(scheduler.epochs(1)),
    ):
        with pytest.raises(ScheduleError, match="drives this scheduler"):
            call()


def test_an_optimizer_with_a_closure_can_drive() -> None:
    model, _ = made()
    optimizer = LBFGS(model.parameters(), max_iter=3)
    schedule: list[tuple[Window, Action]] = [
        (Window(1, 2, unit="step"), Prune(level_pruner({"0.weight": 0.5}), use_double_copies=True)),
        (Window(0, 9, unit="step"), Regularize(l1_regularizer({"2.weight": 1e-3}))),
    ]
    scheduler = Scheduler(model, schedule)
    scheduler.drive(optimizer)

    def closure() -> float:
        optimizer.zero_grad()
        loss = objective(model, BATCHES[0])
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    losses = [optimizer.step(closure) for _ in range(4)]
    assert scheduler.clock.step == 4
    assert losses[-1] < losses[0]
    assert int((model[0].weight == 0).sum()) == 24


class Looker(Action):
    """Writes down when it may look on."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int, int]] = []

    def watch_epoch(self, state: State, window: Window) -> None:
        self.log.append(("epoch", state.clock.epoch, state.clock.step))

    def watch_minibatch(self, state: State, window: Window) -> None:
        self.log.append(("minibatch", state.clock.minibatch, state.clock.step))

    def watch_step(self, state: State, window: Window) -> None:
        self.log.append(("step", state.clock.minibatch, state.clock.step))

    def watch_epoch_end(self, state: State, window: Window) -> None:
        self.log.append(("end", state.clock.epoch, state.clock.step))


def test_who_looks_on_is_called_whatever_the_window_says() -> None:
    model, optimizer = made()
    looker = Looker()
    hooks(Scheduler(model, [(Window(100), looker)], optimizer), model, optimizer, BATCHES[:2])
    assert looker.log == [
        ("epoch", 0, 0), ("minibatch", 0, 0), ("step", 0, 0), ("minibatch", 1, 1), ("step", 1, 1), ("end", 0, 2),
    ]  # fmt: skip


class Counts(Action):
    """The clock that a hook after the step is given."""

    def __init__(self) -> None:
        self.now: list[tuple[int, int]] = []

    def after_step(self, state: State, moment: Moment) -> None:
        self.now.append((moment.now, state.clock.step))


@pytest.mark.parametrize("attached", [True, False])
def test_after_step_counts_the_step_that_was_made(attached: bool) -> None:
    model, optimizer = made()
    counts = Counts()
    scheduler = Scheduler(model, [(Window(0, 4, 2, "step"), counts)], optimizer if attached else None)
    hooks(scheduler, model, optimizer, BATCHES[:5])
    assert counts.now == [(2, 2)]
    assert scheduler.clock.step == 5


def test_two_optimizers_of_one_step_fire_once() -> None:
    model, _ = made()
    optimizers = SGD(model[0].parameters(), lr=0.1), SGD(model[2].parameters(), lr=0.1)
    counts = Counts()
    scheduler = Scheduler(model, [(Window(0, 9, unit="step"), counts)])
    for optimizer in optimizers:
        scheduler.attach(optimizer)
    for _ in scheduler.epochs(1):
        for x in scheduler.steps(BATCHES[:3]):
            objective(model, x).backward()  # type: ignore[no-untyped-call]
            for optimizer in optimizers:
                optimizer.step()
    assert counts.now == [(1, 1), (2, 2), (3, 3)]


# --- what is said before, or instead of, training wrongly ------------------------------------------------------------------------------

PRUNER = level_pruner({"0.weight": 0.5})
WRONG: list[tuple[Any, str]] = [
    ([(Window(), PRUNER)], r"schedule\[0\]\[1\] must be an Action, not a Pruner; wrap it: Prune\(...\)"),
    (
        [(Window(), Prune(PRUNER)), (Window(), l1_regularizer({"0.weight": 1}))],
        r"schedule\[1\]\[1\] must be an Action, not .* wrap it: Regularize",
    ),
    ((Window(), Prune(PRUNER)), r"schedule\[0\] must be a pair \(Window, Action\), not a Window; a schedule is a list of such pairs"),
    ([(Prune(PRUNER), Window())], r"schedule\[0\]\[0\] must be a Window, as in Window\(0, 10\), not a Prune"),
    ([(Window(), Prune)], r"schedule\[0\]\[1\] must be an Action, not the class Prune"),
    ([(0, 9, Prune(PRUNER))], r"schedule\[0\] must be a pair \(Window, Action\), not a tuple of 3"),
    (Prune(PRUNER), r"a schedule is a list of \(Window, Action\) pairs, not a Prune"),
    ({Window(): Prune(PRUNER)}, r"a schedule is a list of \(Window, Action\) pairs, not a dict"),
]


@pytest.mark.parametrize(("schedule", "message"), WRONG, ids=[str(index) for index in range(len(WRONG))])
def test_what_is_no_schedule_is_refused(schedule: Any, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        Scheduler(made()[0], schedule)


def test_the_optimizer_of_another_model_is_refused() -> None:
    other = SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(ScheduleError, match="the SGD optimizer holds none of the model's parameters"):
        Scheduler(made()[0], (), other)
    scheduler = Scheduler(made()[0])
    with pytest.raises(ScheduleError, match="build it from the parameters of the model that the scheduler is given"):
        scheduler.on_epoch_begin(0, other)


@pytest.mark.parametrize("saved", [{"masks_dict": {}}, {}, None, [1]], ids=str)
def test_what_is_no_scheduler_s_state_is_refused(saved: Any) -> None:
    with pytest.raises(CheckpointError, match=r"this is no scheduler's state: it has no 'clock'.*give what scheduler.state_dict"):
        Scheduler(made()[0]).load_state_dict(saved)


def epochs_without_penalties(window: Window, asks: bool, trains: bool = True) -> list[str]:
    model, optimizer = made()
    scheduler = Scheduler(model, [(window, Regularize(l1_regularizer({"0.weight": 0.05})))], optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in scheduler.epochs(3):
            for x in scheduler.steps(BATCHES[:2]):
                loss = objective(model, x)
                loss = scheduler.loss(loss) if asks else loss
                if trains:
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
    return [str(warning.message) for warning in caught if warning.category is ScheduleWarning]


def test_penalties_that_the_loop_never_adds_are_told_once() -> None:
    """The tutorial of the ancestor threw the loss that it was given away."""
    for window, epoch in ((Window(1, 3), 1), (Window(3, 4, unit="step"), 1)):
        told = epochs_without_penalties(window, asks=False)
        assert len(told) == 1
        assert f"Regularize had penalties to add in epoch {epoch}, and the loop trained without them" in told[0]
        assert epochs_without_penalties(window, asks=True) == []
    assert epochs_without_penalties(Window(5, 6), asks=False) == []
    assert epochs_without_penalties(Window(0, 3), asks=False, trains=False) == []


def test_ids_of_an_optimizer_follow_a_group_that_is_added() -> None:
    """A mask of a parameter that joined later is still known to have been applied, and holds."""
    model, _ = made()
    optimizer = SGD(model[0].parameters(), lr=0.1, momentum=0.9)
    scheduler = Scheduler(model, [(Window(0, 1), Prune(Pruner({"*.weight": 0.5})))], optimizer)
    for epoch in scheduler.epochs(2):
        if epoch == 1:
            optimizer.add_param_group({"params": list(model[2].parameters())})
        for x in scheduler.steps(BATCHES[:3]):
            optimizer.zero_grad()
            objective(model, x).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            assert [int((model[index].weight == 0).sum()) for index in (0, 2)] == [24, 12]

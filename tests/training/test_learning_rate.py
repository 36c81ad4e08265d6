"""Learning rates on a schedule: every torch class by name, from the window's first moment on, over restarts."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, lr_scheduler

from limbeck.apps._tree import decode, encode
from limbeck.errors import ScheduleError
from limbeck.events import Action
from limbeck.scheduler import Scheduler
from limbeck.schedules import Unit, Window
from limbeck.training import LearningRate, MultiStepMultiGammaLR, PlateauDecay, lr_schedulers

UNITS: tuple[Unit, Unit] = ("epoch", "step")
ARGUMENTS: dict[str, dict[str, Any]] = {
    "ConstantLR": {"factor": 0.5, "total_iters": 3},
    "CosineAnnealingLR": {"T_max": 6, "eta_min": 1e-4},
    "CosineAnnealingWarmRestarts": {"T_0": 3, "T_mult": 2},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3, "mode": "exp_range", "gamma": 0.9},
    "ExponentialLR": {"gamma": 0.9},
    "InverseSquareRootLR": {"warmup_steps": 3},
    "LinearLR": {"start_factor": 0.5, "total_iters": 4},
    "MultiStepLR": {"milestones": [2, 5, 5], "gamma": 0.5},
    "MultiStepMultiGammaLR": {"milestones": [2, 5], "gammas": [0.5, 0.2]},
    "NoamLR": {"d_model": 16, "warmup_steps": 4, "factor": 2.0, "initial_step": 2},
    "OneCycleLR": {"max_lr": 0.3, "total_steps": 9, "three_phase": True},
    "PolynomialLR": {"T_max": 7, "power": 2.0},
    "ReduceLROnPlateau": {"mode": "min", "patience": 0, "factor": 0.5, "cooldown": 1},
    "StepLR": {"step_size": 2, "gamma": 0.5},
}
CASES: list[tuple[str, Unit]] = [(name, unit) for name in ARGUMENTS for unit in UNITS if (name, unit) != ("ReduceLROnPlateau", "step")]
LOSSES = [4.0, 3.0, 3.5, 3.2, 2.9, 2.95, 3.0, 2.8, 2.85, 2.9, 2.95, 3.0]
BASE = 0.2


class Run:
    """A run whose every optimizer step is real, and what its learning rates were in each epoch or step."""

    def __init__(self, *policies: tuple[Window, Action], base: float = BASE) -> None:
        self.model = nn.Linear(2, 2)
        self.optimizer = SGD([{"params": [self.model.weight]}, {"params": [self.model.bias], "lr": base / 2}], lr=base, momentum=0.9)
        self.scheduler = Scheduler(self.model, policies, self.optimizer)
        self.by_step: list[float] = []
        self.taken: list[str] = []

    @property
    def rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def train(self, epochs: int, steps: int = 1, metrics: bool = True) -> Run:
        for epoch in self.scheduler.epochs(epochs, self.save):
            for _ in self.scheduler.steps(range(steps), self.save):
                self.by_step.append(self.rate)
                self.model(torch.ones(1, 2)).sum().backward()
                self.optimizer.step()
            if metrics:
                self.scheduler.metrics(loss=LOSSES[epoch % len(LOSSES)])
        return self

    def save(self) -> None:
        """As text: what a checkpoint makes of it."""
        tree, tensors = encode({"scheduler": self.scheduler.state_dict(), "groups": self.groups(), "rates": self.by_step})
        assert not tensors
        self.taken.append(json.dumps(tree))

    def groups(self) -> list[dict[str, Any]]:
        return [{key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups]

    def load(self, text: str, optimizer_first: bool) -> Run:
        saved = decode(json.loads(text), {})
        if not optimizer_first:
            self.scheduler.load_state_dict(saved["scheduler"])
        for group, state in zip(self.optimizer.param_groups, saved["groups"], strict=True):
            group.update(state)
        if optimizer_first:
            self.scheduler.load_state_dict(saved["scheduler"])
        self.by_step = list(saved["rates"])
        return self


def torch_rates(name: str, epochs: int, base: float = BASE, **arguments: Any) -> list[float]:
    """The learning rates of torch's own scheduler in a plain loop."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=base, momentum=0.9)
    scheduler, rates = getattr(lr_scheduler, name)(optimizer, **arguments), []
    for epoch in range(epochs):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step(LOSSES[epoch]) if name == "ReduceLROnPlateau" else scheduler.step()
    return rates


def test_every_class_has_a_row_in_this_table() -> None:
    assert set(ARGUMENTS) == set(lr_schedulers())


def test_classes_that_need_code_are_none_of_a_file() -> None:
    assert not {"LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler", "LRScheduler"} & set(lr_schedulers())


@pytest.mark.parametrize(("name", "unit"), [case for case in CASES if hasattr(lr_scheduler, case[0]) and case[0] != "PolynomialLR"])
def test_the_rates_are_torch_s_own(name: str, unit: Unit) -> None:
    epochs = 9 if name == "OneCycleLR" else 12
    run = Run((Window(unit=unit), LearningRate(name, ARGUMENTS[name])))
    run.train(epochs) if unit == "epoch" else run.train(1, steps=epochs)
    assert run.by_step == torch_rates(name, epochs, **ARGUMENTS[name])


@pytest.mark.parametrize(("name", "unit"), CASES)
def test_saved_at_any_step_and_restored(name: str, unit: Unit) -> None:
    window = Window(1, 7, unit=unit)
    whole = Run((window, LearningRate(name, ARGUMENTS[name]))).train(6, steps=2)
    for place, text in enumerate(list(whole.taken)):
        optimizer_first = place % 2 == 0  # the order of loading is free
        part = Run((window, LearningRate(name, ARGUMENTS[name]))).load(text, optimizer_first).train(6, steps=2)
        assert part.by_step == whole.by_step
        assert part.groups() == whole.groups()
    assert len(set(whole.by_step)) > 1


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_a_window_that_opens_late_starts_from_the_rate_of_that_moment(name: str) -> None:
    """The ancestor jumps: it steps by absolute epochs."""
    late = Run((Window(24, 33), LearningRate(name, ARGUMENTS[name]))).train(33).by_step
    early = Run((Window(0, 9), LearningRate(name, ARGUMENTS[name]))).train(9).by_step
    assert late[:24] == [BASE] * 24
    assert late[24:] == early  # the losses are a cycle of twelve, so a plateau sees the same ones too


def test_no_jump_at_epoch_24() -> None:
    """The ancestor's own example goes from .005 to .005 * .9 ** 25 here."""
    rates = Run((Window(24, 200), LearningRate("ExponentialLR", {"gamma": 0.9})), base=0.005).train(27).by_step
    assert rates[23:] == pytest.approx([0.005, 0.005, 0.0045, 0.00405])


def test_the_last_rate_stays_after_the_window() -> None:
    rates = Run((Window(1, 3), LearningRate("ExponentialLR", {"gamma": 0.5}))).train(6).by_step
    assert rates == pytest.approx([BASE, BASE, BASE / 2, BASE / 4, BASE / 4, BASE / 4])


def test_several_windows_that_do_not_overlap() -> None:
    run = Run(
        (Window(0, 2), LearningRate("LinearLR", {"start_factor": 0.5, "total_iters": 2})),
        (Window(3, 5), LearningRate("ExponentialLR", {"gamma": 0.1})),
        (Window(6, 8), LearningRate("MultiStepLR", {"milestones": [1], "gamma": 0.5})),
    ).train(9)
    base = [BASE / 2, BASE * 0.75, BASE, BASE, BASE / 10, BASE / 100, BASE / 100, BASE / 200, BASE / 200]
    assert run.by_step == pytest.approx(base)
    assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx([BASE / 200, BASE / 400])


def test_one_cycle_by_step_is_held_when_it_is_used_up() -> None:
    """One step more and torch raises; at the last one a linear cycle would turn negative."""
    arguments = {"max_lr": 0.3, "total_steps": 10, "anneal_strategy": "linear"}
    rates = Run((Window(2, 20, unit="step"), LearningRate("OneCycleLR", arguments))).train(3, steps=8).by_step
    assert rates[:2] == [BASE] * 2
    assert rates[2:12] == torch_rates("OneCycleLR", 10, **arguments)
    assert rates[12:] == [rates[11]] * 12
    assert rates[11] == pytest.approx(0.3 / 25 / 1e4)


def test_one_cycle_moves_the_momentum_too() -> None:
    run = Run((Window(unit="step"), LearningRate("OneCycleLR", {"max_lr": 0.3, "total_steps": 10})))
    assert run.train(1, steps=3).optimizer.param_groups[0]["momentum"] == pytest.approx(0.85, abs=0.01)


def test_warm_restarts() -> None:
    rates = Run((Window(), LearningRate("CosineAnnealingWarmRestarts", {"T_0": 2, "T_mult": 2, "eta_min": 0.0}))).train(7).by_step
    cosine = [BASE * (1 + math.cos(math.pi * part)) / 2 for part in (0, 1 / 2, 0, 1 / 4, 2 / 4, 3 / 4, 0)]
    assert rates == pytest.approx(cosine)


def test_every_third_epoch() -> None:
    rates = Run((Window(1, 8, 3), LearningRate("ExponentialLR", {"gamma": 0.5}))).train(9).by_step
    assert rates == pytest.approx([BASE] * 2 + [BASE / 2] * 3 + [BASE / 4] * 3 + [BASE / 8])


def test_multi_step_multi_gamma() -> None:
    """``base * product(gammas[:bisect_right(milestones, t)])``; two milestones at one place both count."""
    arguments = {"milestones": [5, 2, 5], "gammas": [0.5, 0.1, 0.2]}
    rates = Run((Window(), LearningRate("MultiStepMultiGammaLR", arguments))).train(8).by_step
    assert rates == pytest.approx([BASE] * 2 + [BASE * 0.1] * 3 + [BASE * 0.1 * 0.1] * 3)
    with pytest.raises(ValueError, match="milestones and gammas must be of one length, not 2 and 1"):
        MultiStepMultiGammaLR(Run().optimizer, [1, 2], [0.1])


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("key", ["T_max", "total_iters"])
def test_polynomial(power: float, key: str) -> None:
    rates = Run((Window(), LearningRate("PolynomialLR", {key: 5, "power": power}))).train(8).by_step
    assert rates == pytest.approx([BASE * (1 - min(t, 5) / 5) ** power for t in range(8)])


@pytest.mark.parametrize("arguments", [{}, {"T_max": 5, "total_iters": 5}])
def test_polynomial_needs_one_length(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="takes either T_max or total_iters, and needs one of them"):
        lr_schedulers()["PolynomialLR"](Run().optimizer, **arguments)


@pytest.mark.parametrize(
    ("mode", "metrics", "expected"),
    [
        ("min", [{"loss": 3.0, "top1": 9.0}, {"loss": 4.0, "top1": 10.0}], BASE / 2),
        ("max", [{"loss": 3.0, "top1": 9.0}, {"loss": 4.0, "top1": 10.0}], BASE),
        ("min", [{"min": 3.0, "max": 9.0}, {"min": 2.0, "max": 9.0}], BASE),
        ("max", [{"min": 3.0, "max": 9.0}, {"min": 2.0, "max": 9.0}], BASE / 2),
        ("min", [{"bleu": 3.0}, {"bleu": 3.0}], BASE / 2),
    ],
)
def test_plateau_watches_the_metric_of_its_mode(mode: str, metrics: list[dict[str, float]], expected: float) -> None:
    run = Run((Window(), LearningRate("ReduceLROnPlateau", {"mode": mode, "patience": 0, "factor": 0.5})))
    for epoch, measured in enumerate(metrics):
        run.scheduler.on_epoch_begin(epoch)
        run.optimizer.step()
        run.scheduler.on_epoch_end(epoch, metrics=measured)
    assert run.rate == pytest.approx(expected)


def test_plateau_without_a_metric_says_so() -> None:
    run = Run((Window(), LearningRate("ReduceLROnPlateau", {"mode": "max"})))
    with pytest.raises(
        ScheduleError, match=r"needs a metric at the end of the epoch, one of max, accuracy, top1; got none: call scheduler\.metrics"
    ):
        run.train(1, metrics=False)


def test_a_learning_rate_by_step_and_one_by_epoch_follow_each_other_and_never_meet() -> None:
    warm_up, decay = LearningRate("LinearLR", {"start_factor": 0.5, "total_iters": 4}), LearningRate("ExponentialLR", {"gamma": 0.5})
    policies = [(Window(0, 4, unit="step"), warm_up), (Window(2, 9), decay)]
    run = Run(*policies).train(4, steps=2)
    assert run.by_step == pytest.approx([BASE * factor for factor in (0.5, 0.625, 0.75, 0.875, 1, 1, 0.5, 0.5)])
    with pytest.raises(
        ScheduleError,
        match=r"LinearLR and ExponentialLR both set the learning rate in epoch 2, step 2; let the window of one end where the other's begins",
    ):
        Run((Window(0, 4, unit="step"), LearningRate("LinearLR", {})), (Window(2, 9), decay)).train(4)


@pytest.mark.parametrize("action", [LearningRate("ExponentialLR", {"gamma": 0.9}), PlateauDecay()])
def test_without_an_optimizer(action: Action) -> None:
    with pytest.raises(ScheduleError, match="give the optimizer to the scheduler, after the model"):
        Scheduler(nn.Linear(2, 2), [(Window(), action)])


@pytest.mark.parametrize("unit", UNITS)
def test_torch_warns_of_no_wrong_order(unit: Unit, recwarn: pytest.WarningsRecorder) -> None:
    Run((Window(1, unit=unit), LearningRate("ExponentialLR", {"gamma": 0.9}))).train(4, steps=2)
    assert not list(recwarn)


# --- the plateau decay -----------------------------------------------------------------------------------------------------------------


def test_plateau_decay_divides_after_each_epoch_that_is_not_the_best() -> None:
    run = Run((Window(), PlateauDecay(factor=0.25))).train(7)
    best, scale, expected = math.inf, 1.0, []
    for loss in LOSSES[:7]:
        expected.append(BASE * scale)
        scale, best = (scale, loss) if loss < best else (scale * 0.25, best)
    assert run.by_step == expected
    assert [group["lr"] for group in run.optimizer.param_groups] == [expected[-1], expected[-1] / 2]


def test_plateau_decay_cools_down_to_zero() -> None:
    run = Run((Window(), PlateauDecay(factor=1.0, total_steps=10, cooldown=0.4))).train(5, steps=2)
    assert run.by_step == pytest.approx([BASE] * 7 + [BASE * 0.75, BASE * 0.5, BASE * 0.25])


@pytest.mark.parametrize("optimizer_first", [True, False])
def test_plateau_decay_is_restored(optimizer_first: bool) -> None:
    def run() -> Run:
        return Run((Window(), PlateauDecay(factor=0.5, total_steps=12, cooldown=0.3)))

    whole = run().train(6, steps=2)
    for text in list(whole.taken):
        assert run().load(text, optimizer_first).train(6, steps=2).by_step == whole.by_step


def test_plateau_decay_needs_a_loss() -> None:
    with pytest.raises(ScheduleError, match="needs a metric at the end of the epoch"):
        Run((Window(), PlateauDecay())).train(1, metrics=False)

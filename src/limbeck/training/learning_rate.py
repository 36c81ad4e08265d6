"""Learning rates on a schedule: torch's schedulers by name, two of the ancestor's, those of Transformers, and the action that drives them."""

from __future__ import annotations

import inspect
from bisect import bisect_right
from collections.abc import Callable, Mapping
from copy import deepcopy
from math import prod
from typing import Any

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau

from limbeck.errors import ScheduleError
from limbeck.events import Action, State
from limbeck.schedules import Moment
from limbeck.training.warmup import InverseSquareRootLR, NoamLR

NEEDS_CODE = {
    "LambdaLR": "a Python function",
    "MultiplicativeLR": "a Python function",
    "SequentialLR": "other schedulers; give each a policy with a window of its own",
    "ChainedScheduler": "other schedulers; give each a policy with a window of its own",
}
"""torch's schedulers that a file cannot describe, and what they need."""

BY_EPOCH = {"ReduceLROnPlateau": "what is measured at the end of an epoch"}
"""Classes that no window by step can drive, and why."""

BY_STEP = frozenset({"CyclicLR", "InverseSquareRootLR", "NoamLR", "OneCycleLR"})
"""Classes that are made to move in every step."""

MINIMUM, MAXIMUM = ("min", "loss"), ("max", "accuracy", "top1")


class MultiStepMultiGammaLR(LRScheduler):
    """At each of ``milestones`` the learning rate is multiplied by the gamma of the same place in ``gammas``.

    Milestones count epochs (or steps) from the window's begin. Raises ``ValueError`` when the two lists differ in length.
    """

    def __init__(self, optimizer: Optimizer, milestones: list[int], gammas: list[float], last_epoch: int = -1) -> None:
        if len(milestones) != len(gammas):
            raise ValueError(f"milestones and gammas must be of one length, not {len(milestones)} and {len(gammas)}")
        pairs = sorted(zip(milestones, gammas, strict=True))
        self.milestones = [milestone for milestone, _ in pairs]
        self.gammas = [gamma for _, gamma in pairs]
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:  # type: ignore[override]  # torch's own annotation admits tensors too
        """``base * product of the gammas whose milestone has come``, for each parameter group."""
        factor = prod(self.gammas[: bisect_right(self.milestones, self.last_epoch)])
        return [base * factor for base in self.base_lrs]  # type: ignore[misc]  # as above


def polynomial_lr(optimizer: Optimizer, T_max: int | None = None, power: float = 1.0, total_iters: int | None = None) -> LRScheduler:  # noqa: N803  # the ancestor's name
    """``base * (1 - t / T_max) ** power``, zero from ``T_max`` on; ``T_max`` is the ancestor's name and ``total_iters`` torch's.

    Raises ``ValueError`` unless exactly one of the two is given.
    """
    if (T_max is None) == (total_iters is None):
        raise ValueError("PolynomialLR takes either T_max or total_iters, and needs one of them")
    length = T_max if T_max is not None else total_iters
    assert length is not None
    return lr_scheduler.PolynomialLR(optimizer, total_iters=length, power=power)


def lr_schedulers() -> dict[str, Callable[..., LRScheduler]]:
    """Class names of the schedule file's ``lr_schedulers`` section: every usable class of ``torch.optim.lr_scheduler``, the ancestor's, and Transformers'.

    >>> {"ExponentialLR", "OneCycleLR", "ReduceLROnPlateau", "MultiStepMultiGammaLR"} <= set(lr_schedulers())
    True
    """
    own: dict[str, Callable[..., LRScheduler]] = {
        "InverseSquareRootLR": InverseSquareRootLR,
        "MultiStepMultiGammaLR": MultiStepMultiGammaLR,
        "NoamLR": NoamLR,
        "PolynomialLR": polynomial_lr,
    }
    found: dict[str, Callable[..., LRScheduler]] = {
        name: member
        for name, member in vars(lr_scheduler).items()
        if inspect.isclass(member) and issubclass(member, LRScheduler) and member is not LRScheduler and not name.startswith("_")
    }
    return {name: member for name, member in sorted({**found, **own}.items()) if name not in NEEDS_CODE}


class LearningRate(Action):
    """Drives one torch learning-rate scheduler, which is built when its window opens: it starts from the learning rate of that moment.

    Windows by epoch step it after each of their epochs, windows by step after each of their optimizer steps. A one-cycle schedule is held at
    its last value when its steps are used up.
    """

    def __init__(self, name: str, arguments: Mapping[str, Any], build: Callable[..., LRScheduler] | None = None) -> None:
        self.name, self.arguments = name, dict(arguments)
        self._build = build or lr_schedulers()[name]
        self.scheduler: LRScheduler | None = None

    def bind(self, state: State) -> None:
        """Raises ``ScheduleError`` without an optimizer."""
        if state.optimizer is None:
            raise ScheduleError(f"{self.name} changes an optimizer's learning rate: give the optimizer to the scheduler, after the model")

    def on_epoch_begin(self, state: State, moment: Moment) -> None:
        """Build the scheduler when a window by epoch opens."""
        if moment.unit == "epoch":
            self._open(state)

    def on_minibatch_begin(self, state: State, moment: Moment) -> None:
        """Build the scheduler when a window by step opens; raises ``ScheduleError`` where another one drives the same step."""
        self._claim(state)
        if moment.unit == "step":
            self._open(state)

    def on_minibatch_end(self, state: State, moment: Moment) -> None:
        """One step, for windows by step."""
        if moment.unit == "step":
            self._step(state)

    def on_epoch_end(self, state: State, moment: Moment) -> None:
        """One step, for windows by epoch."""
        if moment.unit == "epoch":
            self._step(state)

    def state_dict(self) -> dict[str, Any] | None:
        """The torch scheduler's own state, or None before its window opens."""
        if self.scheduler is None:
            return None
        return {key: deepcopy(value) for key, value in self.scheduler.state_dict().items() if not callable(value)}

    def load_state_dict(self, state: State, saved: dict[str, Any] | None) -> None:
        """Stand where ``state_dict`` was taken; the learning rates themselves come with the optimizer's own state, before or after this."""
        self.scheduler = None
        if saved is None:
            return
        assert state.optimizer is not None
        groups = [dict(group) for group in state.optimizer.param_groups]
        self.scheduler = self._build(state.optimizer, **self.arguments)
        self.scheduler.load_state_dict(deepcopy(saved))
        for group, before in zip(state.optimizer.param_groups, groups, strict=True):
            group.update(before)  # building a torch scheduler overwrites what the optimizer may have loaded
        if state.clock.step:
            setattr(state.optimizer, "_opt_called", True)  # noqa: B010  # the steps were taken in the run that is resumed: torch need not warn

    def _claim(self, state: State) -> None:
        clock, other = state.rate_set or (None, self)
        if clock == state.clock and other is not self:
            first = getattr(other, "name", type(other).__name__)
            raise ScheduleError(
                f"{first} and {self.name} both set the learning rate in epoch {state.clock.epoch}, step {state.clock.step}; "
                "let the window of one end where the other's begins"
            )
        state.rate_set = state.clock, self

    def _open(self, state: State) -> None:
        if self.scheduler is None:
            assert state.optimizer is not None
            for group in state.optimizer.param_groups:
                group.pop("initial_lr", None)
            self.scheduler = self._build(state.optimizer, **self.arguments)

    def _step(self, state: State) -> None:
        if self.scheduler is None:
            self._open(state)
        assert self.scheduler is not None
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(watched(state.metrics, self.scheduler.mode))
        elif not isinstance(self.scheduler, OneCycleLR) or self.scheduler.last_epoch < self.scheduler.total_steps - 1:
            self.scheduler.step()


def watched(metrics: Mapping[str, float], mode: str) -> float:
    """The metric that a plateau scheduler watches: ``min`` or ``loss`` for mode min, ``max``, ``accuracy`` or ``top1`` for max, or the only one.

    >>> watched({"loss": 4.5, "top1": 70.0}, "max")
    70.0

    Raises ``ScheduleError`` when there is none.
    """
    names = MINIMUM if mode == "min" else MAXIMUM
    for name in names:
        if name in metrics:
            return metrics[name]
    if len(metrics) == 1:
        return next(iter(metrics.values()))
    raise ScheduleError(
        f"ReduceLROnPlateau (mode '{mode}') needs a metric at the end of the epoch, one of {', '.join(names)}; "
        f"got {sorted(metrics) or 'none'}: call scheduler.metrics(loss=...) or on_epoch_end(epoch, metrics={{...}})"
    )

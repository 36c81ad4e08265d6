"""What a run tells of itself, in every application: running means, lines of the logs, checkpoints, the record at the end."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from limbeck._version import installed_version
from limbeck.apps.log import RunLog, sparsity_rows
from limbeck.apps.loop import device_name, write_json
from limbeck.apps.progress import Progress
from limbeck.names import named_parameters
from limbeck.scheduler import Scheduler
from limbeck.stats import nonzero_groups, weights
from limbeck.training import LearningRate


class Running(NamedTuple):
    """What has been summed up since the last line of the log: totals of what the application counts, steps, and items (words, images)."""

    totals: tuple[float, ...]
    steps: int = 0
    items: int = 0

    @property
    def flat(self) -> tuple[float, ...]:
        """The totals, then steps and items: what a checkpoint holds."""
        return (*self.totals, self.steps, self.items)

    @classmethod
    def of(cls, flat: tuple[Any, ...]) -> Running:
        """The inverse of ``flat``.

        >>> Running.of((4.5, 1, 700)) == Running((4.5,), 1, 700)
        True
        """
        *totals, steps, items = flat
        return cls(tuple(totals), steps, items)


class Options(Protocol):
    """The options that every training has."""

    @property
    def command(self) -> str:
        """The command line, for the record."""

    @property
    def data(self) -> str:
        """The name or place of the data."""

    @property
    def compress(self) -> str | None:
        """The schedule file."""

    @property
    def save(self) -> str | None:
        """The run folder."""

    @property
    def log_gradients(self) -> bool:
        """Whether TensorBoard gets the gradients."""


class Session(Protocol):
    """What every run consists of."""

    seconds: float
    running: Running

    @property
    def options(self) -> Options:
        """What was asked for."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Of the model's parameters."""

    @property
    def scheduler(self) -> Scheduler:
        """With the schedule, or without one."""

    @property
    def train(self) -> Sized:
        """The batches of an epoch."""

    @property
    def notes(self) -> list[str]:
        """What to say before the run."""

    def save(self, directory: Path) -> None:
        """Write a checkpoint from which the run goes on bit for bit."""


AnySession = TypeVar("AnySession", bound=Session)


@dataclass(frozen=True)
class Reports(Generic[AnySession]):
    """What an application tells of its runs."""

    application: str
    rate: str
    """The last column of the log: items a second."""
    measured: Callable[[Running], dict[str, float]]
    """Means by name, from running totals."""
    about: Callable[[AnySession, nn.Module], dict[str, Any]]
    """The part of ``run.json`` that says what the model is; of the model that is given, which the run trains or tests."""
    results: Callable[[AnySession, Mapping[str, float] | None], dict[str, Any]]
    """The part that says what came out, and how long the run is; None until the model is tested."""


@dataclass
class Recorder(Generic[AnySession]):
    """Sums up what the steps of one run tell, and keeps its logs, its checkpoints and its record."""

    reports: Reports[AnySession]
    session: AnySession
    folder: Path
    log: RunLog
    progress: Progress
    sparsity: float = 0.0
    """The fraction of weights that the masks dropped when last looked at."""
    learning_rate: float | None = None
    """What the logs say of it; None: what the optimizer has, which a schedule by step has moved on to the next step already."""
    _since: float = field(default_factory=time.monotonic)
    _log_since: float = field(default_factory=time.monotonic)
    _items_before: int = 0  # of the running sum, those that an earlier process trained on
    _sums: Tensor | None = None
    _size: tuple[int, int] = (0, 0)

    def begin(self) -> None:
        """Training begins, or goes on after something else."""
        self.sparsity, self._size = self.masked_fraction(), self._thinned()
        self._log_since, self._items_before = time.monotonic(), self.session.running.items

    def count(self, sums: Tensor, items: int) -> None:
        """What a step adds to the running totals, as numbers on its device, and its items; penalties are no part of a loss here."""
        totals, steps, seen = self.session.running
        exact = sums.detach().double()  # sums of float32 numbers are exact in it: the log does not tell where a run was resumed
        self._sums = exact if self._sums is None else self._sums + exact
        self.session.running = Running(totals, steps + 1, seen + items)

    def report(self) -> None:
        """One line of the log: the means since the last one."""
        running = self._settle()
        if not running.steps:
            return
        now = time.monotonic()
        clock = self.session.scheduler.clock
        self.sparsity = self.masked_fraction()
        rate = (running.items - self._items_before) / max(now - self._log_since, 1e-9)
        values = self._shown(self.reports.measured(running), rate)
        self.log.metrics("train", values, epoch=clock.epoch, step=clock.step)
        if self.session.options.log_gradients:
            self.log.gradients(self.session.scheduler.state.parameters, step=clock.step)
        self.progress.show(self.told(values))
        self.session.running, self._log_since, self._items_before = Running((0.0,) * len(running.totals)), now, 0

    def evaluated(self, split: str, values: Mapping[str, float], rate: float, epoch: int, model: nn.Module | None = None) -> None:
        """Log an evaluation, of so many items a second, and, of the model in training, the sparsity of every pruned tensor then.

        Of another ``model``, such as an earlier one that is tested, what is zero counts.
        """
        scheduler = self.session.scheduler
        step = scheduler.clock.step
        self.sparsity = self.masked_fraction() if model is None else _zeros(model, scheduler.masks)
        self.log.metrics(split, self._shown(values, rate), epoch=epoch, step=step)
        if model is None:
            self.log.sparsity(sparsity_rows(scheduler.state.parameters, scheduler.masks), epoch=epoch, step=step)

    def told(self, values: Mapping[str, float]) -> dict[str, float]:
        """The numbers for the terminal: without the sparsity where nothing is pruned."""
        scheduler = self.session.scheduler
        prunes = len(scheduler.masks) or not all(isinstance(action, LearningRate) for _, action in scheduler.schedule)
        return {name: value for name, value in values.items() if prunes or name != "sparsity"}

    def tell_thinning(self) -> None:
        """Say so when this step began with a thinning."""
        if len(self.session.scheduler.recipes) == self._size[0]:
            return
        before, self._size = self._size[1], self._thinned()
        clock = self.session.scheduler.clock
        self.tell(f"epoch {clock.epoch + 1}, step {clock.minibatch}: thinned from {before:,} to {self._size[1]:,} weights")

    def tell(self, text: str) -> None:
        """Say something on the terminal and in the log."""
        self.progress.say(text)
        self.log.say(text)

    def save(self, name: str) -> None:
        """Write a checkpoint into the run folder."""
        self.settle()
        self.session.save(self.folder / name)

    def settle(self) -> None:
        """Have the session hold all that a checkpoint must."""
        self._settle()
        self.session.seconds = self._seconds()
        self._since = time.monotonic()

    def record(self, model: nn.Module | None = None, values: Mapping[str, float] | None = None, finished: bool = False) -> dict[str, Any]:
        """Write what is known of the run to ``run.json``, from its begin on; gives what stands in it. The model is by default the one in training."""
        session, options = self.session, self.session.options
        model = session.scheduler.state.model if model is None else model
        named = weights(named_parameters(model).values())
        total = sum(entry.parameter.numel() for entry in named)
        nonzeros = sum(nonzero_groups(entry.parameter.detach()) for entry in named)
        known = {
            "application": self.reports.application,
            "command": options.command,
            **self.reports.about(session, model),
            "weights": total,
            "nonzeros": nonzeros,
            "sparsity": 1 - nonzeros / total,
            **self.reports.results(session, values),
            "finished": finished,
            "seconds": round(self._seconds(), 1),
            "schedule": options.compress,
            "data": options.data,
            "device": device_name(session.device),
            "versions": {"limbeck": installed_version(), "torch": torch.__version__, "python": platform.python_version()},
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(self.folder / "run.json", known)
        return known

    def kept(self) -> int:
        """How many weights the masks keep."""
        return sum(int(keep.count_nonzero()) for _, keep in self.session.scheduler.masks.items())

    def masked_fraction(self) -> float:
        """The fraction of all weights that the masks drop."""
        state = self.session.scheduler.state
        total = sum(named.parameter.numel() for named in weights(state.parameters.values()))
        masked = sum(keep.numel() for _, keep in state.masks.items())
        return (masked - self.kept()) / total if total else 0.0

    def _settle(self) -> Running:
        """Bring what is still on the device into the running totals."""
        totals, steps, items = self.session.running
        if self._sums is not None:
            fresh, self._sums = self._sums.reshape(-1).tolist(), None
            totals = tuple(total + more for total, more in zip(totals, fresh, strict=True))
        self.session.running = Running(totals, steps, items)
        return self.session.running

    def _thinned(self) -> tuple[int, int]:
        """How many thinnings there were, and how many weights there are."""
        scheduler = self.session.scheduler
        return len(scheduler.recipes), sum(named.parameter.numel() for named in weights(scheduler.state.parameters.values()))

    def _seconds(self) -> float:
        return self.session.seconds + time.monotonic() - self._since

    def _shown(self, measures: Mapping[str, float], rate: float) -> dict[str, float]:
        rate_now = float(self.session.optimizer.param_groups[0]["lr"]) if self.learning_rate is None else self.learning_rate
        return {**measures, "learning_rate": rate_now, "sparsity": self.sparsity, self.reports.rate: rate}


def _zeros(model: nn.Module, pruned: Iterable[str]) -> float:
    """The fraction of all weights that are zero and of a pruned parameter."""
    parameters = named_parameters(model)
    total = sum(named.parameter.numel() for named in weights(parameters.values()))
    tensors = [parameters[name].parameter.detach() for name in pruned]
    return sum(tensor.numel() - nonzero_groups(tensor) for tensor in tensors) / total if total else 0.0

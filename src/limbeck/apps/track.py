"""What happens around the steps of a run, in every application: logs, checkpoints, the best model, the record at the end."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from limbeck._version import installed_version
from limbeck.apps.log import RunLog, describe, sparsity_rows
from limbeck.apps.loop import Interrupt, device_name, write_json
from limbeck.apps.progress import Progress
from limbeck.names import named_parameters
from limbeck.scheduler import Scheduler
from limbeck.stats import nonzero_groups, weights


@dataclass
class Best:
    """The best validation so far: what was measured (lower is better), its epoch, how many weights the masks kept, how often it was thinned."""

    measure: float = float("inf")
    epoch: int = -1
    kept: int = -1
    thinned: int = 0


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
    def epochs(self) -> int:
        """How many epochs the run has."""

    @property
    def compress(self) -> str | None:
        """The schedule file."""

    @property
    def save(self) -> str | None:
        """The run folder."""

    @property
    def save_every(self) -> int:
        """Steps between checkpoints; 0, one after each epoch."""

    @property
    def log_interval(self) -> int:
        """Steps between lines of the log."""

    @property
    def log_gradients(self) -> bool:
        """Whether TensorBoard gets the gradients."""


class Session(Protocol):
    """What every run consists of."""

    best: Best
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
    results: Callable[[Best, Mapping[str, float] | None], dict[str, Any]]
    """The part that says what came out; None until the model is tested."""


@dataclass
class Tracker(Generic[AnySession]):
    """Watches one run and keeps its folder; the training loop tells it what happened."""

    reports: Reports[AnySession]
    session: AnySession
    folder: Path
    log: RunLog
    progress: Progress
    interrupt: Interrupt
    stopped: bool = False
    _since: float = field(default_factory=time.monotonic)
    _log_since: float = field(default_factory=time.monotonic)
    _items_before: int = 0  # of the running sum, those that an earlier process trained on
    _sums: Tensor | None = None
    _measure: float = float("nan")
    _sparsity: float = 0.0
    _size: tuple[int, int] = (0, 0)

    def begin_epoch(self, epoch: int) -> None:
        """An epoch begins, or a resumed one goes on."""
        options = self.session.options
        self._sparsity, self._size = self._masked_fraction(), self._thinned()
        done = self.session.scheduler.clock.minibatch
        self.progress.begin(f"epoch {epoch + 1}/{options.epochs}", total=len(self.session.train), done=done)
        self._log_since, self._items_before = time.monotonic(), self.session.running.items

    def count(self, sums: Tensor, items: int) -> None:
        """What a step adds to the running totals, as numbers on its device, and its items; penalties are no part of a loss here."""
        totals, steps, seen = self.session.running
        exact = sums.detach().double()  # sums of float32 numbers are exact in it: the log does not tell where a run was resumed
        self._sums = exact if self._sums is None else self._sums + exact
        self.session.running = Running(totals, steps + 1, seen + items)

    def after_step(self) -> None:
        """A step is complete: report, save, stop if asked to."""
        options, clock = self.session.options, self.session.scheduler.clock
        self.progress.advance()
        self._tell_thinning()
        if clock.minibatch % options.log_interval == 0 or clock.minibatch == len(self.session.train):
            self._report()
        if self.interrupt.asked or (options.save_every and clock.step % options.save_every == 0):
            self._save("last")
            self.stopped = self.interrupt.asked

    def end_epoch(self, epoch: int, split: str, values: Mapping[str, float], rate: float, measure: float | None) -> None:
        """An epoch's evaluation is done, of so many items a second: log it; by ``measure``, lower is better, models are compared.

        With None every newer model counts as better: nothing was held out to tell.
        """
        session = self.session
        self._measure = float("-inf") if measure is None else measure
        self._sparsity = self._masked_fraction()
        step = session.scheduler.clock.step
        self.log.metrics(split, self._shown(values, rate), epoch=epoch, step=step)
        rows = sparsity_rows(session.scheduler.state.parameters, session.scheduler.masks)
        self.log.sparsity(rows, epoch=epoch, step=step)
        self.progress.say(f"epoch {epoch + 1}: {split} {describe({**values, 'sparsity': self._sparsity})}")

    def after_epoch(self) -> None:
        """An epoch is complete: keep ``last``, and ``best`` if it is. While masks or shapes still change, the newest model counts as the best."""
        session = self.session
        kept, thinned = self._kept(), len(session.scheduler.recipes)
        unlike = (kept, thinned) != (session.best.kept, session.best.thinned)
        if unlike or self._measure < session.best.measure or self._measure == float("-inf"):
            session.best = Best(self._measure, session.scheduler.clock.epoch - 1, kept, thinned)
            self._save("best")
        self._save("last")
        self.record()
        self.stopped = self.stopped or self.interrupt.asked

    def finish(self, model: nn.Module, values: Mapping[str, float], finished: bool) -> dict[str, Any]:
        """Log the test of a model and write ``run.json``; gives what stands in it."""
        clock = self.session.scheduler.clock
        record = self.record(model, values, finished)
        shown = {**values, "sparsity": record["sparsity"]}
        self.log.metrics("test", shown, epoch=clock.epoch - 1 if finished else clock.epoch, step=clock.step)
        return record

    def record(self, model: nn.Module | None = None, values: Mapping[str, float] | None = None, finished: bool = False) -> dict[str, Any]:
        """Write what is known of the run to ``run.json``, from its begin on; gives what stands in it. The model is by default the one in training."""
        session, options, best = self.session, self.session.options, self.session.best
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
            **self.reports.results(best, values),
            "best_epoch": best.epoch if best.epoch >= 0 else None,
            "epochs": options.epochs,
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

    def _thinned(self) -> tuple[int, int]:
        """How many thinnings there were, and how many weights there are."""
        scheduler = self.session.scheduler
        return len(scheduler.recipes), sum(named.parameter.numel() for named in weights(scheduler.state.parameters.values()))

    def _tell_thinning(self) -> None:
        """Say so when this step began with a thinning."""
        if len(self.session.scheduler.recipes) == self._size[0]:
            return
        before, self._size = self._size[1], self._thinned()
        clock = self.session.scheduler.clock
        text = f"epoch {clock.epoch + 1}, step {clock.minibatch}: thinned from {before:,} to {self._size[1]:,} weights"
        self.progress.say(text)
        self.log.say(text)

    def _report(self) -> None:
        """One line of the log: the means since the last one."""
        running = self._settle()
        if not running.steps:
            return
        now = time.monotonic()
        clock = self.session.scheduler.clock
        self._sparsity = self._masked_fraction()
        rate = (running.items - self._items_before) / max(now - self._log_since, 1e-9)
        values = self._shown(self.reports.measured(running), rate)
        self.log.metrics("train", values, epoch=clock.epoch, step=clock.step)
        if self.session.options.log_gradients:
            self.log.gradients(self.session.scheduler.state.parameters, step=clock.step)
        self.progress.show(values)
        self.session.running, self._log_since, self._items_before = Running((0.0,) * len(running.totals)), now, 0

    def _settle(self) -> Running:
        """Bring what is still on the device into the running totals."""
        totals, steps, items = self.session.running
        if self._sums is not None:
            fresh, self._sums = self._sums.reshape(-1).tolist(), None
            totals = tuple(total + more for total, more in zip(totals, fresh, strict=True))
        self.session.running = Running(totals, steps, items)
        return self.session.running

    def _save(self, name: str) -> None:
        self._settle()
        self.session.seconds = self._seconds()
        self._since = time.monotonic()
        self.session.save(self.folder / name)

    def _seconds(self) -> float:
        return self.session.seconds + time.monotonic() - self._since

    def _shown(self, measures: Mapping[str, float], rate: float) -> dict[str, float]:
        learning_rate = float(self.session.optimizer.param_groups[0]["lr"])
        return {**measures, "learning_rate": learning_rate, "sparsity": self._sparsity, self.reports.rate: rate}

    def _kept(self) -> int:
        return sum(int(keep.count_nonzero()) for _, keep in self.session.scheduler.masks.items())

    def _masked_fraction(self) -> float:
        state = self.session.scheduler.state
        total = sum(named.parameter.numel() for named in weights(state.parameters.values()))
        masked = sum(keep.numel() for _, keep in state.masks.items())
        return (masked - self._kept()) / total if total else 0.0

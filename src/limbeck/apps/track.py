"""What happens around the epochs of a run that is validated after each: reports, checkpoints, the best model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor, nn

from limbeck.apps import record
from limbeck.apps.log import RunLog, describe
from limbeck.apps.loop import Interrupt
from limbeck.apps.progress import Progress
from limbeck.apps.record import Recorder, Reports


@dataclass
class Best:
    """The best validation so far: what was measured (lower is better), its epoch, how many weights the masks kept, how often it was thinned."""

    measure: float = float("inf")
    epoch: int = -1
    kept: int = -1
    thinned: int = 0


class Options(record.Options, Protocol):
    """The options of a training that counts epochs."""

    @property
    def epochs(self) -> int:
        """How many epochs the run has."""

    @property
    def save_every(self) -> int:
        """Steps between checkpoints; 0, one after each epoch."""

    @property
    def log_interval(self) -> int:
        """Steps between lines of the log."""


class Session(record.Session, Protocol):
    """What a run consists of that is validated after each epoch."""

    best: Best

    @property
    def options(self) -> Options:
        """What was asked for."""


AnySession = TypeVar("AnySession", bound=Session)


def by_epoch(session: Session) -> dict[str, Any]:
    """What ``run.json`` says of the epochs of a run."""
    return {"best_epoch": session.best.epoch if session.best.epoch >= 0 else None, "epochs": session.options.epochs}


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
    _measure: float = float("nan")
    _recorder: Recorder[AnySession] = field(init=False)

    def __post_init__(self) -> None:
        self._recorder = Recorder(self.reports, self.session, self.folder, self.log, self.progress)

    def begin_epoch(self, epoch: int) -> None:
        """An epoch begins, or a resumed one goes on."""
        done = self.session.scheduler.clock.minibatch
        self.progress.begin(f"epoch {epoch + 1}/{self.session.options.epochs}", total=len(self.session.train), done=done)
        self._recorder.begin()

    def count(self, sums: Tensor, items: int) -> None:
        """What a step adds to the running totals, as numbers on its device, and its items; penalties are no part of a loss here."""
        self._recorder.count(sums, items)

    def after_step(self) -> None:
        """A step is complete: report, save, stop if asked to."""
        options, clock = self.session.options, self.session.scheduler.clock
        self.progress.advance()
        self._recorder.tell_thinning()
        if clock.minibatch % options.log_interval == 0 or clock.minibatch == len(self.session.train):
            self._recorder.report()
        if self.interrupt.asked or (options.save_every and clock.step % options.save_every == 0):
            self._recorder.save("last")
            self.stopped = self.interrupt.asked

    def end_epoch(self, epoch: int, split: str, values: Mapping[str, float], rate: float, measure: float | None) -> None:
        """An epoch's evaluation is done, of so many items a second: log it; by ``measure``, lower is better, models are compared.

        With None every newer model counts as better: nothing was held out to tell.
        """
        self._measure = float("-inf") if measure is None else measure
        self._recorder.evaluated(split, values, rate, epoch)
        self.progress.say(f"epoch {epoch + 1}: {split} {describe(self._recorder.told({**values, 'sparsity': self._recorder.sparsity}))}")

    def after_epoch(self) -> None:
        """An epoch is complete: keep ``last``, and ``best`` if it is. While masks or shapes still change, the newest model counts as the best."""
        session = self.session
        kept, thinned = self._recorder.kept(), len(session.scheduler.recipes)
        unlike = (kept, thinned) != (session.best.kept, session.best.thinned)
        if unlike or self._measure < session.best.measure or self._measure == float("-inf"):
            session.best = Best(self._measure, session.scheduler.clock.epoch - 1, kept, thinned)
            self._recorder.save("best")
        self._recorder.save("last")
        self.record()
        self.stopped = self.stopped or self.interrupt.asked

    def finish(self, model: nn.Module, values: Mapping[str, float], finished: bool) -> dict[str, Any]:
        """Log the test of a model and write ``run.json``; gives what stands in it."""
        clock = self.session.scheduler.clock
        known = self._recorder.record(model, values, finished)
        shown = {**values, "sparsity": known["sparsity"]}
        self.log.metrics("test", shown, epoch=clock.epoch - 1 if finished else clock.epoch, step=clock.step)
        return known

    def record(self) -> dict[str, Any]:
        """Write what is known of the run to ``run.json``, from its begin on; gives what stands in it."""
        return self._recorder.record()

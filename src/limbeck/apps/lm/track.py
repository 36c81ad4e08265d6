"""What happens around the steps of a run: logs, checkpoints, the best model, the record at the end."""

from __future__ import annotations

import math
import platform
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck._version import installed_version
from limbeck.apps.lm.session import Best, Session
from limbeck.apps.log import RunLog, sparsity_rows
from limbeck.apps.loop import Interrupt, device_name, write_json
from limbeck.apps.progress import Progress
from limbeck.stats import nonzero_groups, weights


def perplexity(loss: float) -> float:
    """``exp(loss)``; infinite where that overflows.

    >>> perplexity(0.0), perplexity(1000.0), perplexity(math.nan)
    (1.0, inf, nan)
    """
    return math.inf if loss >= 700 else math.exp(loss)


@dataclass
class Tracker:
    """Watches one run and keeps its folder; the training loop tells it what happened."""

    session: Session
    folder: Path
    log: RunLog
    progress: Progress
    interrupt: Interrupt
    stopped: bool = False
    _since: float = field(default_factory=time.monotonic)
    _log_since: float = field(default_factory=time.monotonic)
    _tokens_before: int = 0  # of the running sum, those that an earlier process trained on
    _loss: Tensor | None = None
    _epoch_loss: float = float("nan")
    _sparsity: float = 0.0

    def begin_epoch(self, epoch: int) -> None:
        """An epoch begins, or a resumed one goes on."""
        options = self.session.options
        self._sparsity = self._masked_fraction()
        done = self.session.scheduler.clock.minibatch
        self.progress.begin(f"epoch {epoch + 1}/{options.epochs}", total=len(self.session.train), done=done)
        self._log_since, self._tokens_before = time.monotonic(), self.session.running[2]

    def count(self, loss: Tensor, tokens: int) -> None:
        """A step's loss, in nats a word, before penalties."""
        total, steps, seen = self.session.running
        exact = loss.detach().double()  # sums of float32 numbers are exact in it: the log does not tell where a run was resumed
        self._loss = exact if self._loss is None else self._loss + exact
        self.session.running = (total, steps + 1, seen + tokens)

    def after_step(self) -> None:
        """A step is complete: report, save, stop if asked to."""
        options, clock = self.session.options, self.session.scheduler.clock
        self.progress.advance()
        if clock.minibatch % options.log_interval == 0 or clock.minibatch == len(self.session.train):
            self._report()
        if self.interrupt.asked or (options.save_every and clock.step % options.save_every == 0):
            self._save("last")
            self.stopped = self.interrupt.asked

    def end_epoch(self, epoch: int, valid_loss: float, valid_tokens: int, seconds: float) -> None:
        """An epoch's validation is done: log it and note whether the model is the best so far."""
        session = self.session
        self._epoch_loss, self._sparsity = valid_loss, self._masked_fraction()
        values = {
            "loss": valid_loss, "perplexity": perplexity(valid_loss), "learning_rate": self._learning_rate(),
            "sparsity": self._sparsity, "tokens_per_second": valid_tokens / seconds,
        }  # fmt: skip
        step = session.scheduler.clock.step
        self.log.metrics("validation", values, epoch=epoch, step=step)
        rows = sparsity_rows(session.scheduler.state.parameters, session.scheduler.masks)
        self.log.sparsity(rows, epoch=epoch, step=step)
        self.progress.say(
            f"epoch {epoch + 1}: validation loss {valid_loss:.3f}, perplexity {perplexity(valid_loss):.2f}, sparsity {self._sparsity:.2%}"
        )

    def after_epoch(self) -> None:
        """An epoch is complete: keep ``last``, and ``best`` if it is. While masks still change, the newest model counts as the best."""
        session = self.session
        session.hidden = None
        kept = self._kept()
        better = self._epoch_loss < session.best.loss or kept != session.best.kept
        if better:
            session.best = Best(self._epoch_loss, session.scheduler.clock.epoch - 1, kept)
            self._save("best")
        self._save("last")
        self.record()
        self.stopped = self.stopped or self.interrupt.asked

    def finish(self, test_loss: float, finished: bool) -> dict[str, Any]:
        """Log the test and write ``run.json``; gives what stands in it. The model is the one that was tested."""
        clock = self.session.scheduler.clock
        record = self.record(test_loss, finished)
        values = {"loss": test_loss, "perplexity": perplexity(test_loss), "sparsity": record["sparsity"]}
        self.log.metrics("test", values, epoch=clock.epoch - 1 if finished else clock.epoch, step=clock.step)
        return record

    def record(self, test_loss: float | None = None, finished: bool = False) -> dict[str, Any]:
        """Write what is known of the run to ``run.json``, from its begin on; gives what stands in it."""
        session, options, best = self.session, self.session.options, self.session.best
        named = weights(session.scheduler.state.parameters.values())
        total = sum(entry.parameter.numel() for entry in named)
        nonzeros = sum(nonzero_groups(entry.parameter.detach()) for entry in named)
        shape = {key: getattr(options, key) for key in ("emsize", "nhid", "nlayers", "tied", "dropout")}
        known = {
            "application": "lm",
            "command": options.command,
            "type": options.type,
            "model": {"cell": options.model, **shape, "vocabulary": len(session.corpus.words)},
            "weights": total,
            "nonzeros": nonzeros,
            "sparsity": 1 - nonzeros / total,
            "validation_perplexity": perplexity(best.loss) if best.epoch >= 0 else None,
            "test_perplexity": None if test_loss is None else perplexity(test_loss),
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

    def _report(self) -> None:
        """One line of the log: the mean over the steps since the last one."""
        total, steps, tokens = self._settle()
        if not steps:
            return
        now = time.monotonic()
        clock, loss = self.session.scheduler.clock, total / steps
        self._sparsity = self._masked_fraction()
        values = {
            "loss": loss, "perplexity": perplexity(loss), "learning_rate": self._learning_rate(),
            "sparsity": self._sparsity, "tokens_per_second": (tokens - self._tokens_before) / max(now - self._log_since, 1e-9),
        }  # fmt: skip
        self.log.metrics("train", values, epoch=clock.epoch, step=clock.step)
        if self.session.options.log_gradients:
            self.log.gradients(self.session.scheduler.state.parameters, step=clock.step)
        self.progress.show(values)
        self.session.running, self._log_since, self._tokens_before = (0.0, 0, 0), now, 0

    def _settle(self) -> tuple[float, int, int]:
        """Bring the loss that is still on the device into the running sum."""
        total, steps, tokens = self.session.running
        if self._loss is not None:
            total, self._loss = total + self._loss.item(), None
        self.session.running = (total, steps, tokens)
        return self.session.running

    def _save(self, name: str) -> None:
        self._settle()
        self.session.seconds = self._seconds()
        self._since = time.monotonic()
        self.session.save(self.folder / name)

    def _seconds(self) -> float:
        return self.session.seconds + time.monotonic() - self._since

    def _learning_rate(self) -> float:
        return float(self.session.optimizer.param_groups[0]["lr"])

    def _kept(self) -> int:
        return sum(int(keep.count_nonzero()) for _, keep in self.session.scheduler.masks.items())

    def _masked_fraction(self) -> float:
        state = self.session.scheduler.state
        total = sum(named.parameter.numel() for named in weights(state.parameters.values()))
        masked = sum(keep.numel() for _, keep in state.masks.items())
        return (masked - self._kept()) / total if total else 0.0

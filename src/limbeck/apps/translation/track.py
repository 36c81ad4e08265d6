"""What happens around the steps of a translation run: reports, checkpoints, the record at the end."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from limbeck.apps.checkpoint import is_checkpoint
from limbeck.apps.log import RunLog, describe, metric_columns, perplexity
from limbeck.apps.loop import Interrupt
from limbeck.apps.progress import Progress
from limbeck.apps.record import Recorder, Reports, Running
from limbeck.apps.translation.prepare import APPLICATION
from limbeck.apps.translation.pruning import target_of
from limbeck.apps.translation.session import Session
from limbeck.apps.translation.validate import PostponedError, Validation

COLUMNS = metric_columns(["perplexity", "bleu", "tokenised_bleu"], "tokens_per_second")
"""``loss`` is with label smoothing in training, and without in validations; BLEU in percent."""
SPLITS = ("train", "validation", "average")
"""What the log says of a run while it goes on; the rest are its tests, at the end."""
BEST, AVERAGE, LAST = "best", "best_avg", "last"


def measures(running: Running) -> dict[str, float]:
    """The loss with label smoothing, and the perplexity without, a target token.

    >>> measures(Running((6.0, 0.0), steps=2, items=4))
    {'loss': 1.5, 'perplexity': 1.0}
    """
    loss, nll = running.totals
    return {"loss": loss / running.items, "perplexity": perplexity(nll / running.items)}


def _about(session: Session, model: nn.Module) -> dict[str, Any]:
    vocabularies = session.vocabularies
    return {
        "type": session.options.type,
        "model": {
            **asdict(session.options.sizes),
            "source_vocabulary": vocabularies.source.size,
            "target_vocabulary": vocabularies.target.size,
        },
        "languages": [session.corpus.source, session.corpus.target],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "thinnings": len(session.scheduler.recipes),
        "target_sparsity": session.options.target_sparsity or target_of(session.scheduler),
    }


def _results(session: Session, tested: Mapping[str, float] | None) -> dict[str, Any]:
    best, averaged = session.ranking.best, session.averaged
    own = {} if averaged is None else dict(zip(averaged.steps, averaged.bleus, strict=False))  # early versions saved no bleus
    signatures = () if averaged is None else averaged.signatures
    return {
        "best_step": None if best is None else best.step,
        "best_bleu": None if best is None else best.score,
        "averaged_steps": [] if averaged is None else sorted(averaged.steps),
        "averaged_bleus": [own[step] for step in sorted(own)],
        "validation_bleu": None if averaged is None else averaged.bleu,
        "validation_tokenised_bleu": None if averaged is None else averaged.tokenised,
        "tests": {
            name: {"bleu": found.scores.detokenised, "tokenised_bleu": found.scores.tokenised, "loss": found.loss}
            for name, found in session.tested.items()
        },
        "signatures": dict(zip(("bleu", "tokenised_bleu"), signatures, strict=True)) if signatures else None,
        "steps": session.scheduler.clock.step,
        "train_steps": session.options.train_steps,
        "initial_global_step": session.options.initial_global_step,
    }


REPORTS = Reports(APPLICATION, "tokens_per_second", measures, _about, _results)


@dataclass
class Tracker:
    """Watches one run and keeps its folder; the training loop tells it what happened."""

    session: Session
    folder: Path
    log: RunLog
    progress: Progress
    interrupt: Interrupt
    stopped: bool = False
    recorder: Recorder[Session] = field(init=False)

    def __post_init__(self) -> None:
        self.recorder = Recorder(REPORTS, self.session, self.folder, self.log, self.progress)
        self.recorder.learning_rate = self.session.learning_rate

    @property
    def over(self) -> bool:
        """Whether the last step is done, or none is to follow a long wait for a better validation."""
        options = self.session.options
        waited = 0 < options.eval_estop_patience <= self.session.waited
        return waited or self.session.scheduler.clock.step >= options.train_steps

    def begin(self) -> None:
        """Training begins, or goes on after a validation."""
        clock = self.session.scheduler.clock
        self.progress.begin("training", total=self.session.options.train_steps, done=clock.step)
        self.recorder.begin()

    def count(self, sums: Tensor, tokens: int) -> None:
        """What a step adds to the running totals, and its target tokens."""
        self.recorder.count(sums, tokens)
        self.session.learning_rate = self.recorder.learning_rate = float(self.session.optimizer.param_groups[0]["lr"])

    def after_step(self) -> bool:
        """A step is complete: report it; gives whether a validation is due."""
        options, step = self.session.options, self.session.global_step
        self.progress.advance()
        self.recorder.tell_thinning()
        if self.over or self.session.scheduler.clock.step % options.summary_steps == 0:
            self.recorder.report()
        return self.over or (step % options.eval_steps == 0 and step >= options.eval_start_at)

    def before_batch(self) -> None:
        """A batch of a validation is to come; raises ``PostponedError`` where the process is asked to end at once."""
        if self.interrupt.hurried:
            raise PostponedError

    def evaluated(self, split: str, found: Validation, model: nn.Module | None = None, what: str = "") -> None:
        """Log what came of a split, of the model in training or of the one that is given, which may be called something else."""
        clock = self.session.scheduler.clock
        self.recorder.evaluated(split, found.measures, found.tokens_per_second, clock.epoch, model)
        numbers = describe(self.recorder.told({**found.measures, "sparsity": self.recorder.sparsity}))
        self.progress.say(f"{what or f'step {self.session.global_step}'}: {split} {numbers}")

    def keep(self, validated: bool) -> None:
        """Write the checkpoints that are due after a step, and drop those that are too many; a checkpoint is dropped when no other names it."""
        options, step, asked = self.session.options, self.session.global_step, self.interrupt.asked
        numbered = step % options.save_checkpoint_steps == 0
        if numbered:
            self.recorder.save(name_of(step))
        if numbered or validated or asked:
            self.recorder.save(LAST)
            drop(self.folder / BEST, keep=self.session.ranking.steps)
            drop(self.folder, keep=sorted(steps_in(self.folder))[-options.checkpoints_max_to_keep :])
        if validated:
            self.recorder.record()
        self.stopped = asked or self.over

    def finish(self, model: nn.Module | None, finished: bool) -> dict[str, Any]:
        """Write ``run.json`` of a model, by default the one in training; gives what stands in it."""
        return self.recorder.record(model, finished=finished)


def of_steps(steps: Sequence[int]) -> str:
    """What an average is one of.

    >>> of_steps([60, 30]), of_steps([30]), of_steps([])
    ('the average of the steps 30, 60', 'the checkpoint of step 30', '')
    """
    told = ", ".join(map(str, sorted(steps)))
    return f"the {'average of the steps' if len(steps) > 1 else 'checkpoint of step'} {told}" if steps else ""


def name_of(step: int) -> str:
    """The folder of a checkpoint of a step, as NeurST calls it."""
    return f"ckpt-{step}"


def steps_in(folder: Path) -> dict[int, Path]:
    """The numbered checkpoints of a folder, by step."""
    found = {path.name.removeprefix("ckpt-"): path for path in folder.glob("ckpt-*") if is_checkpoint(path)}
    return {int(number): path for number, path in found.items() if number.isdecimal()}


def drop(folder: Path, keep: Mapping[int, Any] | tuple[int, ...] | list[int]) -> None:
    """Remove the numbered checkpoints of a folder but for some steps."""
    for step, path in steps_in(folder).items():
        if step not in keep:
            shutil.rmtree(path)

"""A training of a translation model from its options or from a checkpoint: pairs, subwords, model, optimizer, scheduler, and what a resumed run needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from limbeck.apps.best import Ranking
from limbeck.apps.checkpoint import Checkpoint, save_checkpoint, step_of
from limbeck.apps.loop import choose_device
from limbeck.apps.record import Running
from limbeck.apps.rng import rng_state, set_rng_state
from limbeck.apps.run import Network, choose_precision, open_checkpoint, scheduled
from limbeck.apps.translation.averaged import Averaged
from limbeck.apps.translation.batches import Examples
from limbeck.apps.translation.cycles import Cycles
from limbeck.apps.translation.data import Corpus
from limbeck.apps.translation.model import Transformer, build_model
from limbeck.apps.translation.options import PRUNING_FIELDS, TrainOptions
from limbeck.apps.translation.prepare import (
    APPLICATION,
    corpus_of_run,
    examples_of,
    prepared,
    saved_vocabularies,
    training_cycles,
    training_examples,
)
from limbeck.apps.translation.pruning import Choice, choices, steps
from limbeck.apps.translation.subwords import Vocabularies
from limbeck.apps.translation.validate import Validation
from limbeck.apps.weights import load_weights
from limbeck.config.load import Source
from limbeck.config.write import schedule_text
from limbeck.errors import CheckpointError, LimbeckError
from limbeck.scheduler import Scheduler
from limbeck.schedules import Window
from limbeck.training import LearningRate

EXAMPLE_LENGTHS = (3, 4)


@dataclass
class Session:
    """Everything that a run consists of."""

    options: TrainOptions
    corpus: Corpus
    vocabularies: Vocabularies
    device: torch.device
    model: Transformer
    optimizer: Optimizer
    scheduler: Scheduler
    train: Cycles
    valid: Examples
    chosen: Mapping[str, Choice] | None = None
    """Of every parameter whether the options prune it, and why; None where a schedule file does it, or nothing."""
    amp: bool = False
    notes: list[str] = field(default_factory=list)
    ranking: Ranking = field(default_factory=lambda: Ranking(1))
    averaged: Averaged | None = None
    tested: dict[str, Validation] = field(default_factory=dict)
    """What came of the tests, by their names."""
    waited: int = 0
    """Validations since the best one, once the schedule has nothing to do any more."""
    pending: bool = False
    """Whether the validation of the last step is still to be done, for which the process was not given the time."""
    learning_rate: float | None = None
    """That of the last step; None before the first."""
    seconds: float = 0.0
    running: Running = field(default_factory=lambda: Running((0.0, 0.0)))
    """Sums of losses, with label smoothing and without, steps and target tokens since the last log line."""

    @property
    def epochs(self) -> int:
        """How many epochs the run begins."""
        return -(-self.options.train_steps // len(self.train))

    @property
    def global_step(self) -> int:
        """What the steps that are done are called, those before this run included."""
        return self.options.global_step(self.scheduler.clock.step)

    @property
    def prunes_on(self) -> bool:
        """Whether the last firing of a policy is to come, or the first one of many; learning rates do not count."""
        clock, unlike = self.scheduler.clock, (window for window, action in self.scheduler.schedule if not isinstance(action, LearningRate))
        return any(
            (window.begin if window.last is None else window.last) >= clock.read(window.unit) + (window.unit == "epoch")
            for window in unlike
        )

    def snapshot(self) -> dict[str, Any]:
        """What a checkpoint says of a model that is to be translated with: its masks too, but nothing to train on with."""
        return {
            "application": APPLICATION,
            "options": asdict(self.options),
            "languages": [self.corpus.source, self.corpus.target],
            "subwords": [self.vocabularies.source.tensor(), self.vocabularies.target.tensor()],
            "scheduler": self.scheduler.state_dict(),
        }

    def save(self, directory: Path) -> None:
        """Write a checkpoint from which ``resume`` goes on bit for bit."""
        state = {
            **self.snapshot(),
            "corpus": self.corpus.checksum,
            "optimizer": self.optimizer.state_dict(),
            "rng": rng_state(),
            "ranking": self.ranking.state,
            "averaged": None if self.averaged is None else asdict(self.averaged),
            "waited": self.waited,
            "pending": self.pending,
            "learning_rate": self.learning_rate,
            "seconds": self.seconds,
            "running": self.running.flat,
        }
        save_checkpoint(directory, self.model, state, self.scheduler.text)


def start(options: TrainOptions) -> Session:
    """A fresh run, from random weights or from those of ``--pretrain_model``, whose subwords and sizes it then has."""
    options, corpus, vocabularies = prepared(options)
    torch.manual_seed(options.seed)
    model = network(options, vocabularies)
    recipes = () if options.pretrain_model is None else load_weights(Path(options.pretrain_model), model)
    session = _assemble(options, corpus, vocabularies, model, None if options.compress is None else Path(options.compress))
    session.scheduler.inherit(recipes)
    begins = f"begins with {options.pretrain_model or 'random weights'}: {options.type}, {vocabularies.source.size:,} subwords"
    session.notes.insert(0, begins)
    if options.pretrain_model is not None and Path(options.pretrain_model).is_file():
        session.notes.insert(1, (
            f"warning: {options.pretrain_model} holds weights alone, so subwords are learnt anew: its embeddings fit them only if it was trained "
            "on the same pairs with the same --vocabulary; its run or checkpoint brings its own"
        ))  # fmt: skip
    return session


def resume(checkpoint: Checkpoint, options: TrainOptions, schedule: Path | None) -> Session:
    """The run of a checkpoint, exactly where it stood; raises ``CheckpointError`` where the pairs are not those that it was trained on."""
    saved = checkpoint.state
    if "optimizer" not in saved:
        raise CheckpointError(
            f"{checkpoint.path} holds a model to translate with, and not what a run needs to go on; resume RUN/last, or begin a run with its "
            f"weights: --pretrain_model {checkpoint.path}"
        )
    if options.train_steps < (done := step_of(checkpoint.path)):
        raise CheckpointError(
            f"--train_steps {options.train_steps}: the run has made {done} steps; ask for as many or more, or resume an older one"
        )
    corpus = corpus_of_run(checkpoint, options)
    vocabularies = saved_vocabularies(checkpoint)
    model = network(options, vocabularies)
    session = _assemble(options, corpus, vocabularies, model, schedule)
    checkpoint.restore_model(model)
    session.scheduler.load_state_dict(saved["scheduler"])
    session.optimizer.load_state_dict(saved["optimizer"])
    session.ranking = session.ranking.restored(saved["ranking"])
    kept = saved["averaged"]
    session.averaged = None if kept is None else Averaged.of(kept)
    session.waited, session.seconds, session.running = saved["waited"], saved["seconds"], Running.of(saved["running"])
    session.pending, session.learning_rate = saved.get("pending", False), saved.get("learning_rate")  # which early versions did not save
    set_rng_state(saved["rng"])
    return session


def network(options: TrainOptions, vocabularies: Vocabularies) -> Transformer:
    """A fresh model of the options' sizes; raises ``LimbeckError`` where they and the vocabularies do not go together."""
    try:
        return build_model(options.sizes, vocabularies.source.size, vocabularies.target.size)
    except ValueError as error:
        raise LimbeckError(f"--hparams_set {options.set_name}: {error}") from error


def schedule_of(options: TrainOptions, model: nn.Module) -> str | None:
    """The schedule file that the options of pruning describe, for this model; None where they prune nothing.

    Raises ``ScheduleError`` and ``TargetError`` for what they ask in vain, and ``LimbeckError`` beside ``--compress``.
    """
    if not _prunes(options):
        if options.compress is not None and (idle := _idle(options)):
            raise LimbeckError(
                f"{idle} says nothing beside --compress {options.compress}: the schedule file says what is pruned; leave it out"
            )
        return None
    if options.compress is not None:
        raise LimbeckError(
            f"--compress {options.compress} and --target_sparsity {options.target_sparsity} both prune; leave one of them out: a schedule file "
            "says all of it"
        )
    note = "From the options of limbeck translate train."
    return schedule_text(steps(options.pruning, model, options.prune_embeddings), options.train_steps, [note])


def _prunes(options: TrainOptions) -> bool:
    return bool(options.target_sparsity)


def _idle(options: TrainOptions) -> str:
    """The options of pruning that were given, where there is no sparsity to reach."""
    given = [name for name in (*PRUNING_FIELDS, "prune_embeddings") if getattr(options, name) != getattr(TrainOptions, name)]
    return ", ".join(f"--{name}" for name in given)


def _assemble(options: TrainOptions, corpus: Corpus, vocabularies: Vocabularies, model: Transformer, schedule: Path | None) -> Session:
    device, warning = choose_device(options.cuda, options.device)
    model = model.to(device)
    optimizer = AdamW(
        model.parameters(), lr=options.highest_rate, betas=(options.adam_beta1, options.adam_beta2), eps=options.adam_epsilon,
        weight_decay=options.weight_decay, fused=device.type in ("cpu", "cuda"),
    )  # fmt: skip
    examples, left_out = training_examples(options, corpus, vocabularies)
    train = training_cycles(options, examples, device)
    source: Source | None = schedule_of(options, model) or schedule
    run = Network(model, len(train), -(-options.train_steps // len(train)), options.train_steps)
    inputs = tuple(torch.full((2, length), 4, device=device) for length in EXAMPLE_LENGTHS)
    scheduler, late = scheduled(source, optimizer, run, inputs)
    amp, precision = choose_precision(device, options.amp)
    notes = [*([] if warning is None else [warning]), *corpus.notes, *vocabularies.notes, *left_out, *precision, *late]
    notes += _add_learning_rate(scheduler, options)
    if not _prunes(options) and (idle := _idle(options)):
        notes.append(f"warning: nothing is pruned: {idle} without a --target_sparsity above 0")
    return Session(
        options, corpus, vocabularies, device, model, optimizer, scheduler, train, examples_of(corpus.valid, vocabularies),
        choices(options.pruning, model, options.prune_embeddings) if _prunes(options) else None, amp, notes,
        Ranking(options.eval_top_checkpoints_to_keep),
    )  # fmt: skip


def _add_learning_rate(scheduler: Scheduler, options: TrainOptions) -> list[str]:
    """Give the run a learning rate of its own unless the schedule brings one; raises ``LimbeckError`` for options that would say nothing."""
    noam = options.lr_schedule == "noam"
    if (options.learning_rate if noam else options.lr_factor) is not None:
        idle, remedy = (
            ("learning_rate", "noam takes --lr_factor") if noam else ("lr_factor", f"{options.lr_schedule} takes --learning_rate")
        )
        raise LimbeckError(f"--{idle} says nothing with --lr_schedule {options.lr_schedule}: {remedy}")
    brought = [action.name for _, action in scheduler.schedule if isinstance(action, LearningRate)]
    if "ReduceLROnPlateau" in brought:
        raise LimbeckError("ReduceLROnPlateau watches a validation after each epoch, and here validations come by step; take another class")
    if brought:
        return [f"the schedule's learning rate ({', '.join(brought)}) replaces --lr_schedule {options.lr_schedule}"]
    if options.lr_schedule == "constant":
        return []
    warmup: dict[str, Any] = {"warmup_steps": options.warmup, "initial_step": options.initial_global_step}
    rate = (
        LearningRate("NoamLR", {"d_model": options.sizes.width, "factor": options.factor, **warmup})
        if noam
        else LearningRate("InverseSquareRootLR", warmup)
    )
    scheduler.add(Window(unit="step"), rate)
    return []


@dataclass(frozen=True)
class Trained:
    """A trained model in evaluation mode, with what a checkpoint says of it."""

    model: Transformer
    vocabularies: Vocabularies
    checkpoint: Checkpoint
    options: TrainOptions

    @property
    def languages(self) -> tuple[str, str]:
        """Source and target."""
        source, target = self.checkpoint.state["languages"]
        return source, target


def load_trained(path: Path, device: torch.device | None = None) -> Trained:
    """The model of a run folder (its average) or of a checkpoint, thinned as it was."""
    checkpoint = open_checkpoint(APPLICATION, path, "best")
    options, vocabularies = TrainOptions.of(checkpoint.state["options"]), saved_vocabularies(checkpoint)
    model = network(options, vocabularies)
    checkpoint.restore_model(model)
    return Trained(model.to(device or torch.device("cpu")).eval(), vocabularies, checkpoint, options)

"""A language-model run from its options or from a checkpoint: corpus, model, optimizer, scheduler, and what a resumed run needs of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.apps.checkpoint import Checkpoint, save_checkpoint
from limbeck.apps.lm.data import Batches, Corpus, batchify, load_corpus
from limbeck.apps.lm.model import Hidden, RNNModel
from limbeck.apps.lm.options import TrainOptions
from limbeck.apps.loop import choose_device
from limbeck.apps.record import Running
from limbeck.apps.rng import rng_state, set_rng_state
from limbeck.apps.run import build_scheduler, choose_precision, open_checkpoint
from limbeck.apps.track import Best
from limbeck.errors import CheckpointError, LimbeckError
from limbeck.scheduler import Scheduler
from limbeck.schedules import Window
from limbeck.training import LearningRate, PlateauDecay

APPLICATION = "lm"
EVALUATION_BATCH = 10


@dataclass
class Session:
    """Everything that a run consists of."""

    options: TrainOptions
    corpus: Corpus
    device: torch.device
    model: RNNModel
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    train: Batches
    valid: Batches
    test: Batches
    amp: bool = False
    notes: list[str] = field(default_factory=list)
    hidden: Hidden | None = None
    best: Best = field(default_factory=Best)
    seconds: float = 0.0
    running: Running = field(default_factory=lambda: Running((0.0,)))
    """Sum of losses, steps and tokens since the last log line."""

    def save(self, directory: Path) -> None:
        """Write a checkpoint from which ``resume`` goes on bit for bit."""
        state = {
            "application": APPLICATION,
            "options": asdict(self.options),
            "vocabulary": self.corpus.words,
            "corpus": self.corpus.checksum,
            "scheduler": self.scheduler.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": rng_state(),
            "hidden": self.hidden,
            "best": {"loss": self.best.measure, "epoch": self.best.epoch, "kept": self.best.kept, "thinned": self.best.thinned},
            "seconds": self.seconds,
            "running": self.running.flat,
        }
        save_checkpoint(directory, self.model, state, self.scheduler.text)


def build_model(options: TrainOptions, vocabulary: int) -> RNNModel:
    """The model that the options describe; raises ``LimbeckError`` for options that do not go together."""
    try:
        return RNNModel(options.model, vocabulary, options.emsize, options.nhid, options.nlayers, options.dropout, options.tied)
    except ValueError as error:
        raise LimbeckError(f"--model {options.model}: {error}") from error


def start(options: TrainOptions) -> Session:
    """A fresh run."""
    corpus = load_corpus(options.data)
    torch.manual_seed(options.seed)
    return _assemble(options, corpus, None if options.compress is None else Path(options.compress))


def resume(checkpoint: Checkpoint, options: TrainOptions, schedule: Path | None) -> Session:
    """The run of a checkpoint, exactly where it stood; raises ``CheckpointError`` where the corpus is not the one that was saved."""
    saved = checkpoint.state
    corpus = corpus_of_run(checkpoint, options.data)
    session = _assemble(options, corpus, schedule)
    checkpoint.restore_model(session.model)
    session.scheduler.load_state_dict(saved["scheduler"])
    session.optimizer.load_state_dict(saved["optimizer"])
    session.hidden = _to(saved["hidden"], session.device)
    session.best = Best(saved["best"]["loss"], saved["best"]["epoch"], saved["best"]["kept"], saved["best"].get("thinned", 0))
    session.seconds, session.running = saved["seconds"], Running.of(saved["running"])
    set_rng_state(saved["rng"])
    return session


def corpus_of_run(checkpoint: Checkpoint, data: str) -> Corpus:
    """The corpus ``data`` for a run that goes on, wherever it lies now; raises ``CheckpointError`` where it is not the one of the run."""
    corpus, saved = load_corpus(data), checkpoint.state
    if corpus.words != saved["vocabulary"]:
        raise CheckpointError(f"the corpus '{data}' has another vocabulary than the one that the run was trained on; give the same --data")
    if saved.get("corpus", corpus.checksum) != corpus.checksum:  # old checkpoints have none
        raise CheckpointError(f"the corpus '{data}' has another text than the one that the run was trained on; give the same --data")
    return corpus


def _assemble(options: TrainOptions, corpus: Corpus, schedule: Path | None) -> Session:
    device, warning = choose_device(options.cuda, options.device)
    model = build_model(options, len(corpus.words)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay)
    train = Batches(batchify(corpus.train, options.batch_size).to(device), options.bptt)
    valid, test = (Batches(batchify(split, EVALUATION_BATCH).to(device), options.bptt) for split in (corpus.valid, corpus.test))
    inputs = (torch.zeros(2, 1, dtype=torch.long, device=device),)  # two words, and no state: a state would fix the width
    scheduler, late = build_scheduler(options, schedule, model, optimizer, len(train), inputs)
    amp, precision = choose_precision(device, options.amp)
    notes = [*([] if warning is None else [warning]), *precision, *late]
    notes += _add_learning_rate(scheduler, options, options.epochs * len(train))
    return Session(options, corpus, device, model, optimizer, scheduler, train, valid, test, amp, notes)


def _add_learning_rate(scheduler: Scheduler, options: TrainOptions, total_steps: int) -> list[str]:
    """Give the run a learning rate of its own unless the schedule brings one."""
    scheduled = [action.name for _, action in scheduler.schedule if isinstance(action, LearningRate)]
    if scheduled:
        ignored = "" if options.decay is None else f"; --decay {options.decay} is ignored"
        return [f"the schedule's learning rate ({', '.join(scheduled)}) replaces the built-in plateau decay{ignored}"]
    if options.decay is not None:
        scheduler.add(Window(), LearningRate("ExponentialLR", {"gamma": options.decay}))
        return [f"the learning rate is multiplied by {options.decay} after each epoch (--decay), in place of the plateau decay"]
    scheduler.add(Window(), PlateauDecay(0.5, total_steps, options.cooldown))
    return []


def _to(hidden: Any, device: torch.device) -> Hidden | None:
    if hidden is None:
        return None
    return hidden.to(device) if isinstance(hidden, Tensor) else (hidden[0].to(device), hidden[1].to(device))


def load_trained(path: Path, device: torch.device | None = None) -> tuple[RNNModel, Checkpoint, TrainOptions]:
    """A trained model of a run folder (its best) or of a checkpoint, in evaluation mode."""
    checkpoint = open_checkpoint(APPLICATION, path, "best")
    options = TrainOptions.of(checkpoint.state["options"])
    model = build_model(options, len(checkpoint.state["vocabulary"])).to(device or torch.device("cpu"))
    checkpoint.restore_model(model)
    return model.eval(), checkpoint, options


LossFunction = Callable[[Tensor, Tensor, Hidden], tuple[Tensor, Hidden]]


def loss_function(model: RNNModel, compiled: bool) -> LossFunction:
    """The model's loss, compiled on request; parameter names stay as they are."""
    return torch.compile(model.loss) if compiled else model.loss

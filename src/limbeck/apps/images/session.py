"""A run of an image classifier from its options or from a checkpoint, and what a resumed run needs of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from limbeck.apps.checkpoint import Checkpoint, save_checkpoint
from limbeck.apps.images.batches import Batches, Split
from limbeck.apps.images.data import Images, load_images
from limbeck.apps.images.network import Forward, Shape, build_network, example, refuse_misfit, wanted_shape
from limbeck.apps.images.options import TrainOptions
from limbeck.apps.loop import choose_device
from limbeck.apps.record import Running
from limbeck.apps.rng import rng_state, set_rng_state
from limbeck.apps.run import build_scheduler, choose_precision, open_checkpoint
from limbeck.apps.track import Best
from limbeck.apps.weights import load_weights
from limbeck.errors import CheckpointError, LimbeckError
from limbeck.scheduler import Scheduler
from limbeck.schedules import Window
from limbeck.training import LearningRate

APPLICATION = "images"
EVALUATION_BATCH = 250


@dataclass
class Session:
    """Everything that a run consists of."""

    options: TrainOptions
    images: Images
    device: torch.device
    model: nn.Module
    forward: Forward
    optimizer: Optimizer
    scheduler: Scheduler
    train: Batches
    valid: Batches | None
    test: Batches
    cycle: bool = True
    """Whether the learning rate is the run's own, planned for its number of epochs."""
    amp: bool = False
    notes: list[str] = field(default_factory=list)
    best: Best = field(default_factory=Best)
    seconds: float = 0.0
    macs: dict[int, int | None] = field(default_factory=dict)
    """MACs of an image by the number of parameters: a thinning changes both."""
    running: Running = field(default_factory=lambda: Running((0.0, 0.0, 0.0)))
    """Sums of losses and of hits among one and five, steps and images since the last log line."""

    def save(self, directory: Path) -> None:
        """Write a checkpoint from which ``resume`` goes on bit for bit."""
        state = {
            "application": APPLICATION,
            "options": asdict(self.options),
            "classes": list(self.images.classes),
            "shape": list(self.images.shape),
            "images": self.images.checksum,
            "scheduler": self.scheduler.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": rng_state(),
            "best": asdict(self.best),
            "seconds": self.seconds,
            "running": self.running.flat,
        }
        save_checkpoint(directory, self.model, state, self.scheduler.text)


def start(options: TrainOptions) -> Session:
    """A fresh run, from random weights or from those of ``--weights``."""
    images = load(options)
    torch.manual_seed(options.seed)
    model = build_network(options.model, len(images.classes))
    recipes = () if options.weights is None else load_weights(Path(options.weights), model)
    session = _assemble(options, images, model, None if options.compress is None else Path(options.compress))
    session.scheduler.inherit(recipes)
    return session


def resume(checkpoint: Checkpoint, options: TrainOptions, schedule: Path | None) -> Session:
    """The run of a checkpoint, exactly where it stood; raises ``CheckpointError`` where the images are not those that were saved."""
    saved = checkpoint.state
    images = images_of_run(checkpoint, options)
    model = build_network(options.model, len(images.classes))
    session = _assemble(options, images, model, schedule)
    if session.cycle and options.epochs != (planned := saved["options"]["epochs"]):
        raise CheckpointError(
            f"the learning rate of the run was planned for {planned} epochs, not {options.epochs}; leave --epochs out to resume it, "
            f"or train on from its weights in a new run: --weights RUN --epochs {options.epochs}"
        )
    checkpoint.restore_model(model)
    session.scheduler.load_state_dict(saved["scheduler"])
    session.optimizer.load_state_dict(saved["optimizer"])
    session.best = Best(**saved["best"])
    session.seconds, session.running = saved["seconds"], Running.of(saved["running"])
    set_rng_state(saved["rng"])
    return session


def load(options: TrainOptions) -> Images:
    """The images that the options name, in the shape that their model takes."""
    return load_images(options.data, options.validation_split, options.seed, wanted_shape(options.model))


def images_of_run(checkpoint: Checkpoint, options: TrainOptions) -> Images:
    """The images for a run that goes on, wherever they lie now; raises ``CheckpointError`` where they are not those of the run."""
    images = load(options)
    if images.checksum != checkpoint.state["images"]:
        raise CheckpointError(f"the images of '{options.data}' are not those that the run was trained on; give the same --data")
    return images


def training_batches(images: Images, options: TrainOptions, device: torch.device) -> Batches:
    """The images to train on, in an order and with an augmentation that seed, epoch and step decide."""
    return Batches(images.train, options.batch_size, options.seed, augment=True, device=device, channels_last=options.channels_last)


def evaluation_batches(split: Split, device: torch.device, channels_last: bool = False) -> Batches:
    """A split in its own order, as it is."""
    return Batches(split, EVALUATION_BATCH, device=device, channels_last=channels_last)


def _assemble(options: TrainOptions, images: Images, model: nn.Module, schedule: Path | None) -> Session:
    device, warning = choose_device(options.cuda, options.device)
    model = _placed(model, device, options.channels_last)
    optimizer = SGD(
        model.parameters(), lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay, nesterov=options.momentum > 0,
        fused=device.type in ("cpu", "cuda"),
    )  # fmt: skip
    train = training_batches(images, options, device)
    valid, test = (
        None if split is None else evaluation_batches(split, device, options.channels_last) for split in (images.valid, images.test)
    )
    assert test is not None
    inputs = example(images.shape, device, options.channels_last)
    refuse_misfit(options.model, model, inputs[0], len(images.classes))
    scheduler, late = build_scheduler(options, schedule, model, optimizer, len(train), inputs)
    amp, precision = choose_precision(device, options.amp)
    notes = [*([] if warning is None else [warning]), *precision, *late]
    scheduled = [action.name for _, action in scheduler.schedule if isinstance(action, LearningRate)]
    if "ReduceLROnPlateau" in scheduled and valid is None:
        raise LimbeckError("ReduceLROnPlateau watches a validation, and there is none; hold images out for it: --validation-split 0.1")
    if scheduled:
        notes.append(f"the schedule's learning rate ({', '.join(scheduled)}) replaces the built-in cycle")
    else:
        scheduler.add(Window(unit="step"), one_cycle(options.lr, options.epochs * len(train)))
    forward = Forward(model, lambda: len(scheduler.recipes), options.compile)
    return Session(options, images, device, model, forward, optimizer, scheduler, train, valid, test, not scheduled, amp, notes)


def one_cycle(lr: float, steps: int) -> LearningRate:
    """Up to ``lr`` in a fifth of the steps, then down to nothing (Smith and Topin 2017, arXiv 1708.07120, "super-convergence")."""
    return LearningRate(
        "OneCycleLR",
        {
            "max_lr": lr, "total_steps": steps, "pct_start": 0.2, "anneal_strategy": "linear", "cycle_momentum": False,
            "div_factor": 10, "final_div_factor": 1000,
        },
    )  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """A trained network in evaluation mode, with what a checkpoint says of it."""

    model: nn.Module
    checkpoint: Checkpoint
    options: TrainOptions
    shape: Shape


def load_trained(path: Path, device: torch.device | None = None) -> Trained:
    """The network of a run folder (its best) or of a checkpoint, thinned as it was."""
    return trained(open_checkpoint(APPLICATION, path, "best"), device)


def trained(checkpoint: Checkpoint, device: torch.device | None = None) -> Trained:
    """The network of a checkpoint of this application."""
    state = checkpoint.state
    options = TrainOptions.of(state["options"])
    model = build_network(options.model, len(state["classes"]))
    checkpoint.restore_model(model)
    channels, height, width = state["shape"]
    return Trained(
        _placed(model, device or torch.device("cpu"), options.channels_last).eval(), checkpoint, options, (channels, height, width)
    )


def _placed(model: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
    return model.to(device, memory_format=torch.channels_last) if channels_last else model.to(device)  # type: ignore[call-overload]  # not annotated

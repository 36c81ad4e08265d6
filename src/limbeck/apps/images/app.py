"""What the commands of ``limbeck images`` do, with what they print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from limbeck.apps.checkpoint import Checkpoint
from limbeck.apps.images.measured import LATENCY_BATCHES, measure
from limbeck.apps.images.network import build_network, example
from limbeck.apps.images.options import FIXED, TrainOptions
from limbeck.apps.images.session import (
    APPLICATION,
    evaluation_batches,
    images_of_run,
    load,
    load_trained,
    resume,
    start,
    training_batches,
)
from limbeck.apps.images.track import COLUMNS
from limbeck.apps.images.train import evaluate, train
from limbeck.apps.log import describe
from limbeck.apps.loop import finite, has_bfloat16
from limbeck.apps.progress import Progress
from limbeck.apps.run import Network, Training, bring_best, say
from limbeck.apps.weights import load_weights
from limbeck.config import Plan
from limbeck.errors import CheckpointError, DataError
from limbeck.summaries import summarise as make_summary
from limbeck.summaries.render import show

TRAINING = Training(
    APPLICATION, COLUMNS, FIXED, start, resume, train,
    lambda record: (
        f"{record['type']}, {record['nonzeros']:,} of {record['weights']:,} weights ({record['sparsity']:.2%} sparse): "
        f"test top-1 {_shown(record['test_top1'])}, top-5 {_shown(record['test_top5'])}"
    ),
    bring_best,
)  # fmt: skip


def run_training(options: TrainOptions, given: set[str], resume_from: Path | None, as_json: bool = False) -> None:
    """Train, and print how it went, or as JSON the record that ``run.json`` holds."""
    TRAINING.run(options, given, resume_from, as_json)


def _shown(percentage: float | None) -> str:
    return "not measured" if percentage is None else f"{percentage:.2f} %"


def summarise(options: TrainOptions, name: str, path: Path | None, out: Path | None, as_json: bool) -> None:
    """Print a summary of the fresh network that the options describe, or of a saved one, or write it to a file."""
    if path is None:
        torch.manual_seed(options.seed)
        images = load(options)
        model, shape = build_network(options.model, len(images.classes)), images.shape
        if options.weights is not None:
            load_weights(Path(options.weights), model)
    else:
        saved = load_trained(path)
        model, shape = saved.model, saved.shape
    show(make_summary(name, model, example(shape, count=1), out), as_json)


def run_evaluation(path: Path, data: str | None, split: str, device: torch.device, latency: bool, as_json: bool) -> None:
    """Print how well a trained network does, what it holds, and what it costs."""
    saved = load_trained(path, device)
    options = saved.options if data is None else replace(saved.options, data=data)
    images = load(options)
    if list(images.classes) != saved.checkpoint.state["classes"]:
        raise CheckpointError(f"the images of '{options.data}' have other classes than those that {path} was trained on")
    chosen = getattr(images, split)
    if chosen is None:
        raise DataError("the run held no images out for validation (--validation-split 0); evaluate --split test")
    batches = evaluation_batches(chosen, device, options.channels_last)
    with Progress(len(batches), split) as progress:
        found = evaluate(saved.model, batches, options.amp and has_bfloat16(device), progress)
    result = {"checkpoint": str(path), "split": split, **found, **asdict(measure(saved, device, LATENCY_BATCHES if latency else ()))}
    console = Console()
    if as_json:
        console.print_json(data=finite(result))
        return
    for line in _told(result):
        say(console, line)


def _told(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"{result['checkpoint']}, {result['split']}: {describe({key: result[key] for key in ('top1', 'top5', 'loss')})}"
    macs = "MACs not known" if result["macs"] is None else f"{result['macs']:,} MACs an image"
    yield (
        f"{result['nonzeros']:,} of {result['weights']:,} weights ({result['sparsity']:.2%} sparse), {result['parameters']:,} parameters, {macs}"
    )
    yield f"file: {result['bytes']:,} bytes, {result['deflated']:,} deflated"
    if result["latency"]:
        times = (
            f"{time['median']:.2f} ms ({time['low']:.2f} to {time['high']:.2f}) a batch of {size}"
            for size, time in result["latency"].items()
        )
        yield f"{', '.join(times)} (medians and quartiles; {result['device']})"


def plan_of_run(options: TrainOptions, given: set[str], resume_from: Path | None) -> Plan:
    """What the schedule does in the very run that the options describe, resumed or not; raises ``DataError`` without a schedule."""

    def network(options: TrainOptions, checkpoint: Checkpoint | None) -> Network:
        images = load(options) if checkpoint is None else images_of_run(checkpoint, options)
        with torch.device("meta"):
            model = build_network(options.model, len(images.classes))
        return Network(model, len(training_batches(images, options, torch.device("cpu"))), options.epochs)

    return TRAINING.plan(options, given, resume_from, network)

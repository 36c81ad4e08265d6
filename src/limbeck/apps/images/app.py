"""What the commands of ``limbeck images`` do, with what they print."""

from __future__ import annotations

from pathlib import Path

import torch

from limbeck.apps.images.network import build_network
from limbeck.apps.images.options import FIXED, TrainOptions
from limbeck.apps.images.session import APPLICATION, images_of_run, load, resume, start, training_batches
from limbeck.apps.images.track import COLUMNS
from limbeck.apps.images.train import train
from limbeck.apps.run import Training
from limbeck.config import Plan, plan
from limbeck.errors import DataError

TRAINING = Training(
    APPLICATION, COLUMNS, FIXED, start, resume, train,
    lambda record: (
        f"{record['type']}, {record['nonzeros']:,} of {record['weights']:,} weights ({record['sparsity']:.2%} sparse): "
        f"test top-1 {_shown(record['test_top1'])}, top-5 {_shown(record['test_top5'])}"
    ),
)  # fmt: skip


def run_training(options: TrainOptions, given: set[str], resume_from: Path | None, as_json: bool = False) -> None:
    """Train, and print how it went, or as JSON the record that ``run.json`` holds."""
    TRAINING.run(options, given, resume_from, as_json)


def _shown(percentage: float | None) -> str:
    return "not measured" if percentage is None else f"{percentage:.2f} %"


def plan_of_run(options: TrainOptions, given: set[str], resume_from: Path | None) -> Plan:
    """What the schedule does in the very run that the options describe, resumed or not; raises ``DataError`` without a schedule."""
    if resume_from is None:
        schedule, images = None if options.compress is None else Path(options.compress), load(options)
    else:
        checkpoint, options, schedule = TRAINING.continued(options, given, resume_from)
        images = images_of_run(checkpoint, options)
    if schedule is None:
        raise DataError("--plan shows what a schedule will do: name one with --compress FILE")
    with torch.device("meta"):
        model = build_network(options.model, len(images.classes))
    steps = len(training_batches(images, options, torch.device("cpu")))
    return plan(schedule, model, steps_per_epoch=steps, epochs=options.epochs)

"""A trained classifier as something that is quantized, and the images to measure it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from limbeck.apps.images.batches import Batches
from limbeck.apps.images.network import example, hits, logits_of, loss_of
from limbeck.apps.images.session import evaluation_batches, load, load_trained
from limbeck.apps.images.track import measures
from limbeck.apps.quantized import Few, Predictions, Run, Subject
from limbeck.apps.record import Running
from limbeck.apps.weights import fingerprint
from limbeck.errors import CheckpointError, DataError

FEW = Few(calibration=1000)


def subject_of(path: Path, data: str | None = None, device: torch.device | None = None) -> Subject:
    """The network of a run folder (its best) or of a checkpoint; ranges come from images held out for validation, else from those of the training.

    Raises ``CheckpointError`` where the images are of other classes than those of the run.
    """
    saved = load_trained(path, device)
    options = saved.options if data is None else replace(saved.options, data=data)
    images = load(options)
    if list(images.classes) != saved.checkpoint.state["classes"]:
        raise CheckpointError(f"the images of '{options.data}' have other classes than those that {path} was trained on")
    where = next(saved.model.parameters()).device
    held = images.valid is not None and images.valid is not images.test

    def batches(split: str, count: int) -> Sequence[Run]:
        if split not in ("valid", "train", "test"):
            raise DataError(f"no split named '{split}'; choose valid, train or test")
        chosen = getattr(images, split)
        if chosen is None:
            raise DataError("the run held no images out for validation (--validation-split 0); take --split test")
        found = evaluation_batches(chosen, where, options.channels_last)
        found = replace(found, fraction=min(1.0, count / len(chosen))) if count else found
        return [partial(run, found, step) for step in range(len(found))]

    about = {"model": options.model, "weights": fingerprint(saved.model), "images": images.checksum}
    inputs = example(saved.shape, where, options.channels_last)

    def told(means: Sequence[float]) -> dict[str, float]:
        loss, top1, top5 = means
        return measures(Running((loss, top1, top5), steps=1, items=1))

    return Subject(saved.model, inputs, options.model, "images", "valid" if held else "train", batches, told, about, FEW, sums)


def run(batches: Batches, step: int, model: nn.Module) -> Predictions:
    """One batch; of early exits the last one's logits."""
    images, labels = batches[step]
    return Predictions(logits_of(model(images))[-1].float(), labels)


def sums(found: Predictions) -> Tensor:
    """The losses, and the hits among one and five."""
    return torch.stack([loss_of((found.logits,), found.targets) * len(found.targets), *hits(*found)])

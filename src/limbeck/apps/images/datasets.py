"""A data set as it is stored, and the one that comes with scikit-learn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from limbeck.apps.images.pixels import Files, Memory
from limbeck.errors import require

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
"""Mean and deviation of red, green and blue over CIFAR-10's training images."""
DIGITS_TRAIN = 1500


@dataclass(frozen=True, eq=False)
class Part:
    """Stored images and their labels, ``[images]`` of int64."""

    pixels: Memory | Files
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as it is stored, before images are held back for validation."""

    train: Part
    valid: Part | None
    test: Part | None
    classes: tuple[str, ...]
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    digest: Callable[[], str]


def digits() -> Source:
    """Scikit-learn's 1,797 handwritten digits of 8x8 pixels (Alpaydin and Kaynak 1998): the first 1,500 to train on, the last 297 to test on."""
    found = require("sklearn.datasets", "all").load_digits()
    images = torch.from_numpy(np.round(found.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(found.target.astype(np.int64))
    train, test = (Part(in_memory(images[rows]), labels[rows]) for rows in (slice(DIGITS_TRAIN), slice(DIGITS_TRAIN, None)))
    classes = tuple(map(str, found.target_names))
    return Source(train, None, test, classes, measured(images[:DIGITS_TRAIN]), lambda: hashlib.sha256(images.numpy().tobytes()).hexdigest())


def in_memory(images: Tensor) -> Memory:
    """Decoded images ``[images, channels, height, width]`` as pixels."""
    channels, height, width = images.shape[1:]
    return Memory(len(images), (channels, height, width), lambda: images)


def measured(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel of uint8 images, as parts of 255, from counts of the 256 values.

    >>> measured(torch.tensor([0, 255, 255, 0], dtype=torch.uint8).view(1, 1, 2, 2))
    ((0.5,), (0.5,))
    """
    means, deviations = [], []
    values = torch.arange(256, dtype=torch.float64) / 255
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256) / channel.numel()
        mean = float((share * values).sum())
        means.append(round(mean, 4))
        deviations.append(round(max(float((share * (values - mean) ** 2).sum()) ** 0.5, 1 / 255), 4))
    return tuple(means), tuple(deviations)


def sha256_of_files(paths: Sequence[Path]) -> str:
    """SHA-256 of the contents of files, each with its length."""
    digest = hashlib.sha256()
    for path in paths:
        data = path.read_bytes()
        digest.update(f"{len(data)} ".encode() + data)
    return digest.hexdigest()


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).partition("\n")[0]

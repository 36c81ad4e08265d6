"""CIFAR-10 and CIFAR-100 in the binary version of their page, which is read without running code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from limbeck.apps.images.datasets import CIFAR10_CLASSES, CIFAR10_STATISTICS, Part, Source, in_memory, measured, sha256_of_files
from limbeck.errors import DataError


@dataclass(frozen=True)
class _Binary:
    train: tuple[str, ...]
    test: str
    names: str
    labels: int


BINARIES = (
    _Binary(tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin", "batches.meta.txt", 1),
    _Binary(("train.bin",), "test.bin", "fine_label_names.txt", 2),
)
"""The files of CIFAR-10 and CIFAR-100 in their binary version; how many bytes of labels stand before an image, of which the last counts."""
CIFAR_SHAPE = (3, 32, 32)


def binary(folder: Path) -> Source | None:
    """CIFAR-10 or CIFAR-100 in the binary version of their page (Krizhevsky 2009), or None where the folder holds neither.

    Raises ``DataError`` for a file that is missing or not a whole number of images long, and for the version of pickles.
    """
    for layout in BINARIES:
        if (folder / layout.test).is_file():
            return _read(folder, layout)
    if any((folder / name).is_file() for name in ("data_batch_1", "batches.meta", "train", "meta")):
        raise DataError(
            f"{folder} holds CIFAR as Python pickles, which run code when they are opened, so they are not; take the binary version, "
            "cifar-10-binary.tar.gz of the same page, or parquet files"
        )
    return None


def _read(folder: Path, layout: _Binary) -> Source:
    paths = [folder / name for name in (*layout.train, layout.test)]
    images, labels = _records(paths[:-1], layout.labels)
    test_images, test_labels = _records(paths[-1:], layout.labels)
    count = 1 + int(max(labels.max(), test_labels.max()))
    names = folder / layout.names
    classes = tuple(names.read_text(encoding="utf-8").split()) if names.is_file() else tuple(map(str, range(count)))
    if count > len(classes):
        raise DataError(f"{names} names {len(classes)} classes, but labels go up to {count - 1}; unpack the archive anew")
    statistics = CIFAR10_STATISTICS if classes == CIFAR10_CLASSES else measured(images)
    train, test = Part(in_memory(images), labels), Part(in_memory(test_images), test_labels)
    return Source(train, None, test, classes, statistics, partial(sha256_of_files, paths))


def _records(files: Sequence[Path], labels: int) -> tuple[Tensor, Tensor]:
    """Images ``[images, 3, 32, 32]`` of uint8 and labels ``[images]`` of int64."""
    size = math.prod(CIFAR_SHAPE)
    parts = []
    for file in files:
        try:
            data = np.fromfile(file, np.uint8)
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}") from error
        if not len(data) or len(data) % (labels + size):
            raise DataError(f"{file} has {len(data):,} bytes, not a whole number of records of {labels + size}; unpack the archive anew")
        parts.append(torch.from_numpy(data).view(-1, labels + size))
    records = torch.cat(parts)
    images = records[:, labels:].reshape(-1, *CIFAR_SHAPE)
    return images, records[:, labels - 1].long()

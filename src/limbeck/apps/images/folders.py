"""Folder trees of images, a folder a class: ``train/CLASS/*.jpg`` beside ``val/CLASS/*.jpg``, or ``CLASS/*.jpg`` alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from limbeck.apps.images.datasets import Part, Source
from limbeck.apps.images.pixels import Files, Memory, Shape, load_file
from limbeck.errors import DataError

TRAIN = ("train",)
VALID = ("val", "valid", "validation")
TEST = ("test",)
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SMALL = 64
"""Images for models of up to so many pixels a side are decoded once and kept."""
STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of red, green and blue over ImageNet's training images, with which its published models were trained."""
GREY_STATISTICS = ((0.449,), (0.226,))


@dataclass(frozen=True)
class _Listing:
    """The image files below a folder, and the number of the class of each."""

    root: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[int, ...]


def tree(root: Path, shape: Shape) -> Source:
    """A folder tree as a data set: ``train`` with ``val``, ``valid`` or ``validation``, and perhaps ``test``; or class folders alone.

    Without a folder ``test``, or where it has no class folders and thus no labels, as that of ImageNet, the one for validation stands for it.
    Images reach the model in ``shape``.

    Raises ``DataError`` when there are no images, when a class has none, when the folders do not hold the same classes or cannot be read.
    """
    try:
        found = {split: _listing(folder) for split, folder in _folders(root).items()}
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    for other in found.values():
        _check_same(found["train"], other)
    parts = {split: _part(listing, shape) for split, listing in found.items()}
    valid = parts.get("valid")
    statistics = GREY_STATISTICS if shape[0] == 1 else STATISTICS
    digest = partial(_digest, tuple(found.values()))
    return Source(parts["train"], valid, parts.get("test", valid), found["train"].classes, statistics, digest)


def _folders(root: Path) -> dict[str, Path]:
    """The folders of ``train``, ``valid`` and ``test`` that are there and have class folders; the root itself where it has none of them."""
    found = {split: _child(root, names) for split, names in (("train", TRAIN), ("valid", VALID), ("test", TEST))}
    there = {split: folder for split, folder in found.items() if folder and (split != "test" or _subfolders(folder))}
    if there and "train" not in there:
        raise DataError(f"{root} has {' and '.join(f'{folder.name}/' for folder in there.values())} and no train/; add it")
    return there or {"train": root}


def _child(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _listing(root: Path) -> _Listing:
    classes = _subfolders(root)
    found = [sorted(_images(root, name)) for name in classes]
    empty = [name for name, files in zip(classes, found, strict=True) if not files]
    if len(empty) == len(classes):
        raise DataError(
            f"{root} holds no images in class folders; --data takes a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, or with CLASS/*.jpg, or "
            "with train.parquet and test.parquet, or with the binary version of CIFAR"
        )
    if empty:
        raise DataError(f"{root} has classes without an image: {_some(empty)}; remove their folders or fill them")
    labels = tuple(number for number, files in enumerate(found) for _ in files)
    return _Listing(root, classes, tuple(name for files in found for name in files), labels)


def _subfolders(root: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")))


def _images(root: Path, below: str) -> Iterator[str]:
    """Image files below a folder of ``root``, at any depth, as paths from ``root``."""
    for entry in os.scandir(root / below):
        name = f"{below}/{entry.name}"
        if entry.is_dir():
            yield from _images(root, name)
        elif entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."):
            yield name


def _check_same(train: _Listing, other: _Listing) -> None:
    missing, more = (sorted(set(one.classes) - set(two.classes)) for one, two in ((train, other), (other, train)))
    if missing or more:
        faults = [f"{words} {_some(names)}" for words, names in (("lacks", missing), ("has besides", more)) if names]
        raise DataError(
            f"{other.root} has other classes than {train.root}: it {' and '.join(faults)}; the class folders of both must be the same"
        )


def _some(names: Sequence[str], most: int = 5) -> str:
    """The first of some names, and how many there are besides.

    >>> _some(["cat", "dog", "eel"], most=2)
    "'cat', 'dog' and 1 more"
    """
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _part(listing: _Listing, shape: Shape) -> Part:
    labels = torch.tensor(listing.labels)
    if max(shape[1:]) > SMALL:
        return Part(Files(listing.root, listing.names, shape), labels)
    return Part(Memory(len(labels), shape, partial(_decode, listing, shape)), labels)


def _decode(listing: _Listing, shape: Shape) -> Tensor:
    """All images of a listing, the middle of each, ``[images, channels, height, width]`` of uint8."""
    channels, height, width = shape
    out = np.empty((len(listing.names), height, width, channels), np.uint8)

    def put(row: int) -> None:
        out[row] = np.asarray(load_file(listing.root / listing.names[row], shape, None, margin=(1, 1))).reshape(out.shape[1:])

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(put, range(len(out))))
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


def _digest(listings: Sequence[_Listing]) -> str:
    """SHA-256 of the names and sizes of all files."""
    digest = hashlib.sha256()
    for listing in listings:
        for name in listing.names:
            digest.update(f"{listing.root.name}/{name} {(listing.root / name).stat().st_size}\n".encode())
    return digest.hexdigest()

"""Data sets in parquet files, the layout of the Hugging Face hub: a column of encoded images and one of class numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.apps.images.datasets import CIFAR10_CLASSES, CIFAR10_STATISTICS, Part, Source, first_line, measured, sha256_of_files
from limbeck.apps.images.pixels import Memory, decoded, shape_of
from limbeck.errors import DataError, require

SPLITS = ("train", "test")
IMAGE_COLUMNS = ("img.bytes", "image.bytes", "img", "image")
LABEL_COLUMNS = ("label", "fine_label")


def parquet_files(folder: Path) -> dict[str, list[Path]]:
    """The parquet files of each split in a folder, ``train.parquet`` or ``train-00000-of-00002.parquet`` and so on."""
    return {split: sorted([*folder.glob(f"{split}.parquet"), *folder.glob(f"{split}-*.parquet")]) for split in SPLITS}


def parquet(files: Mapping[str, Sequence[Path]]) -> Source:
    """A data set in the files of two splits: ``img`` or ``image`` holds encoded images, all of one size, ``label`` or ``fine_label`` class numbers.

    Raises ``DataError`` when a split is missing or empty, for other columns, for labels that are no class, and, once they are asked for, for
    damaged images.
    """
    train, test = (_table(files, split) for split in SPLITS)
    shape = shape_of(train.encoded[0], train.where)
    classes = train.classes or tuple(map(str, range(1 + int(max(train.labels.max(), test.labels.max())))))
    for table in (train, test):
        low, high = int(table.labels.min()), int(table.labels.max())
        if not 0 <= low <= high < len(classes):
            raise DataError(f"{table.where} has labels from {low} to {high}, but the {len(classes)} classes are 0 to {len(classes) - 1}")
    stored, kept_apart = (Memory(len(table.encoded), shape, partial(decoded, table.encoded, shape, table.where)) for table in (train, test))
    statistics = CIFAR10_STATISTICS if classes == CIFAR10_CLASSES else measured(stored.images)
    digest = partial(sha256_of_files, [path for split in SPLITS for path in files[split]])
    return Source(Part(stored, train.labels), None, Part(kept_apart, test.labels), classes, statistics, digest)


@dataclass(frozen=True, eq=False)
class _Table:
    encoded: list[bytes]
    labels: Tensor
    classes: tuple[str, ...] | None
    where: str


def _table(files: Mapping[str, Sequence[Path]], split: str) -> _Table:
    """The rows of a split, still encoded."""
    if not files[split]:
        folder = next(path.parent for paths in files.values() for path in paths)
        raise DataError(f"{folder / split}.parquet is missing; a folder of parquet files has train.parquet and test.parquet")
    where = str(files[split][0])
    try:
        table = require("pyarrow", "all").concat_tables([require("pyarrow.parquet", "all").read_table(file) for file in files[split]])
    except (OSError, ValueError) as error:  # all that pyarrow raises is one of the two
        raise DataError(f"{where} cannot be read as parquet ({first_line(error)}); fetch it anew") from error
    flat = table.flatten()
    image, label = (next((name for name in names if name in flat.column_names), None) for names in (IMAGE_COLUMNS, LABEL_COLUMNS))
    if image is None or label is None:
        raise DataError(
            f"{where} has the columns {', '.join(table.column_names)}; it needs 'img' or 'image', which holds bytes, and 'label'"
        )
    encoded = _column(flat, image, bytes, where)
    labels = torch.tensor(_column(flat, label, int, where))
    paths = flat.column(path).to_pylist() if (path := image.replace("bytes", "path")) != image and path in flat.column_names else ()
    return _Table(encoded, labels, _named(table.schema.metadata, label) or _folders(paths, labels.tolist()), where)


def _column(table: Any, name: str, kind: type, where: str) -> list[Any]:
    values: list[Any] = table.column(name).to_pylist()
    if not values:
        raise DataError(f"{where} has no rows; fetch it anew")
    wrong = next((row for row, value in enumerate(values) if not isinstance(value, kind)), None)
    if wrong is not None:
        raise DataError(f"{where}: '{name}' of row {wrong} is a {type(values[wrong]).__name__}, not {kind.__name__}; fetch the file anew")
    return values


def _named(metadata: Mapping[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    """Class names as the hub writes them into a parquet file.

    >>> _named({b"huggingface": b'{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}'}, "label")
    ('cat', 'dog')
    """
    tree = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    for key in ("info", "features", label, "names"):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tuple(map(str, tree)) if isinstance(tree, list) else None


def _folders(paths: Iterable[str | None], labels: Sequence[int]) -> tuple[str, ...] | None:
    """Class names from the folders of the images, where each label has one folder and each folder one label.

    >>> _folders(["train/dog/7.png", "train/cat/1.png", "train/dog/8.png"], [1, 0, 1])
    ('cat', 'dog')
    >>> _folders(["7.png", "1.png"], [1, 0]) is None
    True
    """
    pairs = {(label, path.rpartition("/")[0].rpartition("/")[2]) for path, label in zip(paths, labels, strict=False) if path}
    names = dict(pairs)
    unique = len(names) == len(set(names.values())) == len(pairs) and all(names.values())
    return tuple(names[label] for label in range(len(names))) if unique and names.keys() == set(range(len(names))) and names else None

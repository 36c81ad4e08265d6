"""Images for the classifier: what ``--data`` names, as three splits that ``Batches`` reads.

``load_images`` takes the name ``digits``, ``cifar-10`` or ``mnist``, a folder of parquet files, of CIFAR's binary version, or of class folders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from limbeck.apps.hub import fetch
from limbeck.apps.images.batches import Form, Split
from limbeck.apps.images.binary import binary
from limbeck.apps.images.datasets import Part, Source, digits
from limbeck.apps.images.folders import tree
from limbeck.apps.images.parquet import parquet, parquet_files
from limbeck.apps.images.pixels import Shape
from limbeck.apps.rng import generator
from limbeck.errors import DataError, did_you_mean

DIGITS = "digits"
DEFAULT_SHAPE = (3, 224, 224)
REMEDY = f"give --data a folder with train.parquet and test.parquet, or --data {DIGITS}"


@dataclass(frozen=True)
class Hosted:
    """Where the Hugging Face hub keeps a data set: the repository and a parquet file for each split."""

    repository: str
    files: dict[str, str]


HUB = {
    "cifar-10": Hosted(
        "uoft-cs/cifar10", {"train": "plain_text/train-00000-of-00001.parquet", "test": "plain_text/test-00000-of-00001.parquet"}
    ),
    "mnist": Hosted("ylecun/mnist", {"train": "mnist/train-00000-of-00001.parquet", "test": "mnist/test-00000-of-00001.parquet"}),
}
SPLIT_STREAM = 0x5711
"""Keeps the draw of the validation images apart from those of the epochs."""


@dataclass(frozen=True, eq=False)
class Images:
    """A data set in three parts and the names of its classes; ``valid`` is None where nothing was held back, and may be ``test`` itself."""

    train: Split
    valid: Split | None
    test: Split
    classes: tuple[str, ...]
    digest: Callable[[], str]

    @property
    def shape(self) -> Shape:
        """Channels, height and width of the images in a batch."""
        return self.train.form.shape

    @property
    def mean(self) -> tuple[float, ...]:
        """What is subtracted from each stored channel, of values in [0, 1]."""
        return self.train.form.mean

    @property
    def std(self) -> tuple[float, ...]:
        """What each stored channel is divided by then."""
        return self.train.form.std

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the files; of a folder tree, of their names and sizes."""
        return self.digest()


def load_images(data: str = DIGITS, validation: float = 0.0, seed: int = 0, shape: Shape | None = None) -> Images:
    """The data set that ``--data`` names, ``validation`` of its training images held back for validation: which ones, ``seed`` decides.

    ``shape`` is what the model takes; images that are stored in another size or with other channels are brought to it batch by batch.
    Without it images keep their own shape, and those of a folder tree are 224x224 in colour.

    >>> images = load_images("digits", validation=0.1, shape=(3, 32, 32))
    >>> len(images.train), len(images.valid), len(images.test), images.classes[:3], images.shape
    (1350, 150, 297, ('0', '1', '2'), (3, 32, 32))

    Raises ``DataError`` for a name that means nothing, and for data that is missing, damaged or does not fit together.
    """
    if not 0 <= validation < 1:
        raise DataError(f"--validation-split is a part of the training images, 0 or more and less than 1, not {validation}")
    source = _source(data, shape)
    own = source.train.pixels.shape
    form = Form(shape or own, *source.statistics, mirror=own[0] == 3)
    if form.shape[0] not in (1, 3):
        raise DataError(f"the model takes images of {form.shape[0]} channels; of '{data}' they can be had with 1 or 3")
    rows, held = _divided(len(source.train.labels), validation, seed)
    whole = {id(part): _split(part, form) for part in (source.valid, source.test) if part is not None}
    valid = _split(source.train, form, held) if validation else whole.get(id(source.valid))
    test = whole.get(id(source.test), valid)
    if test is None:
        raise DataError(
            f"{data} has images to train on and none to test on; hold some back with --validation-split 0.1, or add a folder val/"
        )
    return Images(_split(source.train, form, rows), valid, test, source.classes, source.digest)


def _split(part: Part, form: Form, rows: Tensor | None = None) -> Split:
    rows = torch.arange(len(part.labels)) if rows is None else rows
    return Split(part.pixels, rows, part.labels[rows], form)


def _divided(count: int, validation: float, seed: int) -> tuple[Tensor, Tensor]:
    """The rows to train on and those held back, each in order; raises ``DataError`` when one of them is empty and should not be."""
    order = torch.randperm(count, generator=generator(seed, SPLIT_STREAM))
    aside = round(count * validation)
    if aside == count or (validation and not aside):
        raise DataError(f"--validation-split {validation} of {count} images leaves nothing {'to train on' if aside else 'to hold back'}")
    return order[aside:].sort().values, order[:aside].sort().values


def _source(data: str, shape: Shape | None) -> Source:
    if data == DIGITS:
        return digits()
    if data in HUB:
        name = HUB[data]
        files = {split: [fetch(name.repository, file, data, REMEDY)] for split, file in name.files.items()}
        return parquet(files)
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"no data set '{data}': it is neither a folder that is there nor one of {', '.join((DIGITS, *HUB))}"
            f"{did_you_mean(data, (DIGITS, *HUB)) or '; give --data the path of a folder of images, or one of these names'}"
        )
    files = parquet_files(folder)
    if any(files.values()):
        return parquet(files)
    return binary(folder) or tree(folder, shape or DEFAULT_SHAPE)

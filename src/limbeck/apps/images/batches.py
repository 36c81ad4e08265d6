"""Batches of images for training and evaluation: the same ones for the same seed, epoch and step, whenever and wherever they are asked for."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.apps.images.pixels import DRAWS, Files, Memory, Shape
from limbeck.apps.rng import generator

AHEAD = 2
"""Batches that are read from files while the model trains on an earlier one."""
GREY = (0.299, 0.587, 0.114)
"""What red, green and blue add to brightness (ITU-R BT.601)."""

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Form:
    """How images reach the model: their shape there, mean and deviation of each stored channel (of values in [0, 1]), whether they may be mirrored."""

    shape: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mirror: bool


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set: which ``rows`` of the stored images belong to it, their ``labels`` (both ``[images]`` of int64), and the form."""

    pixels: Memory | Files
    rows: Tensor
    labels: Tensor
    form: Form

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class Batches(Sequence[Batch]):
    """Batches of a split: float images ``[batch, channels, height, width]``, normalised, and labels ``[batch]`` of int64, both on ``device``.

    With a ``seed`` each ``epoch`` has its own order, and ``augment`` its own shifts, crops and mirrorings; without one the order is that of the
    files. A batch is a function of seed, epoch and step alone, so that a resumed run sees what the first would have seen. A slice is again a
    ``Batches``: ``batches.epoch(3)[400:]`` is what is left of epoch 3 after 400 steps, and enters there at once.

    ``fraction`` takes a part of the split only: with a seed another one each epoch, without one images that are spread evenly.

    >>> images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1)
    >>> split = Split(Memory(5, (1, 1, 1), lambda: images), torch.arange(5), torch.tensor([0, 1, 0, 1, 0]), Form((1, 1, 1), (0.0,), (1 / 255,), False))
    >>> [(batch.flatten().tolist(), labels.tolist()) for batch, labels in Batches(split, 2)]
    [([0.0, 1.0], [0, 1]), ([2.0, 3.0], [0, 1]), ([4.0], [0])]
    >>> shuffled = Batches(split, 2, seed=1)
    >>> len(shuffled), shuffled.epoch(3)[1:][0][1].equal(shuffled.epoch(3)[1][1])
    (2, True)

    In training, whose batch normalisation cannot do with one image, a rest of one is left out of the epoch.
    """

    split: Split
    batch_size: int
    seed: int | None = None
    augment: bool = False
    device: torch.device | str = "cpu"
    channels_last: bool = False
    fraction: float = 1.0
    number: int = 0
    window: range | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is a number of images, 1 or more, not {self.batch_size}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction is a part of the images, above 0 and up to 1, not {self.fraction}")
        if self.augment and self.seed is None:
            raise ValueError("augment draws by a seed; give one")

    def epoch(self, number: int) -> Batches:
        """All batches of an epoch, counted from 0."""
        return replace(self, number=number, window=None)

    @property
    def images(self) -> int:
        """How many images an epoch has."""
        count = max(1, round(len(self.split) * self.fraction))
        alone = self.seed is not None and 1 < self.batch_size < count and count % self.batch_size == 1
        return count - alone

    @property
    def _window(self) -> range:
        return range(math.ceil(self.images / self.batch_size)) if self.window is None else self.window

    def __len__(self) -> int:
        return len(self._window)

    @overload
    def __getitem__(self, step: int) -> Batch: ...
    @overload
    def __getitem__(self, step: slice) -> Batches: ...
    def __getitem__(self, step: int | slice) -> Batch | Batches:
        if isinstance(step, slice):
            return replace(self, window=self._window[step])
        number = self._window[step]
        return self._finished(number, self._raw(number))

    def __iter__(self) -> Iterator[Batch]:
        """The batches; those that come from files are read ahead."""
        if not self.split.pixels.in_background:
            for number in self._window:
                yield self._finished(number, self._raw(number))
            return
        reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
        waiting: deque[tuple[int, Future[Tensor]]] = deque()
        try:
            for number in self._window:
                waiting.append((number, reader.submit(self._raw, number)))
                if len(waiting) > AHEAD:
                    first, future = waiting.popleft()
                    yield self._finished(first, future.result())
            for first, future in waiting:
                yield self._finished(first, future.result())
        finally:
            reader.shutdown(cancel_futures=True)

    @cached_property
    def _order(self) -> Tensor:
        """Places in the split, ``[images]``, in the order of the epoch."""
        count = len(self.split)
        if self.seed is None:
            return torch.arange(self.images) * count // self.images
        return torch.randperm(count, generator=generator(self.seed, self.number))

    def _places(self, number: int) -> Tensor:
        begin = number * self.batch_size
        return self._order[begin : min(begin + self.batch_size, self.images)]

    def _raw(self, number: int) -> Tensor:
        places = self._places(number)
        chance = None
        if self.augment and self.seed is not None:
            chance = torch.rand(len(places), DRAWS, generator=generator(self.seed, self.number, number)).double()
        return self.split.pixels.batch(self.split.rows[places], chance, self.split.form.mirror, torch.device(self.device))

    def _finished(self, number: int, raw: Tensor) -> Batch:
        images = normalised(raw.to(self.device), self.split.form)
        labels = self.split.labels[self._places(number)].to(self.device)
        return images.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format), labels


def normalised(images: Tensor, form: Form) -> Tensor:
    """Images ``[images, channels, height, width]`` of uint8 as a model takes them: float, mean 0, deviation 1, in its channels and size.

    >>> form = Form((3, 4, 4), (0.5,), (0.25,), False)
    >>> small = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
    >>> normalised(small, form).shape, normalised(small, form).unique().tolist()
    (torch.Size([1, 3, 4, 4]), [2.0])
    """
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (form.mean, form.std))
    out = images.float().mul_(1 / (255 * std)).sub_(mean / std)
    channels, *size = form.shape
    if channels != images.shape[1]:
        grey = torch.tensor(GREY, device=images.device)[:, None, None]
        out = (out * grey).sum(1, keepdim=True) if channels == 1 else out.expand(-1, channels, -1, -1)
    return out if list(out.shape[2:]) == size else F.interpolate(out, tuple(size), mode="bilinear", antialias=True)

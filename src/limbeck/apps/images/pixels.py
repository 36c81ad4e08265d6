"""Where images come from: decoded in memory, or read from files batch by batch; both give uint8, both augment by numbers that they are given.

An augmentation is a pure function of ``chance``, ``[images, DRAWS]`` of float64: uniform numbers of 24 bits in [0, 1), so that no product with a
number of pixels is rounded up to it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import DataError, require

TRIES = 10
DRAWS = 2 * TRIES + 3
"""An area and a ratio for each try at a crop, its place across and down, and whether to mirror."""
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
EVALUATION_MARGIN = (256, 224)
"""An evaluated image is made 256/224 of the size that the model takes, and the margin cut off."""

Shape = tuple[int, int, int]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Memory:
    """Images of one size, decoded when they are first asked for and kept: ``read()`` gives ``[images, channels, height, width]`` of uint8."""

    count: int
    shape: Shape
    read: Callable[[], Tensor]
    in_background: bool = field(default=False, init=False)
    _placed: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def images(self) -> Tensor:
        """All images, ``[images, channels, height, width]`` of uint8."""
        return self.read()

    def on(self, device: torch.device) -> Tensor:
        """All images on a device; they are brought there once."""
        if device not in self._placed:
            self._placed[device] = self.images.to(device)
        return self._placed[device]

    def batch(self, rows: Tensor, chance: Tensor | None, mirror: bool, device: torch.device) -> Tensor:
        """Some images, ``[rows, channels, height, width]`` of uint8, shifted and mirrored by ``chance`` unless that is None."""
        images = self.on(device).index_select(0, rows.to(device))
        return images if chance is None else shifted(images, chance.to(device), mirror)


def shifted(images: Tensor, chance: Tensor, mirror: bool) -> Tensor:
    """Images moved by up to an eighth of their height up, down and sideways, black where nothing was, and half of them mirrored.

    The usual augmentation of CIFAR (He et al. 2015, 4.2): zero padding by 4, a random crop of 32x32, a horizontal flip.
    ``images`` and the result are ``[images, channels, height, width]``; of ``chance`` ``[images, 3 or more]`` the last three columns are used.

    >>> image = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    >>> shifted(image, torch.tensor([[0.5, 0.5, 0.7]]), mirror=True).equal(image)
    True
    >>> shifted(image, torch.tensor([[0.9, 0.0, 0.2]]), mirror=True)[0, 0, 1].tolist()    # from a row above and a column to the right, mirrored
    [0, 7, 6, 5, 4, 3, 2, 1]
    """
    count, channels, height, width = images.shape
    reach = height // 8
    across, down, turn = chance[:, -3:].unbind(1)
    top, left = ((place * (2 * reach + 1)).long()[:, None] for place in (down, across))
    columns = torch.arange(width, device=images.device)
    if mirror:
        columns = torch.where(turn[:, None] < 0.5, width - 1 - columns, columns)
    wide = width + 2 * reach
    rows = (top + torch.arange(height, device=images.device)) * wide
    index = (rows[:, :, None] + (left + columns)[:, None, :]).view(count, 1, -1).expand(-1, channels, -1)
    return F.pad(images, (reach,) * 4).flatten(2).gather(2, index).view(images.shape)


@dataclass(frozen=True, eq=False)
class Files:
    """Image files of any size below a folder, read in threads when a batch asks for them."""

    root: Path
    names: Sequence[str]
    shape: Shape
    in_background: bool = field(default=True, init=False)

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self.names)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="images")

    def batch(self, rows: Tensor, chance: Tensor | None, mirror: bool, device: torch.device) -> Tensor:
        """Some images, ``[rows, channels, height, width]`` of uint8 on the CPU: cropped and mirrored by ``chance``, or the middle of each.

        Raises ``DataError`` for a file that is no image, or half of one.
        """
        channels, height, width = self.shape
        out = np.empty((len(rows), height, width, channels), np.uint8)
        draws = [None] * len(rows) if chance is None else chance.tolist()

        def put(place: int, row: int) -> None:
            image = load_file(self.root / self.names[row], self.shape, draws[place], mirror)
            out[place] = np.asarray(image).reshape(out.shape[1:])

        list(self._threads.map(put, range(len(rows)), rows.tolist()))
        return torch.from_numpy(out).permute(0, 3, 1, 2)


def load_file(
    path: Path, shape: Shape, chance: Sequence[float] | None, mirror: bool = False, margin: tuple[int, int] = EVALUATION_MARGIN
) -> Any:
    """One image file as a ``PIL.Image`` of a shape: a random piece by ``chance``, else the middle; raises ``DataError`` where it is damaged."""
    pil = require("PIL.Image", "all")
    mode = "L" if shape[0] == 1 else "RGB"
    size = (shape[2], shape[1])
    try:
        with pil.open(path) as image:
            if chance is None:
                image.draft(mode, tuple(2 * side for side in with_margin(size, margin)))  # beyond twice the size no difference is seen
                return middle(image.convert(mode), size, margin)
            full = image.size
            box = crop_box(full[0], full[1], chance)
            image.draft(mode, (math.ceil(full[0] * size[0] / (box[2] - box[0])), math.ceil(full[1] * size[1] / (box[3] - box[1]))))
            across, down = image.size[0] / full[0], image.size[1] / full[1]
            scaled = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
            piece = image.convert(mode).resize(size, pil.Resampling.BILINEAR, scaled)
            return piece.transpose(pil.Transpose.FLIP_LEFT_RIGHT) if mirror and chance[-1] < 0.5 else piece
    except Exception as error:  # a decoder raises whatever it trips over
        raise DataError(f"{path} cannot be read as an image ({_reason(error)}); replace or remove it") from error


def crop_box(width: int, height: int, chance: Sequence[float]) -> Box:
    """A random piece of an image: 8 % to 100 % of its area, 3:4 to 4:3 (Szegedy et al. 2014, section 6); left, top, right, bottom in pixels.

    The first of ten tries that fits, else the largest piece in the middle with a ratio in bounds.

    >>> crop_box(100, 100, [0.5, 0.5] * 10 + [0.0, 0.999, 0.5])
    (0, 27, 73, 100)
    >>> crop_box(400, 100, [1.0, 0.0] * 10 + [0.0, 0.0, 0.5])
    (134, 0, 267, 100)
    """
    across, down = chance[-3:-1]
    low, high = (math.log(ratio) for ratio in RATIO)
    for place, shape in zip(chance[: 2 * TRIES : 2], chance[1 : 2 * TRIES : 2], strict=True):
        area = width * height * (AREA[0] + place * (AREA[1] - AREA[0]))
        ratio = math.exp(low + shape * (high - low))
        wide, high_ = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high_ <= height:
            left, top = int(across * (width - wide + 1)), int(down * (height - high_ + 1))
            return left, top, left + wide, top + high_
    wide, high_ = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = round((width - wide) / 2), round((height - high_) / 2)
    return left, top, left + wide, top + high_


def with_margin(size: tuple[int, int], margin: tuple[int, int]) -> tuple[int, int]:
    """Width and height that a picture must have before its margin is cut off.

    >>> with_margin((224, 224), EVALUATION_MARGIN)
    (256, 256)
    """
    wide, high = (-(-side * margin[0] // margin[1]) for side in size)
    return wide, high


def middle(image: Any, size: tuple[int, int], margin: tuple[int, int] = EVALUATION_MARGIN) -> Any:
    """The middle of a ``PIL.Image``: resized so that what is cut off is the margin, ``(256, 224)`` for the usual evaluation, then cropped.

    >>> from PIL import Image
    >>> middle(Image.new("L", (640, 480)), (224, 224)).size
    (224, 224)
    """
    width, height = image.size
    wide, high = with_margin(size, margin)
    whole = (wide, max(high, wide * height // width)) if width * high <= height * wide else (max(wide, high * width // height), high)
    resized = image.resize(whole, require("PIL.Image", "all").Resampling.BILINEAR)
    left, top = round((whole[0] - size[0]) / 2), round((whole[1] - size[1]) / 2)
    return resized.crop((left, top, left + size[0], top + size[1]))


def decoded(encoded: Sequence[bytes], shape: Shape, where: str) -> Tensor:
    """Encoded images (PNG, JPEG ...) of one size, ``[images, channels, height, width]`` of uint8.

    Raises ``DataError`` for one that is damaged or of another size, by its number in ``where``.
    """
    pil = require("PIL.Image", "all")
    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"
    out = np.empty((len(encoded), height, width, channels), np.uint8)
    for number, data in enumerate(encoded):
        try:
            image = pil.open(BytesIO(data))
            pixels = np.asarray(image if image.mode == mode else image.convert(mode))
        except Exception as error:  # a decoder raises whatever it trips over
            raise DataError(f"{where}: image {number} cannot be read ({_reason(error)}); fetch the file anew") from error
        if pixels.shape[:2] != (height, width):
            high, wide = pixels.shape[:2]
            raise DataError(
                f"{where}: image {number} has {wide}x{high} pixels, the first {width}x{height}; images of many sizes go into a folder tree, "
                "train/CLASS/*.jpg"
            )
        out[number] = pixels.reshape(out.shape[1:])
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


def shape_of(data: bytes, where: str) -> Shape:
    """Channels (1 or 3), height and width of an encoded image; raises ``DataError`` when it is none."""
    try:
        image = require("PIL.Image", "all").open(BytesIO(data))
    except OSError as error:
        raise DataError(f"{where}: image 0 cannot be read ({_reason(error)}); fetch the file anew") from error
    return 1 if image.mode in ("1", "L", "I", "I;16", "F") else 3, image.height, image.width


def _reason(error: Exception) -> str:
    return "no known image format" if type(error).__name__ == "UnidentifiedImageError" else str(error).partition("\n")[0]

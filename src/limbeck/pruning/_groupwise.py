"""One number for each group of a tensor's elements, without a copy of the tensor: read in its own layout, in pieces that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor

from limbeck.tile import Tile

CHUNK = 1 << 18  # elements of a piece: with what is measured of it, it stays in the cache, and all threads have work

Measure = Callable[..., Tensor]
"""Element by element, ``(weight, *others) -> values``, all of one shape."""


@torch.no_grad()
def reduced(tile: Tile, tensor: Tensor, measure: Measure, others: Sequence[Tensor] = (), largest: bool = False) -> Tensor:
    """The sum, or the largest, of ``measure(tensor, *others)`` over each group's members, ``[groups]``.

    ``others`` broadcast against the tensor. Numbers of 16 bits are summed as float32. Beyond the end of the tensor, which only a padded tile
    reaches, ``tensor`` and ``others`` count as 0.

    >>> reduced(Tile((1,)), torch.tensor([[1.0, -2.0], [3.0, 0.0]]), torch.abs)
    tensor([3., 3.])
    """
    shape, tensor = tensor.shape, tensor.detach()
    block, grid = tile.block(shape), tile.grid(shape)
    others = [other.detach().expand(shape) for other in others]
    length = shape[0] if shape else 1
    rows = length if tensor.device.type != "cpu" else max(1, CHUNK * length // max(1, tensor.numel()))
    if all(size == 1 for size in block):
        return _measured(tensor, others, measure, rows).reshape(-1)
    if any(number * size != length for number, size, length in zip(grid, block, shape, strict=True)):
        values = measure(*(_exact(tile.fold(each)) for each in (tensor, *others)))
        return values.amax(1) if largest else values.sum(1)
    totals: Tensor | None = None
    for first, last in _spans(shape[0], block[0], rows):
        values = measure(*(_exact(each[first:last]) for each in (tensor, *others)))
        part = _over_members(values, (min(block[0], last - first), *block[1:]), largest)
        if totals is None:
            least = float("-inf") if part.is_floating_point() else torch.iinfo(part.dtype).min
            totals = torch.full(grid, least if largest else 0, dtype=part.dtype, device=part.device)
        place = totals[first // block[0] : -(-last // block[0])]
        torch.maximum(place, part, out=place) if largest else place.add_(part)
    return tensor.new_zeros(0) if totals is None else totals.reshape(-1)


def _measured(tensor: Tensor, others: Sequence[Tensor], measure: Measure, rows: int) -> Tensor:
    """``measure`` of every element; of several tensors in pieces of so many rows, so that what it forms on the way stays in the cache."""
    if not others or tensor.dim() == 0 or rows >= len(tensor):
        return measure(tensor, *others)
    values: Tensor | None = None
    for first in range(0, len(tensor), rows):
        part = measure(*(each[first : first + rows] for each in (tensor, *others)))
        if values is None:
            values = torch.empty(tensor.shape, dtype=part.dtype, device=part.device)
        values[first : first + rows] = part
    assert values is not None
    return values


def _spans(length: int, block: int, rows: int) -> Iterator[tuple[int, int]]:
    """Pieces of the first axis of about ``rows``, each of whole groups or within one."""
    step = rows // block * block or rows
    for begin in range(0, length, max(step, block)):
        end = min(begin + max(step, block), length)
        yield from ((first, min(first + step, end)) for first in range(begin, end, step))


def _over_members(values: Tensor, block: Sequence[int], largest: bool) -> Tensor:
    """Axis by axis, the outermost first: what is left then lies in rows that can be added as a whole."""
    grid = [length // member for length, member in zip(values.shape, block, strict=True)]
    pairs = zip(grid, block, strict=True)
    axes = [(size, summed) for group, member in pairs for size, summed in ((group, False), (member, True)) if size > 1]
    merged = [(math.prod(size for size, _ in run), summed) for summed, run in groupby(axes, key=itemgetter(1))]
    values = values.reshape([size for size, _ in merged])
    for axis, (_, summed) in enumerate(merged):
        if summed:
            values = values.amax(axis, keepdim=True) if largest else values.sum(axis, keepdim=True)
    return values.reshape(grid)


def _exact(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def any_kept(tile: Tile, keep: Tensor) -> Tensor:
    """Which groups have a member that is kept, bool, ``[groups]``; ``keep`` is a mask.

    >>> any_kept(Tile((1,)), torch.tensor([[True, False], [False, False]]))
    tensor([ True, False])
    """
    return reduced(tile, keep.view(torch.uint8), lambda kept: kept, largest=True).view(torch.bool)

"""A grouping of a tensor's elements, as one value: an invertible view ``[*shape] <-> [groups, members]``.

One ``Tile`` says what is pruned as one (a unit), who competes with whom (a pool), what a group norm runs over, what shares a
quantization scale, and what a sparsity report counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

ALL = -1


@dataclass(frozen=True, repr=False)
class Tile:
    """A block shape that cuts a tensor into equal groups.

    ``sizes`` names the leading axes, ``rest`` stands for all others; ``ALL`` takes a whole axis. Sizes must divide their axes, unless ``pad``
    lets the last group of an axis reach over its end: ``fold`` fills what lies outside, ``unfold`` crops it.

    >>> import torch
    >>> weight = torch.arange(6.0).reshape(2, 3)
    >>> Tile((1,)).fold(weight).shape, Tile((ALL, 1)).fold(weight).shape, Tile(rest=1).fold(weight).shape
    (torch.Size([2, 3]), torch.Size([3, 2]), torch.Size([6, 1]))
    >>> Tile((1, 2), pad=True).fold(weight, fill=9)
    tensor([[0., 1.],
            [2., 9.],
            [3., 4.],
            [5., 9.]])
    """

    sizes: tuple[int, ...] = ()
    rest: int = ALL
    pad: bool = False

    def block(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of one group in a tensor of ``shape``; raises ``ValueError`` when groups do not fill it."""
        asked = (*self.sizes, *[self.rest] * (len(shape) - len(self.sizes)))
        block = tuple(length if size == ALL else size for size, length in zip(asked, shape, strict=False))
        if len(asked) > len(shape) or any(size < 1 for size in block):
            raise ValueError(
                f"{self} does not tile a tensor of shape {tuple(shape)}: it names no more axes than there are, and sizes from 1 on"
            )
        if not self.pad and (wrong := [pair for pair in zip(block, shape, strict=True) if pair[1] % pair[0]]):
            blocks, why = " x ".join(map(str, block)), " and ".join(f"{size} does not divide {length}" for size, length in wrong)
            raise ValueError(f"blocks of {blocks} do not fill a tensor of shape {tuple(shape)}: {why}")
        return block

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """How many groups lie along each axis, a partial one included.

        >>> Tile((2, 4)).grid((6, 8, 3, 3)), Tile((2, 4), pad=True).grid((5, 7, 3, 3))
        ((3, 2, 1, 1), (3, 2, 1, 1))
        """
        return tuple(-(-length // size) for size, length in zip(self.block(shape), shape, strict=True))

    def pads(self, shape: Sequence[int]) -> bool:
        """Whether groups reach over the end of a tensor of ``shape``.

        >>> Tile((2, 4), pad=True).pads((5, 8)), Tile((2, 4), pad=True).pads((6, 8))
        (True, False)
        """
        return math.prod(self.grid(shape)) * math.prod(self.block(shape)) != math.prod(shape)

    def fold(self, tensor: Tensor, fill: float = 0.0) -> Tensor:
        """``[*shape] -> [groups, members]``; a view where strides allow. Members outside of the tensor, which only ``pad`` makes, are ``fill``."""
        rank, block, grid = tensor.dim(), self.block(tensor.shape), self.grid(tensor.shape)
        beyond = [number * size - length for number, size, length in zip(grid, block, tensor.shape, strict=True)]
        if any(beyond):
            tensor = F.pad(tensor, [width for missing in reversed(beyond) for width in (0, missing)], value=fill)
        split = tensor.reshape([size for pair in zip(grid, block, strict=True) for size in pair])
        order = (*range(0, 2 * rank, 2), *range(1, 2 * rank, 2))
        return split.permute(order).reshape(math.prod(grid), math.prod(block))

    def unfold(self, groups: Tensor, shape: Sequence[int]) -> Tensor:
        """``[groups, members] -> [*shape]``, the inverse of ``fold``; ``[groups, 1]`` is spread over all members."""
        rank, block, grid = len(shape), self.block(shape), self.grid(shape)
        split = groups.expand(-1, math.prod(block)).reshape((*grid, *block))
        whole = split.permute([axis for i in range(rank) for axis in (i, rank + i)])
        whole = whole.reshape([number * size for number, size in zip(grid, block, strict=True)])
        return whole[tuple(slice(length) for length in shape)] if self.pad else whole

    def __repr__(self) -> str:
        return f"Tile(sizes={self.sizes}, rest={self.rest}{', pad=True' if self.pad else ''})"


ELEMENT = Tile(rest=1)
TENSOR = Tile()
FILTERS = Tile((1,))
CHANNELS = Tile((ALL, 1))
KERNELS = Tile((1, 1))

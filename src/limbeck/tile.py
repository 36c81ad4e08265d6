"""A grouping of a tensor's elements, as one value: an invertible view ``[*shape] <-> [groups, members]``.

One ``Tile`` says what is pruned as one (a unit), who competes with whom (a pool), what a group norm runs over, what shares a
quantization scale, and what a sparsity report counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

ALL = -1


@dataclass(frozen=True)
class Tile:
    """A block shape that cuts a tensor into equal groups.

    ``sizes`` names the leading axes, ``rest`` stands for all others; ``ALL`` takes a whole axis.

    >>> import torch
    >>> weight = torch.arange(6.0).reshape(2, 3)
    >>> Tile((1,)).fold(weight).shape, Tile((ALL, 1)).fold(weight).shape, Tile(rest=1).fold(weight).shape
    (torch.Size([2, 3]), torch.Size([3, 2]), torch.Size([6, 1]))
    """

    sizes: tuple[int, ...] = ()
    rest: int = ALL

    def block(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of one group in a tensor of ``shape``; raises ``ValueError`` when groups do not fill it."""
        asked = (*self.sizes, *[self.rest] * (len(shape) - len(self.sizes)))
        block = tuple(length if size == ALL else size for size, length in zip(asked, shape, strict=False))
        if len(asked) > len(shape) or any(size < 1 or length % size for size, length in zip(block, shape, strict=False)):
            raise ValueError(f"{self} does not tile a tensor of shape {tuple(shape)}: every size must divide its axis")
        return block

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """How many groups lie along each axis.

        >>> Tile((2, 4)).grid((6, 8, 3, 3))
        (3, 2, 1, 1)
        """
        return tuple(length // size for size, length in zip(self.block(shape), shape, strict=True))

    def fold(self, tensor: Tensor) -> Tensor:
        """``[*shape] -> [groups, members]``; a view where strides allow."""
        rank, block, grid = tensor.dim(), self.block(tensor.shape), self.grid(tensor.shape)
        split = tensor.reshape([size for pair in zip(grid, block, strict=True) for size in pair])
        order = (*range(0, 2 * rank, 2), *range(1, 2 * rank, 2))
        return split.permute(order).reshape(math.prod(grid), math.prod(block))

    def unfold(self, groups: Tensor, shape: Sequence[int]) -> Tensor:
        """``[groups, members] -> [*shape]``, the inverse of ``fold``; ``[groups, 1]`` is spread over all members."""
        rank, block, grid = len(shape), self.block(shape), self.grid(shape)
        split = groups.expand(-1, math.prod(block)).reshape((*grid, *block))
        return split.permute([axis for i in range(rank) for axis in (i, rank + i)]).reshape(tuple(shape))


ELEMENT = Tile(rest=1)
TENSOR = Tile()
FILTERS = Tile((1,))
CHANNELS = Tile((ALL, 1))
KERNELS = Tile((1, 1))

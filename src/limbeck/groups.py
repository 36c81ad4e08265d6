"""The group types that schedule files name, as tiles: what is pruned, thresholded or regularized as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from limbeck.tile import ALL, TENSOR, Tile

GroupName = Literal["2D", "3D", "4D", "Filters", "Channels", "Rows", "Cols", "Blocks"]
"""The types that are one grouping; ``groupings`` knows pairs of them, ``Rows+Cols``, too."""

GROUPS: dict[str, Tile] = {
    "2D": Tile((1, 1, ALL)),
    "3D": Tile((1, ALL)),
    "4D": TENSOR,
    "Filters": Tile((1, ALL)),
    "Channels": Tile((ALL, 1)),
    "Rows": Tile((1, ALL)),
    "Cols": Tile((ALL, 1), rest=1),
}
"""Kernels of a convolution, its filters, the whole tensor, input channels, and the rows and columns of the weight as a matrix.

A weight is ``[out, in, ...]``. So a Linear layer's filters are its rows (output features) and its channels its columns (input features);
the matrix of a convolution has a row for each filter and a column for each place in it, which is how its multiplication runs (Wen et al.
2016, arXiv 1608.03665). A vector has none of them but ``4D``, and a matrix no ``2D`` kernels.
"""


def group(name: str, block_shape: Sequence[int] | None = None) -> Tile:
    """The tile of a group type; ``Blocks`` is cut by ``block_shape``, of which axes that it does not name have size 1.

    >>> group("Filters").grid((16, 3, 3, 3)), group("Blocks", [1, 8, 1, 1]).grid((16, 32, 3, 3))
    ((16, 1, 1, 1), (16, 4, 3, 3))

    Raises ``ValueError`` for a name that is not one grouping, and where ``block_shape`` is missing, empty or out of place.
    """
    if name != "Blocks":
        if block_shape is not None:
            raise ValueError(f"block_shape {list(block_shape)} goes with the group type Blocks, not with '{name}'; leave it out")
        if name not in GROUPS:
            raise ValueError(f"'{name}' is no single group type; choose one of {', '.join((*GROUPS, 'Blocks'))}")
        return GROUPS[name]
    if not block_shape or min(block_shape) < 1:
        given = "" if block_shape is None else f", not {list(block_shape)}"
        raise ValueError(f"Blocks needs block_shape, the sizes of a block, 1 or more each, as in [1, 8, 1, 1]{given}")
    return Tile(tuple(block_shape), rest=1)


def groupings(name: str, block_shape: Sequence[int] | None = None) -> tuple[Tile, ...]:
    """Every grouping that a group type stands for: two for ``Rows+Cols``, and one for most.

    >>> [tile.grid((4, 6)) for tile in groupings("Rows+Cols")]
    [(4, 1), (1, 6)]

    Raises ``ValueError`` as ``group`` does.
    """
    return tuple(group(part, block_shape) for part in name.split("+"))


def misfit(tile: Tile, shape: Sequence[int]) -> str | None:
    """Why a tensor of this shape cannot be cut into these groups, in words; None when it can.

    >>> misfit(GROUPS["2D"], (10, 20))
    'a shape of (10, 20) has no groups of type 2D; they take 3 axes or more'
    """
    try:
        tile.grid(shape)
    except ValueError as error:
        names = " or ".join(name for name, known in GROUPS.items() if known == tile)
        if len(tile.sizes) <= len(shape):
            return str(error)
        what = f"groups of type {names}" if names else f"blocks of {list(tile.sizes)}"
        return f"a shape of {tuple(shape)} has no {what}; they take {len(tile.sizes)} axes or more"
    return None

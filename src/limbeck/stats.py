"""What a tensor holds, counted exactly: non-zeros, densities of any grouping, and moments in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.names import Named
from limbeck.tile import ELEMENT, Tile

_CHUNK_ELEMENTS = 1 << 20


def nonzero_groups(tensor: Tensor, tile: Tile = ELEMENT) -> int:
    """How many groups of ``tile`` hold at least one element that is not zero; NaN is not zero.

    >>> nonzero_groups(torch.tensor([[0.0, 2.0], [0.0, 3.0]]), Tile((1,)))
    2

    Raises ``ValueError`` when the groups do not fill the tensor.
    """
    if math.prod(tile.block(tensor.shape)) == 1:
        return int(torch.count_nonzero(tensor))
    return int(torch.count_nonzero(tile.fold(tensor).any(1)))


def density(tensor: Tensor, tile: Tile = ELEMENT) -> float:
    """The fraction of groups that are not all zero; 1 for a tensor without elements.

    >>> weight = torch.tensor([[0.0, 2.0], [0.0, 3.0]])
    >>> density(weight), density(weight, Tile((1,))), density(weight, Tile((-1, 1)))
    (0.5, 1.0, 0.5)
    """
    groups = _groups(tensor, tile)
    return nonzero_groups(tensor, tile) / groups if groups else 1.0


def sparsity(tensor: Tensor, tile: Tile = ELEMENT) -> float:
    """The fraction of groups that are all zero: exact integers, divided once.

    >>> sparsity(torch.tensor([0.0, 2.0, 0.0, 3.0]))
    0.5
    """
    groups = _groups(tensor, tile)
    return (groups - nonzero_groups(tensor, tile)) / groups if groups else 0.0


def _groups(tensor: Tensor, tile: Tile) -> int:
    return math.prod(tile.grid(tensor.shape)) if tensor.numel() else 0


def weights(parameters: Iterable[Named]) -> list[Named]:
    """The parameters of two dimensions or more: those that a sparsity is told of. Biases and gains are none.

    >>> from limbeck.names import named_parameters
    >>> [named.name for named in weights(named_parameters(torch.nn.Linear(3, 2)).values())]
    ['weight']
    """
    return [named for named in parameters if named.parameter.dim() >= 2]


@dataclass(frozen=True)
class Moments:
    """The mean, the standard deviation (n - 1 in the denominator) and the mean of the absolute values."""

    mean: float
    std: float
    abs_mean: float


def moments(tensor: Tensor) -> Moments:
    """The moments, summed in float64 chunk by chunk, so that a large tensor needs no second one; NaN for a tensor without elements.

    >>> moments(torch.tensor([[-1.0, 1.0], [3.0, 5.0]]))
    Moments(mean=2.0, std=2.581988897471611, abs_mean=2.5)
    """
    total = tensor.numel()
    if not total:
        return Moments(math.nan, math.nan, math.nan)
    chunks = torch.split(tensor.detach().reshape(-1), _CHUNK_ELEMENTS)
    mean = float(sum(chunk.sum(dtype=torch.float64) for chunk in chunks)) / total
    abs_mean = float(sum(chunk.abs().sum(dtype=torch.float64) for chunk in chunks)) / total
    squares = float(sum((chunk.double() - mean).square_().sum() for chunk in chunks))
    return Moments(mean, math.sqrt(squares / max(1, total - 1)), abs_mean)


def magnitude_quantile(tensor: Tensor, fraction: float) -> float:
    """The ``int(fraction * n)``-th smallest absolute value, the first at least.

    >>> magnitude_quantile(torch.arange(-10.0, 0.0), 0.9)
    9.0
    """
    magnitudes = tensor.detach().reshape(-1).abs().cpu()
    values: NDArray[Any] = (magnitudes.float() if magnitudes.dtype == torch.bfloat16 else magnitudes).numpy()
    smaller = max(1, int(fraction * len(values))) - 1
    values.partition(smaller)  # in place, and ten times faster than kthvalue
    return float(values[smaller])

"""The ancestor's sparsity helpers: ``limbeck.stats`` with a tile for each name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from limbeck import stats
from limbeck.groups import group
from limbeck.names import canonical, named_parameters
from limbeck.tile import CHANNELS, FILTERS, KERNELS, Tile

MATRIX, CONVOLUTION = 2, 4


def sparsity(tensor: Tensor) -> float:
    """The fraction of elements that are zero."""
    return stats.sparsity(tensor)


def density(tensor: Tensor) -> float:
    """The fraction of elements that are not zero."""
    return stats.density(tensor)


def sparsity_2D(tensor: Tensor) -> float:  # noqa: N802  # the ancestor's name
    """The fraction of kernels of a convolution that are all zero; 0 for another tensor."""
    return _sparsity(tensor, KERNELS, CONVOLUTION)


def density_2D(tensor: Tensor) -> float:  # noqa: N802  # the ancestor's name
    """The fraction of kernels of a convolution that are not all zero."""
    return 1 - sparsity_2D(tensor)


def sparsity_3D(tensor: Tensor) -> float:  # noqa: N802  # the ancestor's name
    """The fraction of filters of a convolution that are all zero; 0 for another tensor."""
    return _sparsity(tensor, FILTERS, CONVOLUTION)


def density_3D(tensor: Tensor) -> float:  # noqa: N802  # the ancestor's name
    """The fraction of filters of a convolution that are not all zero."""
    return 1 - sparsity_3D(tensor)


def sparsity_ch(tensor: Tensor) -> float:
    """The fraction of input channels of a convolution that are all zero; 0 for another tensor."""
    return _sparsity(tensor, CHANNELS, CONVOLUTION)


def density_ch(tensor: Tensor) -> float:
    """The fraction of input channels of a convolution that are not all zero."""
    return 1 - sparsity_ch(tensor)


def sparsity_cols(tensor: Tensor) -> float:
    """The fraction of columns of a matrix that are all zero (the ancestor counted its rows); 0 for another tensor.

    >>> import torch
    >>> weight = torch.tensor([[0.0, 2.0, 1.0], [0.0, 3.0, 0.0]])
    >>> round(sparsity_cols(weight), 4), sparsity_rows(weight)
    (0.3333, 0.0)
    """
    return _sparsity(tensor, CHANNELS, MATRIX)


def density_cols(tensor: Tensor) -> float:
    """The fraction of columns of a matrix that are not all zero."""
    return 1 - sparsity_cols(tensor)


def sparsity_rows(tensor: Tensor) -> float:
    """The fraction of rows of a matrix that are all zero (the ancestor counted its columns); 0 for another tensor."""
    return _sparsity(tensor, FILTERS, MATRIX)


def density_rows(tensor: Tensor) -> float:
    """The fraction of rows of a matrix that are not all zero."""
    return 1 - sparsity_rows(tensor)


def sparsity_blocks(tensor: Tensor, block_shape: Sequence[int]) -> float:
    """The fraction of blocks that are all zero; axes that ``block_shape`` does not name have size 1.

    >>> import torch
    >>> sparsity_blocks(torch.tensor([[0.0, 0.0, 1.0, 0.0]]), [1, 2])
    0.5

    Raises ``ValueError`` when the blocks do not fill the tensor.
    """
    return stats.sparsity(tensor, group("Blocks", block_shape))


def density_blocks(tensor: Tensor, block_shape: Sequence[int]) -> float:
    """The fraction of blocks that are not all zero."""
    return 1 - sparsity_blocks(tensor, block_shape)


def model_sparsity(model: nn.Module, param_dims: Sequence[int] = (2, 4), param_types: Sequence[str] = ("weight", "bias")) -> float:
    """The sparsity of all weights together, in **percent**; tied ones count once.

    ``param_dims`` are the dimensions of the tensors that count, ``param_types`` what their names hold one of.

    >>> layer = nn.Linear(2, 2)
    >>> _ = layer.weight.data[0].zero_()
    >>> model_sparsity(layer)
    50.0
    """
    counted = [
        named.parameter.detach()
        for named in named_parameters(model).values()
        if named.parameter.dim() in param_dims and any(kind in named.name for kind in param_types)
    ]
    total = sum(tensor.numel() for tensor in counted)
    return 100 * (total - sum(stats.nonzero_groups(tensor) for tensor in counted)) / total if total else 0.0


def normalize_module_name(layer_name: str) -> str:
    """A name without ``module.``, and without the parts that other wrappers put into it."""
    return canonical(layer_name)


def _sparsity(tensor: Tensor, tile: Tile, dimensions: int) -> float:
    return stats.sparsity(tensor, tile) if tensor.dim() == dimensions else 0.0

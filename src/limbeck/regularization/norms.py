"""Norms of groups, as penalties and as measures to cut by: each a few passes over the tensor, with a gradient that is finite everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from limbeck.tile import Tile

Norm = Callable[[Tensor], Tensor]
"""``[*shape]`` to a scalar: what a target pays, before its strength."""

ThresholdCriteria = Literal["Mean_Abs", "Max"]
MEASURES: dict[str, Callable[[Tensor, tuple[int, ...]], Tensor]] = {
    "Mean_Abs": lambda weight, inside: weight.abs().mean(inside, keepdim=True),
    "Max": lambda weight, inside: weight.abs().amax(inside, keepdim=True),
}
"""How large a group is, by the name of a threshold criterion; ``inside`` are the axes that run within a group."""

CHUNK = 1 << 17  # elements: a piece and its squares stay in the cache


def l1_norm(weight: Tensor) -> Tensor:
    """Sum of absolute weights; of float16 and bfloat16 in float32.

    >>> l1_norm(torch.tensor([1.0, -2.0])).item()
    3.0
    """
    norm: Tensor = _L1Norm.apply(weight)  # type: ignore[no-untyped-call]  # torch gives apply no types
    return norm


@dataclass(frozen=True)
class GroupNorm:
    """Sum of the Euclidean norms of all groups (group lasso; Yuan and Lin 2006), which are not weighted by their size.

    ``smoothing`` is added to the sum of squares of each group. A group of zeros has the subgradient zero.

    >>> weight = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    >>> norm = GroupNorm(Tile((1,)))(weight)
    >>> norm.backward()
    >>> norm.item(), weight.grad.tolist()
    (5.0, [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]])
    """

    group: Tile
    smoothing: float = 0.0

    def __call__(self, weight: Tensor) -> Tensor:
        """The norm."""
        return group_norms(weight, self.group, self.smoothing).sum()


@dataclass(frozen=True)
class Sum:
    """The sum of several norms of one tensor: rows and columns, for one.

    >>> Sum((GroupNorm(Tile((1,))), l1_norm))(torch.tensor([[3.0, 4.0]])).item()
    12.0
    """

    norms: tuple[Norm, ...]

    def __call__(self, weight: Tensor) -> Tensor:
        """The norm."""
        return torch.stack([norm(weight) for norm in self.norms]).sum()


@dataclass(frozen=True)
class InverseVariance:
    """One over the unbiased variance of the groups' Euclidean norms: small when some groups are large and others small.

    Groups of one size have the variance 0. Below ``sqrt(tiny)`` of the precision, where the inverse's square overflows, the variance counts
    as that and the gradient is zero.

    >>> InverseVariance(Tile((1,)))(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).item()
    0.125
    """

    group: Tile

    def __call__(self, weight: Tensor) -> Tensor:
        """The penalty."""
        variance = group_norms(weight, self.group).var()
        return 1 / variance.clamp(min=torch.finfo(variance.dtype).tiny ** 0.5)


def group_norms(weight: Tensor, tile: Tile, smoothing: float = 0.0) -> Tensor:
    """``sqrt(sum of squares + smoothing)`` of every group, in a shape that broadcasts against ``split``; of half precision in float32.

    The gradient of a group of zeros is zero.
    """
    norms: Tensor = _GroupNorms.apply(weight, tile, smoothing)  # type: ignore[no-untyped-call]  # torch gives apply no types
    return norms


def split(weight: Tensor, tile: Tile) -> tuple[Tensor, tuple[int, ...]]:
    """A view ``[groups, members, groups, members, ...]``, a pair for each axis, and the axes along which members lie.

    >>> view, inside = split(torch.zeros(6, 8), Tile((1, 4)))
    >>> view.shape, inside
    (torch.Size([6, 1, 2, 4]), (3,))
    """
    block, grid = tile.block(weight.shape), tile.grid(weight.shape)
    view = weight.view([size for pair in zip(grid, block, strict=True) for size in pair] or [1, 1])
    return view, tuple(2 * axis + 1 for axis, size in enumerate(block) if size > 1) or (1,)


class _L1Norm(torch.autograd.Function):
    """What autograd would do with the formula, with the gradient as the only tensor of the weight's size."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        wide = _wide(weight.dtype)
        return torch.stack([piece.abs().sum(dtype=wide) for piece in _pieces(weight.reshape(-1), 0)]).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (weight,) = ctx.saved_tensors
        signs: Tensor = weight.sign()
        return signs.mul_(gradient.to(weight.dtype))


class _GroupNorms(torch.autograd.Function):
    """What autograd would do with the formula, in fewer passes, without 0 / 0, and with the gradient as the only tensor of the weight's size."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, tile: Tile, smoothing: float) -> Tensor:
        view, inside = split(weight, tile)
        along = 0 if len(view) > 1 else 1
        sums = [_square_sums(piece.to(_wide(weight.dtype)), inside) for piece in _pieces(view, along)]
        norms = (torch.cat(sums) if along == 0 else torch.stack(sums).sum(0)).add_(smoothing).sqrt_()
        ctx.save_for_backward(weight, norms)
        ctx.tile = tile
        return norms

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        weight, norms = ctx.saved_tensors
        view, _ = split(weight.to(norms.dtype), ctx.tile)
        scale = (gradient / norms).masked_fill(norms == 0, 0.0)
        return (view * scale).reshape(weight.shape).to(weight.dtype), None, None


def _square_sums(view: Tensor, inside: tuple[int, ...]) -> Tensor:
    """The sum of squares over the axes ``inside``, which stay with length 1; whole rows are added up first, at the speed of memory."""
    sums = view.square()
    if inside[0] == 1:
        sums, inside = sums.sum(1, keepdim=True), inside[1:]
    return sums.sum(inside, keepdim=True) if inside else sums


def _pieces(tensor: Tensor, axis: int) -> tuple[Tensor, ...]:
    """The tensor in pieces along an axis that stay in the cache; in one piece where it is no CPU's."""
    if tensor.device.type != "cpu" or tensor.numel() <= CHUNK:
        return (tensor,)
    return torch.split(tensor, max(1, CHUNK * tensor.shape[axis] // tensor.numel()), axis)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)

"""Softmax layer and cross entropy in one, without the tensors that autograd would keep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_TILE_ELEMENTS = 1 << 19  # 2 MiB of float32: a tile of logits stays in cache between the operations on it


class Scratch:
    """Memory that one step leaves to the next; fresh large allocations cost more than the arithmetic on them."""

    def __init__(self) -> None:
        self._buffer: Tensor | None = None

    def take(self, elements: int, like: Tensor) -> Tensor:
        """``[elements]``, not initialised, of the dtype and device of ``like``."""
        held = self._buffer
        if held is None or held.numel() < elements or held.dtype != like.dtype or held.device != like.device:
            held = self._buffer = like.new_empty(elements)
        return held[:elements]

    def __deepcopy__(self, memo: dict[int, Any]) -> Scratch:
        return Scratch()

    def __reduce__(self) -> tuple[type[Scratch], tuple[()]]:
        return Scratch, ()


def linear_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor, scratch: Scratch | None = None) -> Tensor:
    """Mean cross entropy of ``hidden @ weight.T + bias`` against ``target``, in nats.

    The value and the gradients are those of ``cross_entropy(linear(hidden, weight, bias), target)`` up to the order of summation. On a
    CPU in float32 the vocabulary is walked in tiles that stay in cache, each with its own maximum (Milakov and Gimelshein 2018, "Online
    normalizer calculation for softmax"); what is kept is ``exp(logits - maximum)``, once, and the two matrix products of the backward
    pass read it tile by tile, with the softmax's division moved to their small side. Elsewhere torch's own two functions run.

    ``hidden`` is ``[tokens, features]``, ``weight`` ``[vocabulary, features]``, ``bias`` ``[vocabulary]``, ``target`` ``[tokens]``.

    >>> hidden, weight, target = torch.randn(4, 3), torch.randn(7, 3), torch.tensor([0, 2, 6, 1])
    >>> fused = linear_cross_entropy(hidden, weight, torch.zeros(7), target)
    >>> bool(torch.isclose(fused, F.cross_entropy(hidden @ weight.T, target)))
    True
    """
    if hidden.device.type != "cpu" or hidden.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return F.cross_entropy(F.linear(hidden, weight, bias).float(), target)
    if not torch.is_grad_enabled():  # the function below is told what requires gradients, not whether any are wanted
        hidden, weight, bias = hidden.detach(), weight.detach(), bias.detach()
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, bias, target, scratch or Scratch())  # type: ignore[no-untyped-call]  # torch does not annotate it
    return loss


def _tiles(tokens: int, vocabulary: int) -> Iterator[slice]:
    width = max(1, _TILE_ELEMENTS // tokens)
    return (slice(start, min(start + width, vocabulary)) for start in range(0, vocabulary, width))


class _LinearCrossEntropy(torch.autograd.Function):
    """Forms the gradients in the forward pass; the backward pass only scales them."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor, scratch: Scratch) -> Tensor:
        tokens, vocabulary = len(hidden), len(weight)
        learns = any(ctx.needs_input_grad)
        tiles = list(_tiles(tokens, vocabulary))
        width = vocabulary if learns else tiles[0].stop
        memory = scratch.take(tokens * width, hidden)
        exps, peaks, sums = [], [], []
        for tile in tiles:
            place = memory[tokens * tile.start : tokens * tile.stop] if learns else memory[: tokens * (tile.stop - tile.start)]
            logits = torch.addmm(bias[tile], hidden, weight[tile].T, out=place.view(tokens, -1))
            peak = logits.amax(1, keepdim=True)
            exps.append(logits.sub_(peak).exp_())
            peaks.append(peak)
            sums.append(logits.sum(1, keepdim=True))
        tops = torch.cat(peaks, 1)  # [tokens, tiles]
        log_mass = torch.logsumexp(tops + torch.cat(sums, 1).log(), 1, keepdim=True)
        goal_weight = weight[target]
        loss = (log_mass[:, 0] - (hidden * goal_weight).sum(1) - bias[target]).mean()
        if learns:
            scales = (tops - log_mass).exp().div_(tokens)  # exps * scales = softmax / tokens
            ctx.save_for_backward(*_gradients(hidden, weight, target, goal_weight, tiles, exps, scales))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        grads = ctx.saved_tensors
        return (*(grads if upstream == 1 else [grad * upstream for grad in grads]), None, None)


def _gradients(
    hidden: Tensor, weight: Tensor, target: Tensor, goal_weight: Tensor, tiles: list[slice], exps: list[Tensor], scales: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    tokens = len(hidden)
    grad_hidden = goal_weight.div(-tokens)
    grad_weight = torch.empty_like(weight)
    grad_bias = weight.new_empty(len(weight))
    product = torch.empty_like(hidden)
    for tile, exp, scale in zip(tiles, exps, torch.split(scales, 1, 1), strict=True):
        grad_hidden.addcmul_(torch.mm(exp, weight[tile], out=product), scale)
        torch.mm(exp.T, hidden * scale, out=grad_weight[tile])
        torch.mv(exp.T, scale[:, 0], out=grad_bias[tile])
    grad_weight.index_add_(0, target, hidden, alpha=-1 / tokens)
    grad_bias.index_add_(0, target, torch.full_like(scales[:, 0], -1 / tokens))
    return grad_hidden, grad_weight, grad_bias

"""Softmax layer and cross entropy in one, without the tensors that autograd would keep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_TILE_ELEMENTS = 1 << 19  # 2 MiB of float32: a tile of logits stays in cache between the operations on it
_MOST_TOKENS = 1024  # of which the exponentials of a vocabulary of some 10,000 stay in cache until the gradients read them


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
    return smoothed_cross_entropy(hidden, weight, bias, target, 0.0, scratch)[0]


def smoothed_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, smoothing: float, scratch: Scratch | None = None
) -> tuple[Tensor, Tensor]:
    """Mean cross entropy against targets of which ``smoothing`` is spread over all other tokens evenly, and that against the target alone.

    ``(1 - smoothing) * -log p(target) + smoothing / (vocabulary - 1) * sum of -log p(other)``: label smoothing as Tensor2Tensor, NeurST (which
    takes off the constant entropy of the smoothed target) and fairseq define it; torch's own spreads it over the target as well. Both
    in nats; only the first has gradients. The sum over the vocabulary is the hidden state times the sum of all weights, so it costs no pass.

    >>> hidden, weight, target = torch.randn(4, 3), torch.randn(7, 3), torch.tensor([0, 2, 6, 1])
    >>> loss, nll = smoothed_cross_entropy(hidden, weight, None, target, 0.1)
    >>> logs = (hidden @ weight.T).log_softmax(1)
    >>> gold = logs.gather(1, target[:, None])
    >>> bool(torch.isclose(loss, -(0.9 * gold + 0.1 / 6 * (logs.sum(1, keepdim=True) - gold)).mean()))
    True
    """
    vocabulary = len(weight)
    if hidden.device.type != "cpu" or hidden.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        logits = F.linear(hidden, weight, bias).float()
        if not smoothing:
            loss = F.cross_entropy(logits, target)
            return loss, loss.detach()
        loss = F.cross_entropy(logits, target, label_smoothing=smoothing * vocabulary / (vocabulary - 1))
        return loss, F.cross_entropy(logits.detach(), target)
    if not torch.is_grad_enabled():  # the function below is told what requires gradients, not whether any are wanted
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    spread = smoothing / (vocabulary - 1) if smoothing else 0.0
    losses: tuple[Tensor, Tensor] = _LinearCrossEntropy.apply(hidden, weight, bias, target, spread, scratch or Scratch())  # type: ignore[no-untyped-call]  # torch does not annotate it
    return losses


class Gradients(NamedTuple):
    """Of the mean loss, with respect to the hidden states, the weight and the bias."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None


def _tiles(tokens: int, vocabulary: int) -> Iterator[slice]:
    width = max(1, _TILE_ELEMENTS // tokens)
    return (slice(start, min(start + width, vocabulary)) for start in range(0, vocabulary, width))


class _LinearCrossEntropy(torch.autograd.Function):
    """Forms the gradients in the forward pass; the backward pass only scales them. ``spread`` is what each token but the target is expected with."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, spread: float, scratch: Scratch
    ) -> tuple[Tensor, Tensor]:
        tokens, vocabulary = len(hidden), len(weight)
        goal_weight, goal_bias = weight[target], 0.0 if bias is None else bias[target]
        goal = (hidden * goal_weight).sum(1)
        sharp = 1 - spread * vocabulary  # what the target is expected with beyond the others
        grads = None
        if any(ctx.needs_input_grad):
            grads = Gradients(goal_weight.div_(-tokens / sharp), torch.empty_like(weight), None if bias is None else torch.empty_like(bias))
        masses = []
        for rows in _parts(tokens):
            exps, tops, mass = _exponentials(hidden[rows], weight, bias, scratch, grads is not None)
            masses.append(mass)
            if grads is not None:
                _gradients(grads, rows, hidden, weight, exps, (tops - mass).exp().div_(tokens))  # exps * the last = softmax / tokens
        nll = (torch.cat(masses)[:, 0] - goal - goal_bias).mean()
        loss = nll.clone()
        if spread:
            every = hidden @ weight.sum(0) + (0.0 if bias is None else bias.sum())  # the sum of all logits
            loss += spread * (vocabulary * (goal + goal_bias) - every).mean()
        if grads is not None:
            _expect(grads, hidden, weight, target, sharp / tokens, spread / tokens)
            ctx.save_for_backward(*grads)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grads = [grad if grad is None or upstream == 1 else grad * upstream for grad in ctx.saved_tensors]
        return (*grads, None, None, None)


def _parts(tokens: int) -> list[slice]:
    """Rows that are gone through together: parts of like size, of ``_MOST_TOKENS`` at most."""
    size = -(-tokens // -(-tokens // _MOST_TOKENS))
    return [slice(start, start + size) for start in range(0, tokens, size)]


def _exponentials(hidden: Tensor, weight: Tensor, bias: Tensor | None, scratch: Scratch, keep: bool) -> tuple[list[Tensor], Tensor, Tensor]:
    """``exp(logits - maximum)`` by tiles ``[tokens, tile]``, the maxima ``[tokens, tiles]``, and the log of the sum of all ``[tokens, 1]``.

    Where they are not to be kept, all tiles share one place.
    """
    tokens, vocabulary = len(hidden), len(weight)
    tiles = list(_tiles(tokens, vocabulary))
    memory = scratch.take(tokens * (vocabulary if keep else tiles[0].stop), hidden)
    exps, peaks, sums = [], [], []
    for tile in tiles:
        place = memory[tokens * tile.start : tokens * tile.stop] if keep else memory[: tokens * (tile.stop - tile.start)]
        out, part = place.view(tokens, -1), weight[tile].T
        logits = torch.mm(hidden, part, out=out) if bias is None else torch.addmm(bias[tile], hidden, part, out=out)
        peak = logits.amax(1, keepdim=True)
        exps.append(logits.sub_(peak).exp_())
        peaks.append(peak)
        sums.append(logits.sum(1, keepdim=True))
    tops = torch.cat(peaks, 1)
    return exps, tops, torch.logsumexp(tops + torch.cat(sums, 1).log(), 1, keepdim=True)


def _gradients(grads: Gradients, rows: slice, hidden: Tensor, weight: Tensor, exps: list[Tensor], scales: Tensor) -> None:
    """Add what the softmax of these rows brings; the first rows find nothing there yet."""
    hidden = hidden[rows]
    product, scaled = torch.empty_like(hidden), torch.empty_like(hidden)
    begin = 0
    for exp, scale in zip(exps, torch.split(scales, 1, 1), strict=True):
        tile = slice(begin, begin := begin + exp.shape[1])
        grads.hidden[rows].addcmul_(torch.mm(exp, weight[tile], out=product), scale)
        torch.addmm(grads.weight[tile], exp.T, torch.mul(hidden, scale, out=scaled), beta=int(rows.start > 0), out=grads.weight[tile])
        if grads.bias is not None:
            torch.addmv(grads.bias[tile], exp.T, scale[:, 0], beta=int(rows.start > 0), out=grads.bias[tile])


def _expect(grads: Gradients, hidden: Tensor, weight: Tensor, target: Tensor, sharp: float, spread: float) -> None:
    """Take off what is expected: ``sharp`` of each target, ``spread`` of every token."""
    grads.weight.index_add_(0, target, hidden, alpha=-sharp)
    if grads.bias is not None:
        grads.bias.index_add_(0, target, torch.full_like(hidden[:, 0], -sharp))
    if spread:
        grads.hidden.sub_(weight.sum(0), alpha=spread)
        grads.weight.sub_(hidden.sum(0), alpha=spread)
        if grads.bias is not None:
            grads.bias.sub_(spread * len(hidden))

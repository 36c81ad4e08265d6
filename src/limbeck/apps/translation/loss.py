"""What a translation model is trained on: label-smoothed cross entropy over the tokens that are no padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from limbeck.apps.fused_loss import Scratch, smoothed_cross_entropy
from limbeck.apps.translation.batches import Batch
from limbeck.apps.translation.model import Transformer
from limbeck.apps.translation.subwords import PAD


class Losses(NamedTuple):
    """Sums over the target's tokens, in nats: ``total`` with label smoothing, which is what trains; ``nll`` without; and how many ``tokens``."""

    total: Tensor
    nll: Tensor
    tokens: int


def translation_loss(
    model: Transformer,
    batch: Batch,
    smoothing: float,
    scratch: Scratch | None = None,
    hidden: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Losses:
    """The losses of a batch; padding takes no part, and the softmax layer runs on the other tokens alone.

    Smoothing is NeurST's and fairseq's (``smoothed_cross_entropy``). ``scratch`` is memory that steps share; ``hidden`` computes the softmax
    layer's input where the model's own function is not to: ``torch.compile(model.hidden)``.

    >>> import torch
    >>> from limbeck.apps.translation.hparams import Sizes
    >>> model = Transformer(Sizes(width=8, heads=2, ffn=16), 20, 20)
    >>> words = torch.tensor([[5, 6, 3], [7, 3, 0]])
    >>> losses = translation_loss(model, Batch(words, words, words), smoothing=0.0)
    >>> losses.tokens, bool(losses.total.isclose(losses.nll))    # without smoothing what is trained on is the cross entropy
    (5, True)

    Raises ``ValueError`` for a smoothing outside of 0 to below 1.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"label_smoothing is a part of what is expected, from 0 to below 1, not {smoothing}")
    real = (batch.target_out != PAD).flatten().nonzero()[:, 0]
    states = (hidden or model.hidden)(batch.source, batch.target_in).flatten(0, 1).index_select(0, real)
    goal = batch.target_out.flatten().index_select(0, real)
    loss, nll = smoothed_cross_entropy(states, model.softmax.weight, model.softmax.bias, goal, smoothing, scratch)
    return Losses(loss * len(goal), nll * len(goal), len(goal))

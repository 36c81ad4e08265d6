"""The translation of highest score: beam search over cached keys and values; a beam of one is greedy search."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.apps.translation.model import KeysValues, State, Transformer
from limbeck.apps.translation.subwords import BOS, EOS, PAD

LONGER = 50
"""Tokens that a translation may have more than its source, as in Tensor2Tensor."""


def translate(
    model: Transformer, source_ids: Tensor, beam: int = 4, length_penalty: float = 0.6, max_length: int | None = None
) -> list[list[int]]:
    """The translations of ``source_ids`` ``[sentences, tokens]``, padded with 0: token numbers without bos and eos.

    Of all hypotheses that are met, the one of highest ``log p / ((5 + length) / 6) ** length_penalty`` (Wu et al. 2016, arXiv 1609.08144), where
    the length counts eos. In every step the ``beam`` best hypotheses that do not end go on; one that ends has finished if it is among the ``beam``
    best of all, as in fairseq. A sentence is done when ``beam`` hypotheses have finished, or when no open one can reach the best finished one.
    No translation is longer than ``max_length`` tokens, nor than its source, eos counted, and 50 more: there it must end. What comes out does not
    depend on the other sentences of the batch, but for rounding.

    >>> from limbeck.apps.translation.hparams import Sizes
    >>> model = Transformer(Sizes(width=8, heads=2, ffn=16), 20, 20)
    >>> [len(tokens) <= 5 for tokens in translate(model, torch.tensor([[5, 6, 3], [7, 3, 0]]), max_length=5)]
    [True, True]

    Raises ``ValueError`` for a beam, a penalty or a length that is too small.
    """
    if beam < 1:
        raise ValueError(f"beam_size is a number of hypotheses from 1 on, not {beam}")
    if length_penalty < 0:
        raise ValueError(f"length_penalty is a power from 0 on, not {length_penalty}")
    if max_length is not None and max_length < 1:
        raise ValueError(f"a translation of at most {max_length} tokens is none; give a length from 1 on")
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return _search(model, source_ids, beam, length_penalty, max_length)
    finally:
        model.train(training)


@dataclass
class _Open:
    """The sentences that are not done, and their hypotheses: ``tokens`` ``[sentences, beam, length]`` from bos on, ``scores`` ``[sentences, beam]``."""

    places: Tensor
    limits: Tensor
    finished: Tensor
    best: Tensor
    tokens: Tensor
    scores: Tensor
    state: State

    def keep(self, which: Tensor, parents: Tensor) -> None:
        """Go on with these sentences alone, and in each with what followed these hypotheses ``[sentences, beam]``."""
        beam = parents.shape[1]
        rows = (which[:, None] * beam + parents[which]).flatten()
        target = [KeysValues(*(part.index_select(0, rows) for part in seen)) for seen in self.state.target]
        source, mask = self.state.source, self.state.open
        if len(which) < len(self.places):
            source = [KeysValues(*(part.index_select(0, which) for part in seen)) for seen in source]
            mask = mask.index_select(0, which)
        self.state = State(target, source, mask)
        for name in ("places", "limits", "finished", "best", "tokens", "scores"):
            setattr(self, name, getattr(self, name).index_select(0, which))


def _begin(model: Transformer, source: Tensor, beam: int, max_length: int | None) -> _Open:
    sentences = len(source)
    state = model.start(source)
    target = [KeysValues(*(part.repeat_interleave(beam, 0) for part in seen)) for seen in state.target]
    limits = (source != PAD).sum(1) + LONGER
    scores = torch.full((sentences, beam), -math.inf, device=source.device)
    scores[:, 0] = 0
    return _Open(
        places=torch.arange(sentences, device=source.device),
        limits=limits if max_length is None else limits.clamp(max=max_length),
        finished=torch.zeros_like(limits),
        best=torch.full_like(scores[:, 0], -math.inf),
        tokens=source.new_full((sentences, beam, 1), BOS),
        scores=scores,
        state=state._replace(target=target),
    )


def _search(model: Transformer, source: Tensor, beam: int, alpha: float, max_length: int | None) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in source]
    left = _begin(model, source, beam, max_length)
    length = 0
    while len(left.places):
        length += 1
        logits, left.state = model.step(left.tokens[:, :, -1].flatten(), left.state)
        scores, tokens, parents = _candidates(left, logits.float(), length)
        ends = (tokens == EOS) & (torch.arange(scores.shape[1], device=scores.device) < beam) & (scores > -math.inf)
        _finish(left, found, scores.where(ends, -math.inf) / ((5 + length) / 6) ** alpha, parents)
        left.finished += ends.sum(1)
        scores, order = scores.masked_fill(tokens == EOS, -math.inf).topk(beam, 1)
        parents, tokens = parents.gather(1, order), tokens.gather(1, order)
        history = left.tokens.gather(1, parents[:, :, None].expand(-1, -1, length))
        left.tokens, left.scores = torch.cat((history, tokens[:, :, None]), 2), scores
        reach = scores[:, 0] / ((5 + left.limits + 1) / 6) ** alpha  # scores only fall, and the longest are divided by most
        goes_on = (left.finished < beam) & (reach > left.best)
        left.keep(goes_on.nonzero()[:, 0], parents)
    return found


def _candidates(left: _Open, logits: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best ``2 * beam`` continuations of every sentence, in order: scores, tokens and the hypotheses that they continue; no more than there are."""
    sentences, beam = left.scores.shape
    logs = left.scores.view(-1, 1) - logits.logsumexp(1, keepdim=True)
    logits[:, [PAD, BOS]] = -math.inf
    if bool((over := length > left.limits).any()):
        rows = over.repeat_interleave(beam)
        ends = logits[rows, EOS]
        logits[rows] = -math.inf
        logits[rows, EOS] = ends
    values, tokens = logits.topk(min(2 * beam, logits.shape[1]), 1)
    scores, order = (values + logs).view(sentences, -1).topk(min(2 * beam, beam * values.shape[1]), 1)
    return scores, tokens.view(sentences, -1).gather(1, order), order // values.shape[1]


def _finish(left: _Open, found: list[list[int]], scores: Tensor, parents: Tensor) -> None:
    """Note the hypotheses that end here, ``scores`` ``[sentences, candidates]`` (-inf for those that do not), where they beat what was found."""
    top, column = scores.max(1)
    better = (top > left.best).nonzero()[:, 0]
    if len(better):
        ended = left.tokens[better, parents[better, column[better]], 1:].tolist()
        for place, tokens in zip(left.places[better].tolist(), ended, strict=True):
            found[place] = tokens
        left.best[better] = top[better]

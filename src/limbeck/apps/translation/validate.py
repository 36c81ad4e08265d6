"""Translations of whole splits: their text, their BLEU, and what the model loses on the references."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from limbeck.apps.fused_loss import Scratch
from limbeck.apps.log import perplexity
from limbeck.apps.progress import Progress
from limbeck.apps.run import autocast
from limbeck.apps.translation.batches import Examples, evaluation_batches
from limbeck.apps.translation.bleu import Scores, score
from limbeck.apps.translation.loss import translation_loss
from limbeck.apps.translation.model import Transformer
from limbeck.apps.translation.search import translate
from limbeck.apps.translation.subwords import Subwords


@dataclass(frozen=True)
class Decoding:
    """How sentences are translated."""

    beam_size: int = 4
    length_penalty: float = 0.6
    batch_size: int = 64
    amp: bool = False


@dataclass(frozen=True)
class Validation:
    """What came of a split: ``loss`` in nats a token of the references, without label smoothing; BLEU in percent; tokens a second of both together."""

    loss: float
    scores: Scores
    tokens_per_second: float

    @property
    def measures(self) -> dict[str, float]:
        """For the log."""
        return {
            "loss": self.loss,
            "perplexity": perplexity(self.loss),
            "bleu": self.scores.detokenised,
            "tokenised_bleu": self.scores.tokenised,
        }


class PostponedError(Exception):
    """A validation was given up between two batches: there is no time for it now."""


def _go_on() -> None:
    """Nothing keeps a validation from its next batch."""


def translations(
    model: Transformer, examples: Examples, target: Subwords, how: Decoding, progress: Progress | None = None,
    before_batch: Callable[[], None] = _go_on,
) -> list[str]:  # fmt: skip
    """The translation of every sentence, in the examples' order; ``progress`` counts sentences."""
    device = next(model.parameters()).device
    batches = evaluation_batches(examples, how.batch_size, device)
    found = [""] * len(examples)
    for step, batch in enumerate(batches):
        before_batch()
        with autocast(device, how.amp):
            numbers = translate(model, batch.source, how.beam_size, how.length_penalty)
        for place, sentence in zip(batches.rows(step).tolist(), numbers, strict=True):
            found[place] = target.decode(sentence)
        if progress is not None:
            progress.advance(len(numbers))
    return found


@torch.no_grad()
def mean_loss(model: Transformer, examples: Examples, how: Decoding) -> float:
    """Negative log likelihood of the references, nats a token."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    total, tokens, scratch = 0.0, 0, Scratch()
    for batch in evaluation_batches(examples, how.batch_size, device):
        with autocast(device, how.amp):
            losses = translation_loss(model, batch, 0.0, scratch)
        total += float(losses.nll)
        tokens += losses.tokens
    model.train(was_training)
    return total / tokens


def validate(
    model: Transformer, examples: Examples, references: Sequence[str], subwords: Subwords, language: str, how: Decoding,
    progress: Progress | None = None, before_batch: Callable[[], None] = _go_on,
) -> Validation:  # fmt: skip
    """Translate a split and hold it against its references, which are text in ``language``; the model's mode stays as it is.

    ``before_batch`` is called before each batch of translations; what it raises, ``PostponedError`` for one, ends the validation.
    """
    began = time.monotonic()
    before_batch()
    loss = mean_loss(model, examples, how)
    found = score(translations(model, examples, subwords, how, progress, before_batch), references, language)
    tokens = int(examples.target.lengths.sum()) + len(examples)
    return Validation(loss, found, tokens / max(time.monotonic() - began, 1e-9))

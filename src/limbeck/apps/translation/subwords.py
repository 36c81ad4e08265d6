"""Subwords by SentencePiece (Kudo and Richardson 2018, arXiv 1808.06226): text to numbers and back, by a vocabulary that is learnt from text."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from limbeck.apps.translation.data import Pairs
from limbeck.errors import CheckpointError, DataError, did_you_mean, require

PAD, UNKNOWN, BOS, EOS = range(4)
"""The numbers that every vocabulary has for padding, for what it cannot write, and around a sentence."""
KINDS = ("unigram", "bpe")
"""The unigram language model (Kudo 2018, arXiv 1804.10959) and byte pair encoding (Sennrich et al. 2016, arXiv 1508.07909)."""
TOO_SMALL = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")


@dataclass(frozen=True)
class Subwords:
    """A vocabulary of subwords, as the bytes of a SentencePiece model; two are equal if their bytes are.

    >>> subwords = learn(["a still distils", "still a still"], size=13)
    >>> [numbers] = subwords.encode(["a still"])
    >>> subwords.decode(numbers), subwords.size
    ('a still', 13)
    >>> subwords == Subwords.of(subwords.tensor())
    True
    """

    model: bytes = field(repr=False)

    @cached_property
    def _processor(self) -> Any:
        return require("sentencepiece", "all").SentencePieceProcessor(model_proto=self.model)

    @property
    def size(self) -> int:
        """How many subwords there are, the four special ones counted."""
        return int(self._processor.get_piece_size())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Sentences as the numbers of their subwords, without those that begin and end a sentence."""
        found: list[list[int]] = self._processor.encode(list(texts), num_threads=1)
        return found

    def decode(self, numbers: Sequence[int]) -> str:
        """A sentence as text; padding and what begins and ends a sentence say nothing."""
        return str(self._processor.decode([number for number in numbers if number not in (PAD, BOS, EOS)]))

    def tensor(self) -> Tensor:
        """The model as ``[bytes]`` of uint8, for a checkpoint."""
        return torch.frombuffer(bytearray(self.model), dtype=torch.uint8)

    @classmethod
    def of(cls, tensor: Tensor) -> Subwords:
        """The vocabulary that ``tensor()`` gave; raises ``CheckpointError`` where it is none."""
        subwords = cls(tensor.cpu().numpy().tobytes())
        try:
            subwords.encode([""])
        except RuntimeError:
            raise CheckpointError(
                f"a tensor of {tensor.numel():,} bytes is no vocabulary of SentencePiece; take another checkpoint of the run"
            ) from None
        return subwords


@dataclass(frozen=True)
class Vocabularies:
    """The subwords of both languages: the same ones where they share them; ``notes`` says what was not as asked."""

    source: Subwords
    target: Subwords
    notes: tuple[str, ...] = ()


def learn_both(pairs: Pairs, size: int, kind: str = "unigram", separate: bool = False) -> Vocabularies:
    """One vocabulary from the sentences of both languages, or one from each.

    >>> both = learn_both(Pairs(("a still", "stills"), ("ein Kolben", "Kolben")), size=1000)
    >>> both.source is both.target, both.notes == (f"the vocabulary has {both.source.size} subwords, not 1,000: the text has no more",)
    (True, True)
    """
    texts = (pairs.source, pairs.target) if separate else ((*pairs.source, *pairs.target),)
    found = [learn(text, size, kind) for text in texts]
    names = ("the source's vocabulary", "the target's vocabulary") if separate else ("the vocabulary",)
    notes = [
        f"{name} has {subwords.size:,} subwords, not {size:,}: the text has no more"
        for name, subwords in zip(names, found, strict=True)
        if subwords.size < size
    ]
    return Vocabularies(found[0], found[-1], tuple(notes))


def learn(texts: Iterable[str], size: int, kind: str = "unigram") -> Subwords:
    """A vocabulary of ``size`` subwords, or as many as the texts have; the same texts give the same one.

    Every character of the texts is in it. Text is brought to one form first: Unicode NFKC, single blanks.
    Raises ``DataError`` for texts without a character, and for a size that cannot hold their characters; ``ValueError`` for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"a vocabulary is of the kind {' or '.join(KINDS)}, not '{kind}'{did_you_mean(kind, KINDS)}")
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise DataError("no vocabulary can be learnt from nothing; give sentences to train on")
    try:
        return _learn(texts, max(size, EOS + 1), kind)
    except RuntimeError as error:
        if few := TOO_SMALL.search(str(error)):
            raise DataError(
                f"a vocabulary of {size:,} subwords cannot hold the {int(few[1]) - 4:,} characters of the text; give --vocabulary {few[1]} or more"
            ) from None
        raise DataError(
            f"SentencePiece cannot learn a vocabulary of {size:,} subwords from these texts; give more text ({error})"
        ) from error


def _learn(texts: Sequence[str], size: int, kind: str) -> Subwords:
    """Train SentencePiece in one thread, on all texts, however long."""
    model = io.BytesIO()
    require("sentencepiece", "all").SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type=kind, vocab_size=size, hard_vocab_limit=False,
        character_coverage=1.0, normalization_rule_name="nmt_nfkc", max_sentence_length=10 + 4 * max(map(len, texts)),
        pad_id=PAD, unk_id=UNKNOWN, bos_id=BOS, eos_id=EOS, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return Subwords(model.getvalue())

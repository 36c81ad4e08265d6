"""Text for the language model: a corpus as three streams of word numbers, columns of text, and the windows that training steps over.

``load_corpus`` takes a folder with ``train.txt``, ``valid.txt`` and ``test.txt``, or one of the names ``wikitext-2`` and ``docs``.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from limbeck.apps.hub import fetch
from limbeck.apps.lm.docs import docs_texts
from limbeck.errors import DataError, did_you_mean, require

DOCS = "docs"
WIKITEXT_2 = "wikitext-2"
END_OF_LINE = "<eos>"
SPLITS = ("train", "valid", "test")

WIKITEXT_REPOSITORY = "Salesforce/wikitext"
WIKITEXT_FILES = {
    "train": "wikitext-2-v1/train-00000-of-00001.parquet",
    "valid": "wikitext-2-v1/validation-00000-of-00001.parquet",
    "test": "wikitext-2-v1/test-00000-of-00001.parquet",
}


@dataclass(frozen=True)
class Vocabulary:
    """The words of a corpus; a word's number is its place.

    >>> vocabulary = Vocabulary(("the", "still", "<eos>"))
    >>> vocabulary.encode(["still", "the"]), len(vocabulary)
    (tensor([1, 0]), 3)
    """

    words: tuple[str, ...]

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Each word's number."""
        return {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, words: Iterable[str]) -> Tensor:
        """Words to their numbers, ``[words]`` of int64; raises ``DataError`` for a word that is not in the vocabulary."""
        try:
            numbers = array("q", map(self.index.__getitem__, words))
        except KeyError as error:
            word = str(error.args[0])
            raise DataError(f"'{word}' is not in the vocabulary of {len(self)} words{did_you_mean(word, self.words)}") from None
        return torch.frombuffer(numbers, dtype=torch.int64) if numbers else torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class Corpus:
    """A text in three parts, each ``[tokens]`` of word numbers, and the vocabulary that they share."""

    vocabulary: Vocabulary
    train: Tensor
    valid: Tensor
    test: Tensor

    @property
    def words(self) -> list[str]:
        """The vocabulary as a list."""
        return list(self.vocabulary.words)

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the three token streams, each with its length."""
        digest = hashlib.sha256()
        for tokens in (self.train, self.valid, self.test):
            digest.update(f"{tokens.numel()} ".encode() + tokens.numpy().tobytes())
        return digest.hexdigest()


def load_corpus(spec: str = DOCS) -> Corpus:
    """The corpus that ``--data`` names: a folder, ``wikitext-2`` or ``docs``.

    Words are what stands between white space, each line ends with ``<eos>``, and the vocabulary lists all words of train, valid and
    test in order of first appearance.

    Raises ``DataError`` when a file is missing, empty or not UTF-8, when a download fails, and for a name that means nothing.
    """
    if spec == DOCS:
        return corpus_of(docs_texts())
    if spec == WIKITEXT_2:
        return corpus_of(_wikitext_2())
    folder = Path(spec).expanduser()
    if not folder.is_dir():
        guess = did_you_mean(spec, (DOCS, WIKITEXT_2))
        raise DataError(
            f"no corpus '{spec}': it is neither a folder with train.txt, valid.txt and test.txt, nor '{WIKITEXT_2}', nor '{DOCS}'"
            f"{guess or '; give --data one of these'}"
        )
    return corpus_of({split: _read(folder / f"{split}.txt") for split in SPLITS})


def corpus_of(texts: Mapping[str, str]) -> Corpus:
    r"""The corpus of three texts.

    >>> corpus = corpus_of({"train": "a rose is\na rose\n", "valid": "a still", "test": "is"})
    >>> corpus.words
    ['a', 'rose', 'is', '<eos>', 'still']
    >>> corpus.train.tolist(), corpus.valid.tolist()
    ([0, 1, 2, 3, 0, 1, 3], [0, 4, 3])
    """
    tokens = {split: _tokens(texts[split]) for split in SPLITS}
    vocabulary = Vocabulary(tuple(dict.fromkeys(word for split in SPLITS for word in dict.fromkeys(tokens[split]))))
    return Corpus(vocabulary, *(vocabulary.encode(tokens[split]) for split in SPLITS))


def _tokens(text: str) -> list[str]:
    return (text if text.endswith("\n") or not text else text + "\n").replace("\n", f" {END_OF_LINE} ").split()


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{file} is missing; a corpus folder has train.txt, valid.txt and test.txt") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text (byte {error.start}); convert it, with iconv for one") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    if not text.strip():
        raise DataError(f"{file} is empty; put text into it, one sentence or paragraph a line")
    return text


def _wikitext_2() -> dict[str, str]:
    """WikiText-2 (Merity et al. 2016) as word-level text, from the Hugging Face hub or its cache."""
    texts = {}
    for split, name in WIKITEXT_FILES.items():
        file = fetch(
            WIKITEXT_REPOSITORY, name, WIKITEXT_2, f"give --data a folder with train.txt, valid.txt and test.txt, or --data {DOCS}"
        )
        rows = require("pyarrow.parquet", "all").read_table(file, columns=["text"]).column("text").to_pylist()
        texts[split] = "".join(row if row.endswith("\n") else row + "\n" for row in rows)
    return texts


def batchify(tokens: Tensor, batch: int) -> Tensor:
    """A text ``[tokens]`` as ``batch`` columns ``[time, batch]``, each a contiguous piece of it; the rest is cut off.

    >>> batchify(torch.arange(7), 2)
    tensor([[0, 3],
            [1, 4],
            [2, 5]])

    Raises ``DataError`` when a column would have fewer than two words, one to read and one to predict.
    """
    time = tokens.numel() // batch
    if time < 2:
        raise DataError(
            f"a text of {tokens.numel()} words is too short for {batch} columns of at least two; give a longer text or a smaller --batch-size"
        )
    return tokens[: time * batch].view(batch, time).t().contiguous()


class Batches(Sequence[tuple[Tensor, Tensor]]):
    """Windows of up to ``bptt`` steps over ``[time, batch]``: inputs ``[t, batch]`` and the words that follow them, ``[t * batch]``.

    A slice is again a ``Batches`` and copies nothing: ``batches[400:]`` is what is left of an epoch after 400 steps.

    >>> batches = Batches(batchify(torch.arange(14), 2), bptt=4)
    >>> [(tuple(inputs.shape), targets.tolist()) for inputs, targets in batches]
    [((4, 2), [1, 8, 2, 9, 3, 10, 4, 11]), ((2, 2), [5, 12, 6, 13])]
    >>> len(batches), len(batches[1:])
    (2, 1)
    """

    def __init__(self, data: Tensor, bptt: int, steps: range | None = None) -> None:
        if bptt < 1:
            raise ValueError(f"bptt is a number of words, 1 or more, not {bptt}")
        self.data, self.bptt = data, bptt
        self._starts = range(0, data.shape[0] - 1, bptt) if steps is None else steps

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]: ...
    @overload
    def __getitem__(self, step: slice) -> Batches: ...
    def __getitem__(self, step: int | slice) -> tuple[Tensor, Tensor] | Batches:
        if isinstance(step, slice):
            return Batches(self.data, self.bptt, self._starts[step])
        begin = self._starts[step]
        end = min(begin + self.bptt, self.data.shape[0] - 1)
        return self.data[begin:end], self.data[begin + 1 : end + 1].reshape(-1)

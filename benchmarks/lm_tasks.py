"""The language model's training step as the benchmarks take it: sizes, data, and what a step's matrix products cost."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.apps.lm.data import Batches, batchify, load_corpus
from limbeck.apps.lm.model import RNNModel

VOCABULARY = 33_278  # of WikiText-2


@dataclass(frozen=True)
class Sizes:
    """The model and its batches; the defaults are the application's, on WikiText-2."""

    emsize: int = 200
    nhid: int = 200
    nlayers: int = 2
    vocabulary: int = VOCABULARY
    tied: bool = True
    dropout: float = 0.2
    batch: int = 20
    bptt: int = 35

    @property
    def tokens(self) -> int:
        """Words a step."""
        return self.batch * self.bptt

    @property
    def matrix_operations(self) -> int:
        """Multiplications and additions of a step's matrix products: forward, and twice as many backward."""
        widths = [self.emsize] + [self.nhid] * (self.nlayers - 1)
        recurrent = sum(4 * self.nhid * (width + self.nhid) for width in widths)
        return 3 * 2 * self.tokens * (recurrent + self.nhid * self.vocabulary)

    def model(self) -> RNNModel:
        """The application's LSTM."""
        return RNNModel("LSTM", self.vocabulary, self.emsize, self.nhid, self.nlayers, self.dropout, self.tied)


def add_size_options(parser: argparse.ArgumentParser) -> None:
    default = Sizes()
    parser.add_argument("--emsize", type=int, default=default.emsize, help="size of the word embeddings; tied, it equals --nhid")
    parser.add_argument("--nhid", type=int, default=default.nhid, help="hidden units of a layer")
    parser.add_argument("--batch-size", type=int, default=default.batch)
    parser.add_argument("--bptt", type=int, default=default.bptt, help="words a column and step")
    parser.add_argument("--data", help="folder of WikiText-2; without it, random words with a frequency of 1 / rank")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")


def text(options: argparse.Namespace, steps: int) -> tuple[Sizes, Batches]:
    """The sizes that the options ask for, and a text that is long enough for so many steps."""
    needed = options.batch_size * (options.bptt * steps + 1)
    if options.data:
        corpus = load_corpus(options.data)
        words, vocabulary = corpus.train, len(corpus.words)
        words = words.repeat(-(-needed // len(words)))
    else:
        words, vocabulary = zipf(needed), VOCABULARY
    sizes = Sizes(options.emsize, options.nhid, vocabulary=vocabulary, batch=options.batch_size, bptt=options.bptt)
    return sizes, Batches(batchify(words, sizes.batch), sizes.bptt)


def zipf(words: int, vocabulary: int = VOCABULARY) -> Tensor:
    """Word numbers ``[words]``, drawn with a probability of 1 / rank (Zipf's law), the most frequent word first."""
    frequency = 1 / torch.arange(1, vocabulary + 1, dtype=torch.float64)
    return torch.multinomial(frequency, words, replacement=True, generator=torch.Generator().manual_seed(1111))

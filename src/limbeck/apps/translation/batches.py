"""Batches of sentence pairs of like length: the same ones for the same seed, epoch and step, whenever and wherever they are asked for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from limbeck.apps.rng import generator
from limbeck.apps.translation.subwords import BOS, EOS, PAD
from limbeck.errors import DataError

Lengths = np.ndarray[tuple[int], np.dtype[np.int64]]


class Batch(NamedTuple):
    """Numbers of subwords, int64, padded with 0: ``source [batch, s]`` and ``target_out [batch, t]`` end sentences, ``target_in [batch, t]`` begins them."""

    source: Tensor
    target_in: Tensor
    target_out: Tensor


@dataclass(frozen=True, eq=False)
class Sentences:
    """Sentences of many lengths in one tensor: ``flat [subwords]`` of int32, and ``starts [sentences + 1]`` of int64, where each begins."""

    flat: Tensor
    starts: Tensor

    @classmethod
    def of(cls, sentences: Sequence[Sequence[int]]) -> Sentences:
        """Lists of numbers of subwords."""
        lengths = torch.tensor([0, *map(len, sentences)])
        return cls(torch.tensor([*chain.from_iterable(sentences)], dtype=torch.int32), lengths.cumsum(0))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Tensor:
        """How many subwords each sentence has, ``[sentences]``, without those that begin and end it."""
        return self.starts.diff()

    def padded(self, rows: Tensor) -> Tensor:
        """Some sentences between the numbers that begin and end them, ``[rows, longest + 2]`` of int64, padded with 0.

        >>> Sentences.of([[7], [8, 9, 5], [6]]).padded(torch.tensor([1, 0]))
        tensor([[2, 8, 9, 5, 3],
                [2, 7, 3, 0, 0]])
        """
        starts, lengths = self.starts[rows], self.lengths[rows]
        place = torch.arange(int(lengths.max()))
        inside = place < lengths[:, None]
        out = torch.full((len(rows), len(place) + 2), PAD)
        out[:, 0] = BOS
        out[:, 1:-1][inside] = self.flat[(starts[:, None] + place)[inside]].long()
        out[torch.arange(len(rows)), lengths + 1] = EOS
        return out


@dataclass(frozen=True, eq=False)
class Examples:
    """Sentences and their translations, place by place.

    >>> examples = Examples.of([[5], [6, 7]], [[8, 9, 4], [4]])
    >>> len(examples), examples.longer.tolist()
    (2, [3, 2])
    """

    source: Sentences
    target: Sentences

    @classmethod
    def of(cls, source: Sequence[Sequence[int]], target: Sequence[Sequence[int]] | None = None) -> Examples:
        """Lists of numbers of subwords, as ``Subwords.encode`` gives them; without ``target`` every translation is empty.

        Raises ``ValueError`` where there are not as many of both.
        """
        target = [()] * len(source) if target is None else target
        if len(source) != len(target):
            raise ValueError(f"{len(source):,} sentences and {len(target):,} translations do not make pairs")
        return cls(Sentences.of(source), Sentences.of(target))

    def __len__(self) -> int:
        return len(self.source)

    @cached_property
    def longer(self) -> Tensor:
        """The length of the longer side of each pair, ``[pairs]``."""
        return torch.maximum(self.source.lengths, self.target.lengths)

    def __getitem__(self, rows: Tensor) -> Batch:
        """The batch of some pairs, by their places ``[rows]``; padded to the longest of each side.

        >>> Examples.of([[5], [6, 7]], [[8, 9, 4], [4]])[torch.tensor([1])]
        Batch(source=tensor([[6, 7, 3]]), target_in=tensor([[2, 4]]), target_out=tensor([[4, 3]]))
        """
        target = self.target.padded(rows)
        inputs = target[:, :-1]
        return Batch(self.source.padded(rows)[:, 1:], inputs.masked_fill(inputs == EOS, PAD), target[:, 1:].contiguous())


@dataclass(frozen=True, eq=False)
class Batches(Sequence[Batch]):
    """The batches between ``cuts [batches + 1]`` of examples in the order of their lengths, on ``device``.

    With a ``seed`` each ``epoch`` draws anew which of the pairs of one length share a batch, and the order of the batches; their number and sizes
    stay. Without one they come shortest first, always the same. A batch is a function of seed, epoch and step alone, so that a resumed run
    sees what the first would have seen. A slice is again a ``Batches``: ``batches.epoch(3)[400:]`` is what is left of epoch 3 after 400
    steps, and enters there at once.

    >>> batches = training_batches(Examples.of([[5], [6, 7], [8], [9, 10, 11]], [[4], [5], [6, 7, 8], [9]]), tokens=8, seed=1)
    >>> len(batches), sorted(len(batch.source) for batch in batches.epoch(3))
    (2, [2, 2])
    >>> batches.epoch(3)[1:][0].source.equal(batches.epoch(3)[1].source)
    True
    """

    examples: Examples
    cuts: Tensor
    seed: int | None = None
    device: torch.device | str = "cpu"
    number: int = 0
    window: range | None = None

    def epoch(self, number: int) -> Batches:
        """All batches of an epoch, counted from 0."""
        return replace(self, number=number, window=None)

    @property
    def _window(self) -> range:
        return range(len(self.cuts) - 1) if self.window is None else self.window

    def __len__(self) -> int:
        return len(self._window)

    @overload
    def __getitem__(self, step: int) -> Batch: ...
    @overload
    def __getitem__(self, step: slice) -> Batches: ...
    def __getitem__(self, step: int | slice) -> Batch | Batches:
        if isinstance(step, slice):
            return replace(self, window=self._window[step])
        batch = self.examples[self.rows(step)]
        return batch if torch.device(self.device).type == "cpu" else Batch(*(tensor.to(self.device) for tensor in batch))

    def rows(self, step: int) -> Tensor:
        """The places of the pairs of a batch among the examples, ``[batch]``."""
        order, turns = self._drawn
        number = turns[self._window[step]]
        return order[self.cuts[number] : self.cuts[number + 1]]

    @cached_property
    def _drawn(self) -> tuple[Tensor, Tensor]:
        """The examples from the shortest to the longest, ``[pairs]``, and the order of the batches between them, ``[batches]``."""
        batches = len(self.cuts) - 1
        if self.seed is None:
            return self.examples.longer.argsort(stable=True), torch.arange(batches)
        chance = generator(self.seed, self.number)
        shuffled = torch.randperm(len(self.examples), generator=chance)
        return shuffled[self.examples.longer[shuffled].argsort(stable=True)], torch.randperm(batches, generator=chance)


def training_batches(examples: Examples, tokens: int, seed: int, device: torch.device | str = "cpu") -> Batches:
    """Batches of up to ``tokens`` subwords: pairs times the longest side of any, with the one that ends it, padding counted.

    Raises ``DataError`` where there is nothing to train on, and for a pair that does not fit into a batch.
    """
    if not len(examples):
        raise DataError("there are no pairs to train on")
    longest = int(examples.longer.max()) + 1
    if longest > tokens:
        raise DataError(
            f"a training pair has {longest:,} subwords on a side and does not fit into a batch of {tokens:,}; give a larger --batch_tokens, or "
            "leave long pairs out by --max_length"
        )
    return Batches(examples, _even_cuts(examples.longer.sort().values.numpy() + 1, tokens), seed, device)


def evaluation_batches(examples: Examples, sentences: int, device: torch.device | str = "cpu") -> Batches:
    """Batches of so many pairs, the shortest first; ``rows(step)`` tells which ones, so that what is found can be put in the examples' order.

    >>> batches = evaluation_batches(Examples.of([[5, 6], [], [7]]), sentences=2)
    >>> [(batches.rows(step).tolist(), batch.source.tolist()) for step, batch in enumerate(batches)]
    [([1, 2], [[3, 0], [7, 3]]), ([0], [[5, 6, 3]])]

    Raises ``ValueError`` for a size under one.
    """
    if sentences < 1:
        raise ValueError(f"a batch has one sentence or more, not {sentences}")
    count = len(examples)
    return Batches(examples, torch.tensor([*range(0, count, sentences), count]), device=device)


def within(examples: Examples, most: int) -> tuple[Examples, list[str]]:
    """The pairs of which no side has more than ``most`` subwords, and a note that says how many others there were.

    >>> kept, notes = within(Examples.of([[5], [6, 7]], [[8], [4]]), most=1)
    >>> len(kept), notes
    (1, ['1 of 2 training pairs is longer than 1 subword and left out (--max_length)'])

    Raises ``DataError`` where all are longer.
    """
    keep = (examples.longer <= most).nonzero().flatten()
    if len(keep) == len(examples):
        return examples, []
    if not len(keep):
        raise DataError(
            f"all {len(examples):,} training pairs are longer than --max_length {most:,}; the shortest has {int(examples.longer.min()):,}"
        )
    dropped = len(examples) - len(keep)
    note = (
        f"{dropped:,} of {len(examples):,} training pairs {'is' if dropped == 1 else 'are'} longer than {most:,} subword{'s' * (most != 1)}"
    )
    return Examples(_chosen(examples.source, keep), _chosen(examples.target, keep)), [f"{note} and left out (--max_length)"]


def _chosen(sentences: Sentences, rows: Tensor) -> Sentences:
    chosen = torch.zeros(len(sentences), dtype=torch.bool)
    chosen[rows] = True
    lengths = sentences.lengths
    return Sentences(sentences.flat[chosen.repeat_interleave(lengths)], torch.cat([torch.zeros(1).long(), lengths[rows].cumsum(0)]))


def _even_cuts(lengths: Lengths, tokens: int) -> Tensor:
    """Where to cut lengths in rising order, so that each piece times its longest is ``tokens`` at most: ``[pieces + 1]``.

    There are as few pieces as that allows, and they are as even as can be: no piece may have more than as many of them need. Otherwise the
    longest pair could be alone in the last batch, and weigh as much as all of another.

    >>> _even_cuts(np.array([2, 2, 2, 2, 2, 2]), 8), _cuts(np.array([2, 2, 2, 2, 2, 2]), 8)
    (tensor([0, 3, 6]), [0, 4, 6])
    """
    fewest = len(_cuts(lengths, tokens))
    caps = range(int(lengths[-1]), tokens)
    least = bisect_left(caps, True, key=lambda cap: len(_cuts(lengths, cap)) == fewest)
    return torch.tensor(_cuts(lengths, caps[least] if least < len(caps) else tokens))


def _cuts(lengths: Lengths, tokens: int) -> list[int]:
    """Where to cut lengths in rising order, each piece as long as ``tokens`` allows."""
    cuts = [0]
    while cuts[-1] < len(lengths):
        ahead = lengths[cuts[-1] : cuts[-1] + tokens // int(lengths[cuts[-1]])]
        cuts.append(cuts[-1] + int(np.searchsorted(ahead * np.arange(1, len(ahead) + 1), tokens, side="right")))
    return cuts

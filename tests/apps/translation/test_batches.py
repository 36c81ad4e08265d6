from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from limbeck import Scheduler
from limbeck.apps.translation.batches import Batch, Batches, Examples, evaluation_batches, training_batches, within
from limbeck.apps.translation.subwords import BOS, EOS, PAD
from limbeck.errors import DataError

Lists = list[list[int]]
LENGTHS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=40)


def lists(lengths: list[tuple[int, int]]) -> tuple[Lists, Lists]:
    """Sentences of some lengths that tell their pair by their first number: what follows the special ones."""
    source = [[100 + place, *range(10, 9 + one)] if one else [] for place, (one, _) in enumerate(lengths)]
    target = [[100 + place, *range(50, 49 + other)] if other else [] for place, (_, other) in enumerate(lengths)]
    return source, target


def many(count: int, seed: int = 0) -> Examples:
    chance = random.Random(seed)
    return Examples.of(*lists([(chance.randint(1, 30), chance.randint(1, 30)) for _ in range(count)]))


def rows_of(batches: Batches) -> list[list[int]]:
    return [batches.rows(step).tolist() for step in range(len(batches))]


def same(one: Batch, two: Batch) -> bool:
    return all(torch.equal(*pair) for pair in zip(one, two, strict=True))


def unpadded(tensor: Tensor) -> Lists:
    """The rows of a padded tensor; raises where padding does not stand at the end alone."""
    found = [row[: row.index(PAD)] if PAD in row else row for row in tensor.tolist()]
    assert all(row[len(kept) :] == [PAD] * (len(row) - len(kept)) for row, kept in zip(tensor.tolist(), found, strict=True))
    return found


@given(lengths=LENGTHS, spare=st.integers(0, 60), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 4))
def test_an_epoch_has_every_pair_once_with_what_begins_and_ends_it(
    lengths: list[tuple[int, int]], spare: int, seed: int, epoch: int
) -> None:
    source, target = lists(lengths)
    tokens = max(map(max, lengths)) + 1 + spare
    batches = training_batches(Examples.of(source, target), tokens, seed).epoch(epoch)
    assert sorted(row for rows in rows_of(batches) for row in rows) == list(range(len(lengths)))
    for step, batch in enumerate(batches):
        rows = batches.rows(step).tolist()
        assert unpadded(batch.source) == [[*source[row], EOS] for row in rows]
        assert unpadded(batch.target_in) == [[BOS, *target[row]] for row in rows]
        assert unpadded(batch.target_out) == [[*target[row], EOS] for row in rows]
        assert {tensor.dtype for tensor in batch} == {torch.int64}
        assert batch.target_in.shape == batch.target_out.shape
        width = max(batch.source.shape[1], batch.target_in.shape[1])
        assert width == max(max(len(source[row]), len(target[row])) for row in rows) + 1
        assert len(rows) * width <= tokens


@given(lengths=LENGTHS, spare=st.integers(0, 60))
def test_there_are_as_few_batches_as_can_be_and_the_largest_is_as_small_as_can_be(lengths: list[tuple[int, int]], spare: int) -> None:
    """Against greedy cutting with every cap: of consecutive pieces, filling each as far as it goes makes the fewest."""
    longer = sorted(max(pair) + 1 for pair in lengths)
    tokens = longer[-1] + spare

    def pieces(cap: int) -> list[int]:
        found, begin = [], 0
        for end in range(1, len(longer) + 1):
            if end == len(longer) or (end + 1 - begin) * longer[end] > cap:
                found.append((end - begin) * longer[end - 1])
                begin = end
        return found

    cuts = training_batches(Examples.of(*lists(lengths)), tokens, 0).cuts.tolist()
    sizes = [(end - begin) * longer[end - 1] for begin, end in pairwise(cuts)]
    fewest = len(pieces(tokens))
    assert len(sizes) == fewest
    assert max(sizes) <= min(cap for cap in range(longer[-1], tokens + 1) if len(pieces(cap)) == fewest)


def test_epochs_have_the_same_sizes_and_other_neighbours() -> None:
    batches = training_batches(many(300), 120, seed=1)
    shapes = [
        sorted((len(batch.source), max(batch.source.shape[1], batch.target_in.shape[1])) for batch in batches.epoch(e)) for e in (0, 1)
    ]
    assert shapes[0] == shapes[1]
    first, second, other = rows_of(batches.epoch(0)), rows_of(batches.epoch(1)), rows_of(training_batches(many(300), 120, seed=2))
    assert [len(rows) for rows in first] != [len(rows) for rows in second]  # the order of the batches
    assert sorted(map(sorted, first)) != sorted(map(sorted, second))  # what is in them
    assert first != other
    assert first == rows_of(batches) == rows_of(batches.epoch(1).epoch(0))


def test_like_lengths_share_a_batch() -> None:
    examples = many(2000)
    wide = sum(max(batch.source.numel(), batch.target_in.numel()) for batch in training_batches(examples, 600, seed=3))
    assert wide < 1.05 * int((examples.longer + 1).sum())


@given(lengths=LENGTHS, start=st.integers(0, 50), stop=st.integers(0, 50))
def test_a_slice_goes_on_where_the_epoch_stood(lengths: list[tuple[int, int]], start: int, stop: int) -> None:
    whole = training_batches(Examples.of(*lists(lengths)), 26, seed=7).epoch(2)
    rest = whole[start:][:stop]
    assert len(rest) == len(range(len(whole))[start:][:stop])
    assert all(same(*pair) for pair in zip(rest, list(whole)[start:][:stop], strict=True))
    assert rows_of(rest) == rows_of(whole)[start:][:stop]
    assert same(whole[-1], list(whole)[-1])


def test_a_run_that_resumes_sees_what_the_first_would_have_seen() -> None:
    batches = training_batches(many(100), 100, seed=5)
    seen: list[Batch] = []
    state = None
    scheduler = Scheduler(torch.nn.Linear(1, 1))
    for epoch in scheduler.epochs(3):
        for step, batch in enumerate(scheduler.steps(batches.epoch(epoch))):
            seen.append(batch)
            if (epoch, step) == (1, 3):
                state = scheduler.state_dict()
    assert state is not None
    resumed = Scheduler(torch.nn.Linear(1, 1))
    resumed.load_state_dict(state)
    again = [batch for epoch in resumed.epochs(3) for batch in resumed.steps(training_batches(many(100), 100, seed=5).epoch(epoch))]
    assert len(again) == 2 * len(batches) - 3
    assert all(same(*pair) for pair in zip(again, seen[-len(again) :], strict=True))


@given(lengths=LENGTHS, size=st.integers(1, 9))
def test_evaluation_has_every_pair_once_from_the_shortest_on(lengths: list[tuple[int, int]], size: int) -> None:
    source, target = lists(lengths)
    batches = evaluation_batches(Examples.of(source, target), size)
    order = [row for rows in rows_of(batches) for row in rows]
    assert sorted(order) == list(range(len(lengths)))
    assert [max(lengths[row]) for row in order] == sorted(map(max, lengths))
    assert {len(rows) for rows in rows_of(batches)[:-1]} <= {size}
    restored: list[list[int]] = [[]] * len(source)
    for step, batch in enumerate(batches):
        for row, sentence in zip(batches.rows(step).tolist(), unpadded(batch.source), strict=True):
            restored[row] = sentence
    assert restored == [[*sentence, EOS] for sentence in source]
    assert rows_of(batches) == rows_of(evaluation_batches(Examples.of(source, target), size))


def test_sentences_without_a_translation_go_by_their_own_length() -> None:
    batches = evaluation_batches(Examples.of([[9, 9, 9], [8], [7, 7]]), 2)
    assert rows_of(batches) == [[1, 2], [0]]
    assert batches[0].target_in.tolist() == [[BOS], [BOS]]
    assert len(evaluation_batches(Examples.of([]), 2)) == 0


@given(lengths=LENGTHS, most=st.integers(0, 12))
def test_long_pairs_are_left_out_and_counted(lengths: list[tuple[int, int]], most: int) -> None:
    source, target = lists(lengths)
    short = [row for row, pair in enumerate(lengths) if max(pair) <= most]
    if not short:
        with pytest.raises(DataError, match=f"are longer than --max_length {most}; the shortest has {min(map(max, lengths))}"):
            within(Examples.of(source, target), most)
        return
    kept, notes = within(Examples.of(source, target), most)
    whole = evaluation_batches(kept, len(kept))[0]
    order = evaluation_batches(kept, len(kept)).rows(0).tolist()
    assert unpadded(whole.source) == [[*source[short[row]], EOS] for row in order]
    assert unpadded(whole.target_in) == [[BOS, *target[short[row]]] for row in order]
    dropped = len(lengths) - len(short)
    assert [note.split(" longer")[0] for note in notes] == (
        [f"{dropped} of {len(lengths)} training pairs {'is' if dropped == 1 else 'are'}"] if dropped else []
    )


def test_what_makes_no_batches_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"a training pair has 4 subwords on a side and does not fit into a batch of 3; give a larger --batch_tokens"
    ):
        training_batches(Examples.of([[5]], [[5, 6, 7]]), 3, seed=0)
    with pytest.raises(DataError, match="there are no pairs to train on"):
        training_batches(Examples.of([], []), 3, seed=0)
    with pytest.raises(ValueError, match="2 sentences and 1 translations do not make pairs"):
        Examples.of([[5], [6]], [[5]])
    with pytest.raises(ValueError, match="a batch has one sentence or more, not 0"):
        evaluation_batches(Examples.of([[5]]), 0)


def test_batches_lie_on_the_device() -> None:
    assert {tensor.device.type for tensor in training_batches(many(3), 40, 0, device="meta")[0]} == {"meta"}

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.apps.checkpoint import load_checkpoint, save_checkpoint
from limbeck.apps.translation.data import Pairs, load_pairs
from limbeck.apps.translation.subwords import BOS, EOS, KINDS, PAD, UNKNOWN, Subwords, learn, learn_both
from limbeck.errors import CheckpointError, DataError, MissingExtraError

TEXTS = ("a still distils", "steam rises in a still", "it cools in the worm", "Öl und Wasser, nicht wahr?")
CHARACTERS = sorted(set("".join(TEXTS)))
SIZE = len(CHARACTERS) + 6
MODELS = {kind: learn(TEXTS, SIZE, kind).model for kind in KINDS}


@pytest.fixture(scope="module", params=KINDS)
def subwords(request: pytest.FixtureRequest) -> Subwords:
    return Subwords(MODELS[request.param])


@given(st.lists(st.text("".join(CHARACTERS), max_size=30), max_size=5))
@pytest.mark.parametrize("kind", KINDS)
def test_decoding_undoes_encoding_but_for_spare_blanks(kind: str, texts: list[str]) -> None:
    subwords = Subwords(MODELS[kind])
    assert [subwords.decode(numbers) for numbers in subwords.encode(texts)] == [" ".join(text.split()) for text in texts]


def test_the_special_numbers(subwords: Subwords) -> None:
    assert (PAD, UNKNOWN, BOS, EOS) == (0, 1, 2, 3)
    assert subwords.size == SIZE
    [numbers] = subwords.encode([TEXTS[0]])
    assert min(numbers) > EOS
    assert max(numbers) < subwords.size
    assert subwords.decode([BOS, *numbers, EOS, PAD, PAD]) == TEXTS[0]
    assert UNKNOWN in subwords.encode(["日"])[0]
    assert "\u2047" in subwords.decode([UNKNOWN])
    assert subwords.encode([""]) == [[]]
    assert subwords.encode([]) == []
    assert not subwords.decode([])


def test_text_is_brought_to_one_form(subwords: Subwords) -> None:
    """A letter and its mark, as file systems write it, are the letter; a blank that does not break is a blank."""
    assert subwords.encode(["O\u0308l\u00a0und"]) == subwords.encode(["Öl und"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_text_gives_the_same_vocabulary(kind: str) -> None:
    assert learn(iter(TEXTS), SIZE, kind) == learn(TEXTS, SIZE, kind) != learn(TEXTS, SIZE - 1, kind)


def test_a_vocabulary_goes_through_a_checkpoint(subwords: Subwords, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last", torch.nn.Linear(1, 1), {"subwords": subwords.tensor()})
    again = Subwords.of(load_checkpoint(tmp_path / "last").state["subwords"])
    assert again == subwords
    assert again.encode(TEXTS) == subwords.encode(TEXTS)
    assert "model" not in repr(again)


@pytest.mark.parametrize("broken", [lambda model: model[:0], lambda model: model[:100], lambda model: model.flip(0)])
def test_what_is_no_vocabulary_is_refused(broken: object, subwords: Subwords) -> None:
    assert callable(broken)
    with pytest.raises(CheckpointError, match=r"is no vocabulary of SentencePiece; take another checkpoint"):
        Subwords.of(broken(subwords.tensor()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_size_that_the_text_cannot_fill_is_cut(kind: str) -> None:
    pairs = Pairs(TEXTS[:2], TEXTS[2:])
    both = learn_both(pairs, 5000, kind)
    assert both.source is both.target
    assert len(CHARACTERS) + 4 <= both.source.size < 5000
    assert both.notes == (f"the vocabulary has {both.source.size} subwords, not 5,000: the text has no more",)
    apart = learn_both(pairs, 5000, kind, separate=True)
    assert apart.source != apart.target
    assert [note.split(" has")[0] for note in apart.notes] == ["the source's vocabulary", "the target's vocabulary"]
    assert UNKNOWN in apart.source.encode(["Öl"])[0]
    assert UNKNOWN not in apart.target.encode(["Öl"])[0]
    assert not learn_both(pairs, SIZE, kind).notes


@pytest.mark.parametrize("size", [0, 1, 4, 5, len(CHARACTERS)])
def test_a_size_that_cannot_hold_the_characters_is_refused_with_one_that_can(size: int) -> None:
    needed = len(CHARACTERS) + 4  # a blank is a character, and there are four special ones
    with pytest.raises(DataError, match=f"cannot hold the {needed - 4} characters of the text; give --vocabulary {needed} or more"):
        learn(TEXTS, size)
    assert learn(TEXTS, needed).size == needed


@pytest.mark.parametrize("texts", [[], ["", " "]])
def test_no_text_gives_no_vocabulary(texts: list[str]) -> None:
    with pytest.raises(DataError, match="no vocabulary can be learnt from nothing; give sentences to train on"):
        learn(texts, 50)


def test_text_without_a_visible_character_gives_none() -> None:
    with pytest.raises(DataError, match="SentencePiece cannot learn a vocabulary of 50 subwords from these texts; give more text"):
        learn(["\u200b"], 50)


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"of the kind unigram or bpe, not 'BPE'; did you mean 'bpe'\?"):
        learn(TEXTS, 50, "BPE")


def test_without_the_extra_one_hears_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingExtraError, match=r"this needs 'sentencepiece'.*pip install 'limbeck\[all\]'"):
        learn(TEXTS, 50)


def test_a_long_line_is_learnt_from_too() -> None:
    assert UNKNOWN not in learn(["a still", "worm " * 1000 + "q"], 30).encode(["q"])[0]


def test_the_embedded_task_has_few_subwords() -> None:
    train = load_pairs().train
    some = Pairs(train.source[:300], train.target[:300])
    both = learn_both(some, 8000)
    assert 100 < both.source.size < 1000
    assert not any(UNKNOWN in numbers for numbers in both.target.encode(train.target))


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_the_subwords_of_multi30k(kind: str, multi30k: Path) -> None:
    corpus = load_pairs(multi30k)
    both = learn_both(corpus.train, 8000, kind)
    assert both.source.size == 8000
    for texts in (corpus.train.source, corpus.train.target, corpus.valid.target):
        encoded = both.source.encode(texts)
        assert not any(UNKNOWN in numbers for numbers in encoded)
        assert all(both.source.decode(numbers).split() == text.split() for numbers, text in zip(encoded, texts, strict=True))

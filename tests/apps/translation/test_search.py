"""Beam search against all translations there are, and against itself."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from limbeck.apps.translation.hparams import Sizes
from limbeck.apps.translation.model import Transformer, build_model
from limbeck.apps.translation.search import translate
from limbeck.apps.translation.subwords import BOS, EOS

SIZES = Sizes(width=8, heads=2, encoder_layers=1, decoder_layers=1, ffn=8, dropout=0.0)
SOURCE = torch.tensor([[5, 4, 6, 3], [6, 3, 0, 0], [4, 4, 3, 0]])


def sharp(seed: int, vocabulary: int) -> Transformer:
    """A model that prefers some tokens clearly."""
    torch.manual_seed(seed)
    model = build_model(SIZES, vocabulary, vocabulary)
    with torch.no_grad():
        model.softmax.weight.mul_(4)
    return model.eval()


@torch.no_grad()
def scores(model: Transformer, source: torch.Tensor, every: list[tuple[int, ...]], alpha: float) -> list[float]:
    """Of whole translations of one length, without cached keys."""
    tokens = torch.tensor([[BOS, *tokens, EOS] for tokens in every])
    logs = model(source.expand(len(every), -1), tokens[:, :-1]).log_softmax(2).gather(2, tokens[:, 1:, None]).sum((1, 2))
    return (logs / ((5 + tokens.shape[1] - 1) / 6) ** alpha).tolist()


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_beam_that_holds_all_is_exhaustive(seed: int, alpha: float) -> None:
    model = sharp(seed, 7)
    every = [list(itertools.product((1, 4, 5, 6), repeat=length)) for length in range(4)]
    found = translate(model, SOURCE, beam=4**4, length_penalty=alpha, max_length=3)
    for sentence, ours in zip(SOURCE, found, strict=True):
        alone = sentence[sentence != 0]
        rated = {tokens: score for some in every for tokens, score in zip(some, scores(model, alone, some, alpha), strict=True)}
        assert ours == list(max(rated, key=rated.__getitem__))


@pytest.mark.parametrize("seed", range(3))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    model = sharp(seed, 30)
    for sentence, ours in zip(SOURCE, translate(model, SOURCE, beam=1, max_length=9), strict=True):
        tokens: list[int] = []
        while len(tokens) < 9:
            with torch.no_grad():
                logits = model(sentence[None, sentence != 0], torch.tensor([[BOS, *tokens]]))[0, -1]
            logits[[0, BOS]] = -math.inf
            if logits.argmax() == EOS:
                break
            tokens.append(int(logits.argmax()))
        assert ours == tokens


@pytest.mark.parametrize("seed", range(3))
def test_no_sentence_depends_on_its_batch(seed: int) -> None:
    model = sharp(seed, 200)
    together = translate(model, SOURCE, beam=4, max_length=12)
    assert together == [translate(model, sentence[None, sentence != 0], beam=4, max_length=12)[0] for sentence in SOURCE]
    assert together == translate(model, SOURCE.flip(0), beam=4, max_length=12)[::-1]


def test_no_translation_is_longer_than_it_may_be() -> None:
    model = sharp(0, 30)
    with torch.no_grad():
        model.softmax.weight[EOS] = 0
        model.decoder.norm.bias += 5 * model.softmax.weight[7]
    lengths = [len(tokens) for tokens in translate(model, SOURCE, beam=2)]
    assert lengths == [54, 52, 53]
    assert [len(tokens) for tokens in translate(model, SOURCE, beam=2, max_length=6)] == [6, 6, 6]


def test_the_model_goes_back_to_training() -> None:
    model = sharp(0, 30).train()
    translate(model, SOURCE, max_length=2)
    assert model.training


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beam": 0}, "beam_size is a number of hypotheses from 1 on, not 0"),
        ({"length_penalty": -0.5}, "length_penalty is a power from 0 on, not -0.5"),
        ({"max_length": 0}, "a translation of at most 0 tokens is none"),
    ],
)
def test_wrong_sizes_are_named(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        translate(sharp(0, 9), SOURCE, **wrong)

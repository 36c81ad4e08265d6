from __future__ import annotations

import math
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.apps.translation.bleu import moses, score
from limbeck.apps.translation.data import load_pairs
from limbeck.errors import DataError, MissingExtraError

SENTENCES = st.lists(st.tuples(*[st.lists(st.sampled_from("abcd"), min_size=5, max_size=9)] * 2), min_size=1, max_size=4)


def by_hand(hypotheses: list[list[str]], references: list[list[str]]) -> float | None:
    """Papineni et al. 2002, sections 2.1 and 2.3, for one reference each; None where a precision is 0, which sacreBLEU smooths."""
    logs = 0.0
    for size in range(1, 5):
        hits = total = 0
        for hypothesis, reference in zip(hypotheses, references, strict=True):
            found, there = (Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1)) for words in (hypothesis, reference))
            hits += sum((found & there).values())
            total += sum(found.values())
        if not hits:
            return None
        logs += math.log(hits / total) / 4
    ours, theirs = (sum(map(len, side)) for side in (hypotheses, references))
    return 100 * math.exp(min(0, 1 - theirs / ours) + logs)


@settings(max_examples=25)
@given(SENTENCES)
def test_bleu_is_that_of_the_paper(pairs: list[tuple[list[str], list[str]]]) -> None:
    hypotheses, references = (list(sides) for sides in zip(*pairs, strict=True))
    expected = by_hand(hypotheses, references)
    if expected is not None:
        joined = [[" ".join(words) for words in side] for side in (hypotheses, references)]
        assert score(*joined, "en").detokenised == pytest.approx(expected)


def test_a_sentence_worked_out_on_paper() -> None:
    """Of 5 words 4 are right, of 4 pairs 3, of 3 triples 2, of 2 quadruples 1: the fourth root of 4/5 * 3/4 * 2/3 * 1/2 is 66.87 %."""
    scores = score(["ein Hund läuft im Wald"], ["ein Hund läuft im Garten"], "de")
    assert scores.detokenised == scores.tokenised == pytest.approx(100 * 0.2**0.25)
    short = score(["ein Hund läuft im"], ["ein Hund läuft im Wald"], "de")
    assert short.detokenised == pytest.approx(100 * math.exp(1 - 5 / 4))  # all right, but one word in five is missing


def test_case_counts() -> None:
    assert score(["Ein Hund läuft im Wald"], ["ein hund läuft im wald"], "de").detokenised < 50


MOSES = {  # by the rules of Moses' tokenizer.perl: words and marks apart, known abbreviations and hyphens not, every apostrophe
    "Zwei Hunde, z.B. Pudel, laufen.": "Zwei Hunde , z.B. Pudel , laufen .",
    "Ein Rock-'n'-Roll-Sänger & Co": "Ein Rock- ' n ' -Roll-Sänger & Co",
    "Es kostet 1.000,50 Euro.": "Es kostet 1.000,50 Euro .",
    "Ein „Held“ <lacht> [laut].": "Ein „ Held “ < lacht > [ laut ] .",
}


@pytest.mark.parametrize("text", MOSES)
def test_tokens_are_those_of_moses(text: str) -> None:
    assert moses([text], "de") == [MOSES[text]]


def test_english_contractions_are_cut_by_their_own_rules() -> None:
    assert moses(["A man's dog doesn't bark."], "en") == ["A man 's dog doesn 't bark ."]
    assert moses(["Die Katze."], "xx") == ["Die Katze ."]


def test_the_two_scores_differ_where_words_are_cut_differently() -> None:
    """Moses knows German abbreviations; 13a, which does not, cuts the last full stop off ``z.B.``."""
    scores = score(["ein Bild , z.B. ein Foto von ihm"], ["ein Bild , z.B. das Foto von ihm"], "de")
    assert scores.detokenised != scores.tokenised
    assert scores.detokenised_signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.")
    assert "|tok:none|" in scores.tokenised_signature
    assert " of Moses tokens:de, sacremoses 0." in scores.tokenised_signature


def test_languages_without_blanks_are_cut_too() -> None:
    """Of seven characters six are right; as one word, the sentence would be wrong as a whole."""
    for language in ("zh", "zh-CN", "ja", "ko"):
        assert score(["一只狗在跑了。"], ["一只狗在走了。"], language).detokenised > 40
    assert score(["一只狗在跑了。"], ["一只狗在走了。"], "de").detokenised == 0
    assert moses(["一只狗"], "zh") == ["一 只 狗"]


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(DataError, match="there are no sentences to score"):
        score([], [], "de")
    with pytest.raises(ValueError, match="1 translations cannot be compared with 2 references"):
        score(["a"], ["a", "b"], "de")
    assert score(["", ""], ["a b", "c"], "de").detokenised == 0


@pytest.mark.parametrize("module", ["sacrebleu.metrics", "sacremoses"])
def test_without_the_extra_one_hears_what_to_install(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"this needs '{module}'.*pip install 'limbeck\[all\]'"):
        score(["a"], ["a"], "de")


def test_a_reference_is_its_own_best_translation(multi30k: Path) -> None:
    target = load_pairs(multi30k).tests["test_2016_flickr"].target[:200]
    scores = score(target, target, "de")
    assert scores.detokenised == scores.tokenised == pytest.approx(100)
    shifted = score((*target[1:], target[0]), target, "de")
    assert max(shifted.detokenised, shifted.tokenised) < 10

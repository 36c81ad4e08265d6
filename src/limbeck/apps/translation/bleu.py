"""BLEU (Papineni et al. 2002) of translations, of text as one reads it and of Moses' tokens, both computed by sacreBLEU (Post 2018, arXiv 1804.08771)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.errors import DataError, require

WITHOUT_BLANKS = {"zh": "zh", "ja": "char", "ko": "char"}
"""How sacreBLEU cuts text of languages for which its default, ``13a``, makes too few words."""


@dataclass(frozen=True)
class Scores:
    """BLEU in percent: ``detokenised`` of text as it is, ``tokenised`` of Moses' tokens; the signatures say how each was computed."""

    detokenised: float
    tokenised: float
    detokenised_signature: str
    tokenised_signature: str


def score(hypotheses: Sequence[str], references: Sequence[str], language: str) -> Scores:
    """Corpus BLEU, upper and lower case told apart, of translations into ``language``, one reference each.

    For ``tokenised`` both sides are cut into words by the rules of Moses for the language, hyphens kept in words, nothing escaped.

    >>> scores = score(["Ein Mann schläft."], ["Ein Mann schläft."], "de")
    >>> scores.detokenised, scores.tokenised
    (100.0..., 100.0...)
    >>> scores.detokenised_signature
    'nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:...'

    Raises ``DataError`` where there is nothing to score, ``ValueError`` where there are not as many of both.
    """
    version = require("sacremoses", "all").__version__
    plain, signature = _bleu(hypotheses, references, WITHOUT_BLANKS.get(language.lower()[:2], "13a"))
    tokens, tokens_signature = _bleu(moses(hypotheses, language), moses(references, language), "none")
    return Scores(plain, tokens, signature, f"{tokens_signature} of Moses tokens:{language}, sacremoses {version}")


def moses(texts: Sequence[str], language: str) -> list[str]:
    """Texts as Moses' tokens between blanks; a language without rules of its own has the English ones, which cut Chinese into characters.

    >>> moses(['Ein "Hunde-Halter" z.B. lacht.'], "de")
    ['Ein " Hunde-Halter " z.B. lacht .']
    """
    # by its own rules for these three, sacremoses keeps what was segmented before
    tokenizer = require("sacremoses", "all").MosesTokenizer("en" if language.lower()[:2] in WITHOUT_BLANKS else language)
    return [tokenizer.tokenize(text, aggressive_dash_splits=False, escape=False, return_str=True) for text in texts]


def _bleu(hypotheses: Sequence[str], references: Sequence[str], cutting: str) -> tuple[float, str]:
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses):,} translations cannot be compared with {len(references):,} references")
    if not references:
        raise DataError("there are no sentences to score")
    bleu = require("sacrebleu.metrics", "all").BLEU(tokenize=cutting, force=True)
    found = bleu.corpus_score(list(hypotheses), [list(references)])
    return float(found.score), str(bleu.get_signature())

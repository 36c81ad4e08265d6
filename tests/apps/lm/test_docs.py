from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from limbeck.apps.lm import docs
from limbeck.apps.lm.data import Corpus, load_corpus
from limbeck.apps.lm.docs import RAREST, UNKNOWN, docs_texts, docstrings, part_of, tokenize
from limbeck.errors import DataError


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus("docs")


def test_this_python_gives_a_corpus_of_useful_size(corpus: Corpus) -> None:
    assert 300_000 < corpus.train.numel() < 1_000_000
    assert 10_000 < corpus.valid.numel() < 100_000
    assert 10_000 < corpus.test.numel() < 100_000
    assert 3_000 < len(corpus.vocabulary) < 12_000


def test_no_word_is_rare_and_the_vocabulary_comes_from_training(corpus: Corpus) -> None:
    counts = Counter(corpus.train.tolist())
    known = [count for number, count in counts.items() if corpus.words[number] != UNKNOWN]
    assert min(known) >= RAREST
    assert len(counts) == len(corpus.vocabulary)
    unknown = corpus.vocabulary.index[UNKNOWN]
    assert (corpus.train == unknown).float().mean() < 0.05
    assert (corpus.test == unknown).float().mean() < 0.10


def library(path: Path, modules: int = 60) -> Path:
    """A made-up standard library, with folders that must not be read."""
    for number in range(modules):
        (path / f"m{number:02}.py").write_text(f'"""Module {number} {"holds many words " * 8}."""\ndef f():\n    """Do {number}."""\n')
    for folder in ("test", "site-packages", "config-3.11-x86_64"):
        (path / folder).mkdir()
        (path / folder / "secret.py").write_text('"""forbidden."""\n')
    (path / "broken.py").write_text('"""forbidden\n')
    (path / "escape.py").write_text('"""An \\d escape."""\n')
    return path


def test_the_text_is_a_function_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "LEAST_WORDS", 100)
    folder = library(tmp_path)
    before = set(sys.modules)
    texts = docs_texts(folder, topics={"with": "The with statement."})
    assert docs_texts(folder, topics={"with": "The with statement."}) == texts
    assert all(texts.values())
    assert "forbidden" not in "".join(texts.values())
    assert not {"m00", "escape", "broken"} & (set(sys.modules) - before)


def test_a_text_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "LEAST_WORDS", 100)
    monkeypatch.setattr(docs, "RAREST", 1)
    folder = library(tmp_path)
    (folder / "zz.py").write_text('def f():\n    """Do 7."""\n')
    assert "".join(docs_texts(folder, topics={}).values()).count("do 7 .") == 1


def test_a_stripped_python_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds only 0 words .*too few for the corpus 'docs' \(50,000\).*give --data a folder"):
        docs_texts(tmp_path, topics={})


def test_a_python_without_pydoc_data_still_has_a_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert docs._topics() == {}


def test_docstrings_are_found_in_order_wherever_a_definition_stands() -> None:
    source = b'''"A."
if 1:
    class B:
        """B."""
        async def c(self):
            """C."""
            def d(): "D."
try:
    def e(): "E."
finally: pass
'''
    assert docstrings(source) == ["A.", "B.", "C.", "D.", "E."]
    assert docstrings(b"\xff\xfe") == []


def test_tokens_are_lower_case_words_and_runs_of_a_mark() -> None:
    assert tokenize("See __init__: it's 2x --- or... NOT") == ["see", "__init__", ":", "it", "'", "s", "2x", "---", "or", "...", "not"]


def test_documents_are_spread_over_the_parts() -> None:
    counts = Counter(part_of(f"module_{number}.py") for number in range(2_000))
    assert counts.keys() == {"train", "valid", "test"}
    assert 60 < counts["valid"] < 140
    assert 60 < counts["test"] < 140

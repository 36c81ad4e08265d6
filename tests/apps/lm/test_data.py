from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import pyarrow
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet as pyarrow_parquet

from limbeck.apps.lm.data import WIKITEXT_FILES, Batches, Vocabulary, batchify, corpus_of, load_corpus
from limbeck.errors import DataError, MissingExtraError

TEXTS = {"train": "one two\n\nthree two\n", "valid": "two four\n", "test": "five one\n"}


def folder_of(path: Path, texts: Mapping[str, str] = TEXTS) -> Path:
    for split, text in texts.items():
        (path / f"{split}.txt").write_text(text, encoding="utf-8")
    return path


def test_a_line_ends_with_eos_and_the_vocabulary_is_in_order_of_first_appearance(tmp_path: Path) -> None:
    corpus = load_corpus(str(folder_of(tmp_path)))
    assert corpus.words == ["one", "two", "<eos>", "three", "four", "five"]
    assert corpus.train.tolist() == [0, 1, 2, 2, 3, 1, 2]
    assert corpus.valid.tolist() == [1, 4, 2]
    assert corpus.test.tolist() == [5, 0, 2]
    assert corpus.train.dtype == torch.int64


def test_a_missing_last_newline_and_windows_files_change_nothing(tmp_path: Path) -> None:
    for split, text in TEXTS.items():
        (tmp_path / f"{split}.txt").write_bytes(b"\xef\xbb\xbf" + text.rstrip("\n").replace("\n", "\r\n").encode())
    found, plain = load_corpus(str(tmp_path)), corpus_of(TEXTS)
    assert found.words == plain.words
    assert all(torch.equal(getattr(found, split), getattr(plain, split)) for split in TEXTS)


def test_wikitext_2_has_the_published_numbers(wikitext_2: Path) -> None:
    # Merity et al. 2016, table 1, with one <eos> a line, as PyTorch's own example counts
    corpus = load_corpus(str(wikitext_2))
    assert len(corpus.vocabulary) == 33_278
    assert (corpus.train.numel(), corpus.valid.numel(), corpus.test.numel()) == (2_088_628, 217_646, 245_569)
    assert int(corpus.train.max()) < 33_278


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_missing_file_is_named(tmp_path: Path, split: str) -> None:
    (folder_of(tmp_path) / f"{split}.txt").unlink()
    with pytest.raises(DataError, match=rf"{split}\.txt is missing; a corpus folder has train\.txt, valid\.txt and test\.txt"):
        load_corpus(str(tmp_path))


@pytest.mark.parametrize("text", ["", " \n\n"])
def test_an_empty_file_is_named(tmp_path: Path, text: str) -> None:
    folder_of(tmp_path, TEXTS | {"valid": text})
    with pytest.raises(DataError, match=r"valid\.txt is empty"):
        load_corpus(str(tmp_path))


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (folder_of(tmp_path) / "test.txt").write_bytes(b"caf\xe9 noir\n")
    with pytest.raises(DataError, match=r"test\.txt is not UTF-8 text \(byte 3\)"):
        load_corpus(str(tmp_path))


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    (folder_of(tmp_path) / "train.txt").unlink()
    (tmp_path / "train.txt").mkdir()
    with pytest.raises(DataError, match=r"train\.txt cannot be read: Is a directory"):
        load_corpus(str(tmp_path))


def test_a_name_that_means_nothing_gets_a_suggestion() -> None:
    with pytest.raises(DataError, match=r"no corpus 'wikitext2': .*; did you mean 'wikitext-2'\?"):
        load_corpus("wikitext2")


def test_a_vocabulary_survives_json_and_refuses_strangers() -> None:
    vocabulary = corpus_of(TEXTS).vocabulary
    restored = Vocabulary(tuple(json.loads(json.dumps(vocabulary.words))))
    assert restored == vocabulary
    assert restored.encode(["four", "one"]).tolist() == [4, 0]
    assert restored.encode([]).shape == (0,)
    with pytest.raises(DataError, match="'thre' is not in the vocabulary of 6 words; did you mean 'three'"):
        restored.encode(["thre"])


# the hub


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """The hub's repository as it is: a row for each line, with its newline, or an empty text."""
    for split, name in WIKITEXT_FILES.items():
        rows = [line + "\n" if line else "" for line in TEXTS[split].split("\n")[:-1]]
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pyarrow_parquet.write_table(pyarrow.table({"text": rows}), tmp_path / name)
    return tmp_path


def fake_hub(monkeypatch: pytest.MonkeyPatch, repository: Path, cached: bool, online: bool) -> list[bool]:
    """Stand in for the hub client; the list says for each request whether it was for the cache only."""
    requests: list[bool] = []

    def download(_repository: str, name: str, *, repo_type: str, local_files_only: bool = False) -> str:
        assert repo_type == "dataset"
        requests.append(local_files_only)
        if cached if local_files_only else online:
            return str(repository / name)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return requests


def test_wikitext_2_comes_from_the_hub_line_by_line(monkeypatch: pytest.MonkeyPatch, parquet: Path) -> None:
    requests = fake_hub(monkeypatch, parquet, cached=False, online=True)
    found, plain = load_corpus("wikitext-2"), corpus_of(TEXTS)
    assert found.words == plain.words
    assert torch.equal(found.train, plain.train)
    assert requests == [True, False] * 3


def test_wikitext_2_in_the_cache_needs_no_network(monkeypatch: pytest.MonkeyPatch, parquet: Path) -> None:
    requests = fake_hub(monkeypatch, parquet, cached=True, online=False)
    load_corpus("wikitext-2")
    assert requests == [True] * 3


def test_wikitext_2_offline_says_so_and_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_hub(monkeypatch, tmp_path, cached=False, online=False)
    with pytest.raises(DataError, match=r"could not be fetched .*\(ConnectionError\): there may be no network here.*give --data a folder"):
        load_corpus("wikitext-2")


def test_wikitext_2_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'limbeck\[all\]'"):
        load_corpus("wikitext-2")


# columns and windows


@given(tokens=st.integers(0, 200), batch=st.integers(1, 12))
def test_columns_are_contiguous_text(tokens: int, batch: int) -> None:
    text = torch.arange(tokens)
    if tokens // batch < 2:
        with pytest.raises(DataError, match="is too short for"):
            batchify(text, batch)
        return
    columns = batchify(text, batch)
    assert columns.shape == (tokens // batch, batch)
    assert columns.is_contiguous()
    assert torch.equal(columns.t().reshape(-1), text[: columns.numel()])


@given(time=st.integers(2, 60), batch=st.integers(1, 4), bptt=st.integers(1, 70))
def test_windows_predict_each_word_after_the_first_row_once_and_none_is_empty(time: int, batch: int, bptt: int) -> None:
    columns = batchify(torch.arange(time * batch), batch)
    batches = Batches(columns, bptt)
    assert len(batches) == len(list(batches)) == -(-(time - 1) // bptt)
    for inputs, targets in batches:
        assert inputs.shape[0] > 0
        assert torch.equal(targets.view_as(inputs), inputs + 1)
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), columns[:-1])


@given(bptt=st.integers(1, 12), cut=st.slices(20))
def test_a_slice_is_the_same_windows(bptt: int, cut: slice) -> None:
    batches = Batches(batchify(torch.arange(40), 2), bptt)
    expected = list(batches)[cut]
    found = batches[cut]
    assert isinstance(found, Batches)
    assert len(found) == len(expected)
    for (inputs, targets), (same_inputs, same_targets) in zip(found, expected, strict=True):
        assert torch.equal(inputs, same_inputs)
        assert torch.equal(targets, same_targets)


def test_a_slice_copies_nothing() -> None:
    batches = Batches(batchify(torch.arange(40), 2), 3)
    assert batches[4:].data is batches.data
    inputs, _ = batches[-1]
    assert inputs.untyped_storage().data_ptr() == batches.data.untyped_storage().data_ptr()
    with pytest.raises(IndexError):
        batches[len(batches)]
    with pytest.raises(ValueError, match="bptt is a number of words, 1 or more, not 0"):
        Batches(batches.data, 0)

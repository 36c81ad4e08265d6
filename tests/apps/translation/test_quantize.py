"""``limbeck quantize`` of a translation model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apps.translation.conftest import PRUNED, SMALL, invoke
from limbeck.apps.progress import Progress
from limbeck.apps.quantized import evaluate
from limbeck.apps.translation.data import load_splits
from limbeck.apps.translation.prepare import examples_of
from limbeck.apps.translation.session import load_trained
from limbeck.apps.translation.subject import subject_of
from limbeck.apps.translation.validate import Decoding, validate
from limbeck.errors import DataError

ROOT = Path(__file__).parents[3]
INT8 = ROOT / "schedules" / "translate" / "quantize" / "int8.yaml"


def test_the_subject_measures_what_a_validation_measures(dense: Path, folder: Path) -> None:
    subject, trained = subject_of(dense), load_trained(dense)
    pairs = load_splits(folder, "en", "de", "test_a")["test_a"]
    found = validate(
        trained.model, examples_of(pairs, trained.vocabularies), pairs.target, trained.vocabularies.target, "de", Decoding(1, 0.6, 8)
    )
    measures = evaluate(subject, subject.model, "test")
    assert subject.scores is not None
    with Progress(1) as progress:
        scores = subject.scores(subject.model, "test", 0, progress)
    assert measures == {"loss": pytest.approx(found.loss, rel=1e-5), "perplexity": pytest.approx(found.measures["perplexity"], rel=1e-5)}
    assert scores == {"bleu": pytest.approx(found.scores.detokenised)}


def test_samples_are_the_first_sentences_and_the_test_is_all_tests(dense: Path, folder: Path, tmp_path: Path) -> None:
    for name in ("val", "test_a"):
        for language in ("en", "de"):
            (tmp_path / f"{name}.{language}").write_bytes((folder / f"{name}.{language}").read_bytes())
            (tmp_path / f"test_b.{language}").write_text("\n".join(["one" if language == "en" else "eins"] * 3) + "\n")
    subject = subject_of(dense, str(tmp_path))
    assert [len(run(subject.model).targets) > 0 for run in subject.batches("test", 0)] == [True]
    tokens = {count: sum(len(run(subject.model).targets) for run in subject.batches("test", count)) for count in (0, 2)}
    assert 0 < tokens[2] < tokens[0]
    assert subject.scores is not None
    with Progress(1) as progress:
        assert list(subject.scores(subject.model, "test", 2, progress)) == ["test_a BLEU", "test_b BLEU"]
    with pytest.raises(DataError, match="no split is named 'dev_2'"):
        subject.batches("dev_2", 0)


def test_a_test_that_is_not_there_is_missed_before_the_calibration(dense: Path, folder: Path, tmp_path: Path) -> None:
    for language in ("en", "de"):
        (tmp_path / f"val.{language}").write_bytes((folder / f"val.{language}").read_bytes())
    line = f"quantize {INT8} --model {dense} --data {tmp_path} --cost-samples 0 --out {tmp_path / 'out'}"
    result = invoke(line)
    assert isinstance(result.exception, DataError)
    assert str(result.exception) == "there is no test among these pairs; evaluate --split valid"
    assert not (tmp_path / "out").exists()
    result = invoke(f"{line} --split valid --json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["quantized"].keys() == {"loss", "perplexity", "bleu"}


def test_a_pruned_transformer_is_reported_layer_by_layer_and_keeps_its_zeros(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = invoke(f"translate train --data {folder} {SMALL} {PRUNED} --train_steps 12 --eval_steps 12 --save {run}")
    assert trained.exit_code == 0, trained.output
    result = invoke(f"quantize {INT8} --model {run} --cost-samples 3 --out {tmp_path / 'out'} --json")
    assert result.exit_code == 0, result.output
    tree = json.loads(result.stdout)
    rows: dict[str, Any] = {row["layer"]: row for row in tree["rows"]}
    assert {"source_embedding", "encoder.layers.0.self_attention.qkv", "decoder.layers.0.cross_attention.kv", "softmax"} <= rows.keys()
    assert not [name for name in rows if name.endswith("drop")]  # which does nothing
    assert rows["encoder.layers.0.ffn.conv1"]["kind"] == "int8"
    assert all(row["cost"] is not None for row in rows.values())
    assert tree["quantized"]["loss"] == pytest.approx(tree["fp32"]["loss"], rel=0.02)
    assert tree["quantized"].keys() == tree["fp32"].keys() == {"loss", "perplexity", "bleu"}
    assert "Zeros stay zeros" in (tmp_path / "out" / "layers.md").read_text()

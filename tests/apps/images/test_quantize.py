"""``limbeck images quantize`` and ``limbeck quantize`` of a classifier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apps.images.conftest import invoke
from limbeck.apps.images.quantize import parse_bits, parse_clippings
from limbeck.apps.images.session import evaluation_batches, load, load_trained
from limbeck.apps.images.subject import subject_of
from limbeck.apps.images.train import evaluate as evaluate_images
from limbeck.apps.quantized import evaluate
from limbeck.errors import DataError

FAST = "--calibration-images 100 --eval-images 100"


def test_the_subject_measures_what_evaluate_measures(trained: Path) -> None:
    subject, saved = subject_of(trained), load_trained(trained)
    assert subject.calibration == "train"  # nothing was held out
    batches = evaluation_batches(load(saved.options).test, next(saved.model.parameters()).device)
    assert evaluate(subject, subject.model, "test") == pytest.approx(evaluate_images(saved.model, batches), rel=1e-6)


def test_bits_and_clippings_make_one_table(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"images quantize {trained} {FAST} --bits 12,2 --clip none,gauss --out {tmp_path}"
    result = invoke(f"{line} --json")
    assert result.exit_code == 0, result.output
    tree = json.loads(result.stdout)
    rows = {row["clipping"]: row["top1"] for row in tree["rows"]}
    assert list(rows) == ["none", "gauss"]
    assert rows["gauss"]["12"] is None
    assert rows["none"]["12"] == pytest.approx(tree["fp32"], abs=2)
    assert rows["none"]["2"] < tree["fp32"]
    assert {Path(file).name for file in tree["files"]} == {"table.md", "table.csv", "top1.png", "top1.svg"}
    monkeypatch.setattr("limbeck.apps.images.quantize.evaluate", lambda *given: pytest.fail("measured again"))
    printed = invoke(line).stdout
    assert "Ranges from 100 images of the training; activations alone are clipped." in printed
    assert "known for up to 8 bits" in printed


def test_a_classifier_is_reported_layer_by_layer(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "int8.yaml"
    file.write_text("quantizers:\n  int8: {class: PostTrainLinearQuantizer, per_channel_wts: true}\n")
    result = invoke(
        f"quantize {file} --model {trained} --eval-samples 100 --calibration-samples 50 --cost-samples 50 --out {tmp_path} --json"
    )
    assert result.exit_code == 0, result.output
    tree = json.loads(result.stdout)
    rows = {row["layer"]: row for row in tree["rows"]}
    assert {"0", "3.conv1", "3.conv2", "7"} <= rows.keys()
    assert not {"1", "3.bn1"} & rows.keys()  # folded
    assert all(rows[name]["snr"] > 20 for name in ("0", "3.conv1", "3.conv2", "7"))
    assert tree["quantized"]["top1"] == pytest.approx(tree["fp32"]["top1"], abs=3)


def test_what_cannot_be_read_is_said(trained: Path, tmp_path: Path) -> None:
    assert parse_bits("8") == (8,)
    with pytest.raises(DataError, match="'8,x' is no list of bits; give numbers from 1 to 16 with commas, as in 8,6,4"):
        parse_bits("8,x")
    with pytest.raises(DataError, match="no clipping is named 'laplase'; did you mean 'laplace'"):
        parse_clippings("none,laplase")
    result = invoke(f"images quantize {trained} --split valid --out {tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()  # before there is any calibration
    assert isinstance(result.exception, DataError)
    assert "the run held no images out for validation" in str(result.exception)

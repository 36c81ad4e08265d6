"""The logs of a run: the contract's columns, nothing doubled on resume, and numbers that are what they say."""

import csv
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from limbeck.apps import log
from limbeck.apps.log import METRICS, CsvLog, RunLog, TensorBoardLog, TensorSparsity, TextLog, describe, sparsity_rows
from limbeck.errors import CheckpointError, MissingExtraError
from limbeck.names import named_parameters

TRAIN = {"loss": 4.5, "perplexity": 90.0, "learning_rate": 20.0, "sparsity": 0.8, "tokens_per_second": 1000.0}


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_run_folder_has_the_columns_that_compare_reads(tmp_path: Path) -> None:
    with RunLog(tmp_path / "run") as run:
        run.metrics("train", TRAIN, epoch=0, step=200)
        run.metrics("validation", {"loss": math.inf, "perplexity": math.inf}, epoch=0, step=200)
        run.sparsity([TensorSparsity("rnn.weight_ih_l0", 0.5, 0.125), TensorSparsity("fc", 1.0, math.nan)], epoch=0, step=200)
        run.say("one\ntwo")
        assert (tmp_path / "run" / "metrics.csv").read_text().count("\n") == 3, "every row is on its way at once"
    assert rows(tmp_path / "run" / "metrics.csv") == [
        ["epoch", "step", "split", "loss", "perplexity", "learning_rate", "sparsity", "tokens_per_second"],
        ["0", "200", "train", "4.5", "90.0", "20.0", "0.8", "1000.0"],
        ["0", "200", "validation", "inf", "inf", "", "", ""],
    ]
    assert rows(tmp_path / "run" / "sparsity.csv") == [
        ["epoch", "step", "parameter", "sparsity", "threshold"],
        ["0", "200", "rnn.weight_ih_l0", "0.5", "0.125"],
        ["0", "200", "fc", "1.0", "nan"],
    ]
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d  ", line) for line in lines)
    said = [line.split("  ", 1)[1] for line in lines]
    assert said == [
        "epoch 0, step 200, train: loss 4.500, perplexity 90.00, learning rate 20, sparsity 80.00%, 1,000 tokens/s",
        "epoch 0, step 200, validation: loss inf, perplexity inf",
        "one",
        "two",
    ]


def write(path: Path, steps: range, resume_step: int | None = None) -> None:
    file = CsvLog(path, METRICS, resume_step)
    for step in steps:
        file.write({"split": "train", "loss": step / 3}, epoch=step // 10, step=step)
    file.close()


@given(stopped=st.integers(1, 30), saved=st.integers(0, 30), torn=st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_a_resumed_file_equals_one_that_was_never_interrupted(
    tmp_path_factory: pytest.TempPathFactory, stopped: int, saved: int, torn: int
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    saved = min(saved, stopped)
    write(folder / "straight.csv", range(41))
    write(folder / "resumed.csv", range(stopped + 1))
    whole = (folder / "resumed.csv").read_bytes()
    if saved < stopped:
        (folder / "resumed.csv").write_bytes(whole[: len(whole) - torn])
    write(folder / "resumed.csv", range(saved + 1, 41), resume_step=saved)
    assert (folder / "resumed.csv").read_bytes() == (folder / "straight.csv").read_bytes()


def test_a_row_of_the_resumed_step_is_not_doubled(tmp_path: Path) -> None:
    """A run that was killed between the validation and the end of its epoch validates again."""
    for resume_step in (None, 10):
        file = CsvLog(tmp_path / "metrics.csv", METRICS, resume_step)
        for split in ("train", "validation"):
            file.write({"split": split, "loss": 1.0}, epoch=0, step=10)
        file.write({"split": "test"}, epoch=0, step=10) if resume_step else None
        file.close()
    assert [row[2] for row in rows(tmp_path / "metrics.csv")] == ["split", "train", "validation", "test"]


def test_a_new_run_starts_a_new_file_and_a_resumed_one_may_find_none(tmp_path: Path) -> None:
    write(tmp_path / "metrics.csv", range(3))
    write(tmp_path / "metrics.csv", range(2))
    assert len(rows(tmp_path / "metrics.csv")) == 3
    write(tmp_path / "fresh.csv", range(2), resume_step=7)
    (tmp_path / "empty.csv").touch()
    write(tmp_path / "empty.csv", range(2), resume_step=7)
    assert rows(tmp_path / "fresh.csv") == rows(tmp_path / "empty.csv") == rows(tmp_path / "metrics.csv")


def test_a_file_with_other_columns_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CheckpointError, match=r"metrics\.csv has other columns than epoch,step,split.*; move it away"):
        CsvLog(tmp_path / "metrics.csv", METRICS, 1)
    assert (tmp_path / "metrics.csv").read_text() == "a,b\n1,2\n"


def test_a_number_without_a_column_is_an_error(tmp_path: Path) -> None:
    file = CsvLog(tmp_path / "metrics.csv", METRICS)
    with pytest.raises(ValueError, match="accuracy"):
        file.write({"split": "train", "accuracy": 1.0}, epoch=0, step=0)
    file.close()


def test_the_text_log_grows(tmp_path: Path) -> None:
    for text in ("one", "two"):
        file = TextLog(tmp_path / "log.txt")
        file.say(text)
        file.close()
    assert [line.split("  ")[1] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["one", "two"]


def test_numbers_that_have_no_words_of_their_own() -> None:
    assert describe({"top_1": 0.91234567, "macs": 4}) == "top 1 0.9123, macs 4"


@pytest.mark.parametrize("shape", [(), (0,), (7,), (30, 11), (3, 4, 5)])
def test_sparsity_and_threshold_against_the_definition(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(log, "CHUNK", 16)
    layer = nn.ParameterDict({"weight": nn.Parameter(torch.randn(shape))})
    with torch.no_grad():
        layer["weight"].mul_(layer["weight"].abs() > 0.5)
    magnitudes = [abs(value) for value in layer["weight"].flatten().tolist()]
    kept = [value for value in magnitudes if value]
    (row,) = sparsity_rows(named_parameters(layer), ["weight"])
    assert row.sparsity == (1 - len(kept) / len(magnitudes) if magnitudes else 0.0)
    assert row.threshold == min(kept) if kept else math.isnan(row.threshold)


def test_rows_of_a_transposed_a_half_and_an_empty_tensor() -> None:
    layer = nn.ParameterDict(
        {
            "moved": nn.Parameter(torch.tensor([[0.0, 2.0], [-1.0, 4.0]]).T),
            "none": nn.Parameter(torch.zeros(4)),
            "short": nn.Parameter(torch.tensor([0.0, -0.5]).bfloat16()),
        }
    )
    found = {row.parameter: row for row in sparsity_rows(named_parameters(layer), layer)}
    assert (found["moved"].sparsity, found["moved"].threshold) == (0.25, 1.0)
    assert (found["short"].sparsity, found["short"].threshold) == (0.5, 0.5)
    assert found["none"].sparsity == 1.0
    assert math.isnan(found["none"].threshold)


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(folder), purge_orphaned_data=True)
    reader.Reload()
    found = {tag: [(event.step, round(event.value, 6)) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
    return found | {
        tag: [(event.step, event.histogram_value.num) for event in reader.Histograms(tag)] for tag in reader.Tags()["histograms"]
    }


@pytest.mark.filterwarnings("default")  # of TensorBoard's own
def test_tensorboard_holds_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    model = nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    with RunLog(tmp_path, tensorboard=True) as run:
        for step in (1, 2, 3):
            run.metrics("train", TRAIN, epoch=0, step=step)
        run.sparsity([TensorSparsity("weight", 0.5, 0.25)], epoch=0, step=3)
        run.gradients(named_parameters(model), step=3)
    found = events(tmp_path / "tensorboard")
    assert found["loss/train"] == [(1, 4.5), (2, 4.5), (3, 4.5)]
    assert {"perplexity/train", "learning_rate/train", "sparsity/train", "tokens_per_second/train"} <= found.keys()
    assert found["sparsity/weight"] == [(3, 0.5)]
    assert found["threshold/weight"] == [(3, 0.25)]
    assert found["gradient_norm/weight"] == [(3, round(math.sqrt(6), 6))]
    assert found["gradient/weight"] == [(3, 6.0)]
    with RunLog(tmp_path, resume_step=1, tensorboard=True) as run:
        run.metrics("train", TRAIN | {"loss": 2.0}, epoch=0, step=2)
    assert events(tmp_path / "tensorboard")["loss/train"] == [(1, 4.5), (2, 2.0)]


@pytest.mark.filterwarnings("default")
def test_a_gradient_that_is_not_finite_is_told_by_its_norm(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    model = nn.Linear(1, 1, bias=False)
    model.weight.grad = torch.tensor([[math.inf]])
    board = TensorBoardLog(tmp_path)
    board.gradients(named_parameters(model), step=1)
    board.close()
    assert events(tmp_path) == {"gradient_norm/weight": [(1, math.inf)]}


def test_gradients_without_tensorboard_are_left_out(tmp_path: Path) -> None:
    with RunLog(tmp_path) as run:
        run.gradients(named_parameters(nn.Linear(1, 1)), step=1)
    assert not (tmp_path / "tensorboard").exists()


def test_a_missing_tensorboard_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"'tensorboard', which is not installed; pip install 'limbeck\[all\]'"):
        RunLog(tmp_path, tensorboard=True)

"""``limbeck lm quantize`` and ``limbeck quantize`` of a language model."""

from __future__ import annotations

import copy
import csv
import gc
import json
import math
import shlex
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from limbeck.apps.lm.app import load_trained
from limbeck.apps.lm.data import Batches, batchify, load_corpus
from limbeck.apps.lm.quantize import ROWS, _chosen, told
from limbeck.apps.lm.subject import subject_of
from limbeck.apps.lm.train import evaluate as evaluate_words
from limbeck.apps.progress import Progress
from limbeck.apps.quantized import (
    STATS,
    Divergence,
    Predictions,
    Recipe,
    about_losses,
    costs,
    cross_entropy,
    evaluate,
    log_of,
    plain,
    statistics,
)
from limbeck.apps.search import SearchOptions, load_ranges, search
from limbeck.cli import app
from limbeck.config import load_quantizer
from limbeck.errors import QuantizationError
from limbeck.quantization.quantizers import post_train_linear_quantizer

ROOT = Path(__file__).parents[3]
ROW_FILES = ROOT / "schedules" / "lm" / "quantize"
INT8 = "version: 1\nquantizers:\n  int8: {class: PostTrainLinearQuantizer, mode: asymmetric_signed, per_channel_wts: true}\n"


def invoke(line: str) -> Result:
    return CliRunner().invoke(app, shlex.split(line))


def done(line: str) -> str:
    result = invoke(line)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("quantize") / "run"
    done(f"lm train --data {corpus} --emsize 8 --nhid 8 --nlayers 1 --epochs 1 --tied --bptt 5 --batch-size 8 --save {folder}")
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "int8.yaml"
    path.write_text(INT8)
    return path


def test_the_subject_measures_what_evaluate_measures(run: Path, corpus: Path) -> None:
    subject = subject_of(run)
    model, _, options = load_trained(run)
    test = Batches(batchify(load_corpus(str(corpus)).test, 10), options.bptt)
    assert evaluate(subject, subject.model, "test")["loss"] == pytest.approx(evaluate_words(model, test), abs=1e-5)
    assert evaluate(subject, subject.model, "test") == evaluate(subject, subject.model, "test")
    assert len(subject.batches("valid", 70)) == 2  # windows of 5 in 10 columns


def test_states_go_from_window_to_window_for_each_model_alone(run: Path) -> None:
    subject, other = subject_of(run), subject_of(run)
    runs = subject.batches("test", 0)
    mixed = []
    with torch.no_grad():
        alone = [float(cross_entropy(one(subject.model))) for one in subject.batches("test", 0)]
        for one in runs:
            mixed.append(float(cross_entropy(one(subject.model))))
            one(other.model)
    assert mixed == pytest.approx(alone, abs=1e-4)


def test_the_divergence_from_fp32_is_none_for_fp32_and_the_same_whether_its_predictions_are_kept(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = subject_of(run)
    other = copy.deepcopy(subject.model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
        logits = [[one(model).logits.double() for one in subject.batches("valid", 60)] for model in (subject.model, other)]
    expected, found = (torch.cat(each).log_softmax(1) for each in logits)
    by_hand = float((expected.exp() * (expected - found)).sum(1).mean())
    divergence = Divergence(subject, 60)
    assert divergence(subject.model) == pytest.approx(0, abs=1e-6)
    assert by_hand > 1e-3
    assert [divergence(other) for _ in range(2)] == [pytest.approx(by_hand, rel=1e-4)] * 2
    monkeypatch.setattr("limbeck.apps.quantized.KEPT_BYTES", 0)
    anew = Divergence(subject, 60)
    assert [anew(model) for model in (other, subject.model, other)] == pytest.approx([by_hand, 0, by_hand], rel=1e-4, abs=1e-6)


def test_a_class_that_is_ruled_out_does_not_spoil_the_divergence(run: Path) -> None:
    logits = torch.tensor([[0.0, 1.0, -math.inf]])
    subject = replace(subject_of(run), batches=lambda split, samples: [lambda model: Predictions(model(logits), torch.tensor([0]))])
    own = replace(subject, model=torch.nn.Identity())
    assert Divergence(own, 0)(torch.nn.Identity()) == 0
    assert Divergence(own, 0)(torch.nn.Tanh()) > 0


def test_a_search_makes_the_divergence_least_unless_it_is_told_to_take_the_loss(run: Path, file: Path, tmp_path: Path) -> None:
    subject, described = subject_of(run), load_quantizer(file)
    with Progress(1) as progress:
        stats = statistics(subject, 50, tmp_path, progress)
        found = search(subject, described, stats, SearchOptions("greedy", budget=3, samples=50), tmp_path, progress)
        assert "search: divergence 0.0" in found.told()
        assert found.found.best.loss == pytest.approx(Divergence(subject, 50)(found.quantizer.model), rel=1e-5)
        assert json.loads((tmp_path / "ranges.json").read_text())["divergence"] == found.found.best.loss
        by_loss = search(subject, described, stats, SearchOptions("greedy", 3, 50, objective="loss"), tmp_path / "loss", progress)
        assert by_loss.found.best.loss == pytest.approx(evaluate(subject, by_loss.quantizer.model, "valid", 50)["loss"], rel=1e-5)


def test_statistics_come_from_the_validation_and_are_collected_once(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subject = subject_of(run)
    assert subject.calibration == "valid"
    with Progress(1) as progress:
        first = statistics(subject, 100, tmp_path, progress)
        (tmp_path / STATS).touch()
        assert statistics(subject, 100, tmp_path, progress) == first
        assert "ranges from" in capsys.readouterr().err
        assert statistics(subject, 50, tmp_path, progress) != first
    assert "rnn.cells.0.eltwiseadd_cell" in first
    assert first["rnn.cells.0.act_f"].output is not None


def test_the_seven_rows_are_the_files_of_the_schedules() -> None:
    found = {path.stem: load_quantizer(path) for path in ROW_FILES.glob("*.yaml")}
    assert found.keys() == ROWS.keys()
    for name, arguments in ROWS.items():
        own = post_train_linear_quantizer(**arguments).arguments
        assert {**own, **found[name].arguments} == own


# the columns of Distiller's table: shared/seeds 002, "Compression: Post-Training Quantization"
SAID = {
    "fp32": ("FP32", "N/A", "N/A", "N/A", "N/A"),
    "fp16": ("Full FP16", "N/A", "N/A", "N/A", "Entire model"),
    "int8_symmetric": ("Full INT8", "Symmetric", "No", "No", "None"),
    "int8_asymmetric_channel": ("Full INT8", "Asymmetric", "Yes", "No", "None"),
    "int8_asymmetric_channel_avg": ("Full INT8", "Asymmetric", "Yes", "Averaging", "None"),
    "mixed_fp16_eltwise": ("Mixed INT8/FP16", "Asymmetric", "Yes", "No", "encoder, decoder, .*eltwise.*"),
    "mixed_fp16_avg": ("Mixed INT8/FP16", "Asymmetric", "Yes", "Averaging", "encoder, decoder"),
}


@pytest.mark.parametrize("name", SAID)
def test_a_row_says_what_distillers_table_says(name: str) -> None:
    assert tuple(told(post_train_linear_quantizer(**ROWS[name])).values()) == SAID[name]


def test_all_rows_in_one_command_and_a_second_call_measures_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"lm quantize {run} --calibration-words 100 --eval-words 100 --out {tmp_path} --json"
    tree = json.loads(CliRunner().invoke(app, shlex.split(line)).stdout)
    assert [row["name"] for row in tree["rows"]] == list(ROWS)
    by_name = {row["name"]: row for row in tree["rows"]}
    assert by_name["fp32"]["change"] == 0
    assert abs(by_name["fp16"]["change"]) < 1e-3
    assert 0 < abs(by_name["int8_symmetric"]["change"]) < 0.05
    assert {Path(file).name for file in tree["files"]} == {"table.md", "table.csv"}
    assert len(list(csv.reader((tmp_path / "table.csv").read_text().splitlines()))) == 8
    monkeypatch.setattr("limbeck.apps.lm.quantize.evaluate", lambda *given: pytest.fail("measured again"))
    printed = done(line.removesuffix(" --json"))
    assert "Entire model" in printed
    assert "Ranges from 100 words of the validation text." in printed


def test_files_of_ones_own_are_rows_beside_fp32_and_a_search_is_one_more(run: Path, file: Path, tmp_path: Path) -> None:
    line = f"lm quantize {run} {file} --calibration-words 100 --eval-words 100 --search greedy --budget 9 --search-words 50 --out {tmp_path} --json"
    result = invoke(line)
    tree = json.loads(result.stdout)
    assert f"wrote {tmp_path / 'ranges.json'}" in result.stderr
    assert [row["name"] for row in tree["rows"]] == ["fp32", "int8", "searched"]
    assert tree["rows"][2]["precision"] == "Full INT8, searched"
    (log,) = tmp_path.glob("search_greedy_*.jsonl")
    assert len(log.read_text().splitlines()) == 10


def test_files_of_one_name_are_rows_of_their_own(tmp_path: Path) -> None:
    given = []
    for place, arguments in (("a/int8", "clip_acts: avg"), ("b/int8", "clip_acts: mse"), ("fp32", "bits_parameters: 4"), ("searched", "")):
        given.append(tmp_path / f"{place}.yaml")
        given[-1].parent.mkdir(exist_ok=True)
        given[-1].write_text(f"quantizers:\n  q: {{class: PostTrainLinearQuantizer, {arguments}}}\n")
    assert list(_chosen(given)) == list(map(str, given))
    assert list(_chosen([given[0], ROW_FILES / "fp32.yaml"])) == ["int8", "fp32"]


def test_quantize_reports_layer_by_layer_and_keeps_the_checkpoint(run: Path, file: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    line = f"quantize {file} --model {run} --calibration-samples 100 --eval-samples 100 --cost-samples 0 --out {tmp_path / 'out'}"
    tree = json.loads(CliRunner().invoke(app, shlex.split(f"{line} --json")).stdout)
    rows: dict[str, Any] = {row["layer"]: row for row in tree["rows"]}
    assert list(rows)[:2] == ["encoder", "rnn.cells.0.fc_gate_x"]
    assert rows["decoder"]["kind"] == "int8"
    assert rows["decoder"]["snr"] > 10
    assert rows["decoder"]["weight_snr"] > 30
    assert rows["decoder"]["cost"] is None
    assert tree["quantized"]["perplexity"] == pytest.approx(tree["fp32"]["perplexity"], rel=0.05)
    names = {"layers.csv", "layers.md", "tensors.csv", "tensors.md", "layer_quant_params.yaml", "report.png", "report.svg"}
    assert {Path(name).name for name in tree["files"]} == names
    assert all(Path(name).stat().st_size for name in tree["files"])
    assert "Zeros stay zeros" in (tmp_path / "out" / "layers.md").read_text()
    assert "encoder.weight and decoder.weight are one tensor in FP32" in (tmp_path / "out" / "tensors.md").read_text()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.long
def test_quantizing_each_layer_alone_tells_what_it_costs(run: Path, file: Path, tmp_path: Path) -> None:
    printed = done(f"quantize {file} --model {run} --calibration-samples 100 --eval-samples 100 --cost-samples 50 --out {tmp_path}")
    assert "where that layer alone is quantized; the costliest are " in printed
    assert " language model (" in printed
    assert "encoder alone, 1/14: divergence " in printed
    (log,) = tmp_path.glob("costs_*.jsonl")
    found = [json.loads(line) for line in log.read_text().splitlines()[1:]]
    assert [cost["setting"]["layer"] for cost in found][:2] == ["encoder", "rnn.cells.0.fc_gate_x"]
    assert all(0 <= cost["loss"] < 0.1 for cost in found)


@pytest.mark.long
def test_a_search_leaves_ranges_that_are_taken_up_again(run: Path, file: Path, tmp_path: Path) -> None:
    line = f"quantize {file} --model {run} --calibration-samples 100 --eval-samples 100 --cost-samples 0 --out {tmp_path} --json"
    searched = json.loads(
        CliRunner().invoke(app, shlex.split(f"{line} --split valid --search lapq --budget 20 --search-samples 100")).stdout
    )
    taken = json.loads(CliRunner().invoke(app, shlex.split(f"{line} --split valid --ranges {tmp_path / 'ranges.json'}")).stdout)
    assert taken["quantized"] == searched["quantized"]
    assert {row["clipping"] for row in searched["rows"]} - {None} <= {
        "none",
        "avg",
        "gauss",
        "laplace",
        "kl",
        "mse",
        "l2.5",
        "l3",
        "l3.5",
        "l4",
    } | {row["clipping"] for row in searched["rows"] if row["clipping"] and " x " in row["clipping"]}
    plain = json.loads(CliRunner().invoke(app, shlex.split(f"{line} --split valid")).stdout)
    assert searched["quantized"]["loss"] <= plain["quantized"]["loss"]


def test_a_layer_alone_has_the_ranges_that_it_has_among_the_others(run: Path, file: Path, tmp_path: Path) -> None:
    subject, described = subject_of(run), load_quantizer(file)
    with Progress(1) as progress:
        stats = statistics(subject, 50, tmp_path, progress)
        found = []
        for ranges in ({}, {"decoder.output": ("none", 0.1)}, {"rnn.cells.0.eltwisemult_cell_forget.output": ("none", 0.1)}):
            quantizer = Recipe(described, ranges).quantized(subject, stats)
            found.append(costs(subject, described, quantizer, stats, 50, tmp_path, progress))
    given, decoder, forget = found
    assert quantizer.sources["rnn.cells.0.eltwiseadd_cell.inputs.0"] == "rnn.cells.0.eltwisemult_cell_forget.output"
    assert {layer for layer in given if decoder[layer] != given[layer]} == {"decoder"}
    assert {layer for layer in given if forget[layer] != given[layer]} == {
        "rnn.cells.0.eltwisemult_cell_forget",
        "rnn.cells.0.eltwiseadd_cell",
    }
    assert len(list(tmp_path.glob("costs*.jsonl"))) == 3


def test_files_that_differ_in_the_order_of_their_overrides_have_answers_of_their_own(run: Path, tmp_path: Path) -> None:
    subject = subject_of(run)
    pairs = [("dec*", {"bits_weights": 2}), ("*", {"bits_weights": 8})]
    one, other = (post_train_linear_quantizer(overrides=dict(order)) for order in (pairs, pairs[::-1]))
    assert log_of(tmp_path, "x", about_losses(subject, one, None, 50)) != log_of(tmp_path, "x", about_losses(subject, other, None, 50))
    assert plain(one) != plain(other)


def test_no_model_outlives_its_evaluation(run: Path) -> None:
    subject = subject_of(run)
    divergence, alive = Divergence(subject, 50), []
    for _ in range(3):
        model = copy.deepcopy(subject.model)
        alive.append(weakref.ref(model))
        divergence(model)
        del model
    gc.collect()
    assert [each() for each in alive] == [None] * 3


def test_a_layer_alone_may_take_what_no_quantized_layer_gives(run: Path, tmp_path: Path) -> None:
    subject = subject_of(run)
    described = post_train_linear_quantizer(inputs_quant_auto_fallback=False)
    with Progress(1) as progress:
        stats = statistics(subject, 50, tmp_path, progress)
        quantizer = Recipe(described).quantized(subject, stats)
        assert all(cost >= 0 for cost in costs(subject, described, quantizer, stats, 50, tmp_path, progress).values())


def test_ranges_for_a_file_that_has_none_are_refused(run: Path, tmp_path: Path) -> None:
    ranges = tmp_path / "ranges.json"
    ranges.write_text('{"ranges": {"decoder.output": ["mse", 1.0]}}')
    result = invoke(f"quantize {ROW_FILES / 'fp16.yaml'} --model {run} --ranges {ranges} --out {tmp_path / 'out'}")
    assert "has a range for 'decoder.output', which the model quantized by" in str(result.exception)


def test_a_file_s_own_statistics_go_before_those_of_the_calibration(run: Path, file: Path, tmp_path: Path) -> None:
    subject = subject_of(run)
    with Progress(1) as progress:
        tree = statistics(subject, 50, tmp_path, progress).tree(histograms=False)
    tree["decoder"]["output"] |= {"min": -0.01, "max": 0.01}
    (tmp_path / "own.json").write_text(json.dumps(tree))
    own = tmp_path / "own.yaml"
    own.write_text(file.read_text().replace("}", f", model_activation_stats: {tmp_path / 'own.json'}}}"))
    result = invoke(f"lm quantize {run} {file} {own} --calibration-words 50 --eval-words 50 --out {tmp_path} --json")
    changes = {row["name"]: row["change"] for row in json.loads(result.stdout)["rows"]}
    assert abs(changes["own"] - changes["int8"]) > 0.01
    tree["decoder"]["output"] |= {"min": -5.0, "max": 5.0}
    (tmp_path / "own.json").write_text(json.dumps(tree))
    again = json.loads(invoke(f"lm quantize {run} {own} --calibration-words 50 --eval-words 50 --out {tmp_path} --json").stdout)
    assert abs(again["rows"][1]["change"] - changes["own"]) > 0.01  # of the statistics that the file has now
    assert any(f"Of own from {tmp_path / 'own.json'}." in note for note in json.loads(result.stdout)["notes"])


@pytest.mark.long
def test_a_search_for_bits_leaves_a_schedule_file(run: Path, file: Path, tmp_path: Path) -> None:
    line = f"quantize {file} --model {run} --calibration-samples 100 --eval-samples 100 --cost-samples 0 --out {tmp_path}"
    done(f"{line} --search bits --tolerance 0.05 --budget 40 --search-samples 100")
    found = load_quantizer(tmp_path / "bits.yaml").arguments["overrides"]
    assert {"encoder", "decoder", "rnn.cells.0.fc_gate_x"} <= found.keys()
    assert "weights of 8.0 -> " in (tmp_path / "bits.yaml").read_text().splitlines()[0]
    assert min(override["bits_weights"] for override in found.values()) == 4
    done(f"quantize {tmp_path / 'bits.yaml'} --model {run} --calibration-samples 100 --eval-samples 100 --cost-samples 0 --out {tmp_path}")


def test_what_is_asked_otherwise_has_a_log_of_its_own(run: Path, file: Path, tmp_path: Path) -> None:
    subject, described, options = subject_of(run), load_quantizer(file), SearchOptions("greedy", budget=1, samples=50)

    def logs() -> int:
        return len(list(tmp_path.glob("search_greedy_*.jsonl")))

    with Progress(1) as progress:
        stats = statistics(subject, 50, tmp_path, progress)
        search(subject, described, stats, options, tmp_path, progress)
        again = statistics(subject, 50, tmp_path, progress)
        assert about_losses(subject, described, again, 50) == about_losses(subject, described, stats, 50)
        search(subject, described, again, options, tmp_path, progress)
        assert logs() == 1
        search(subject, described, statistics(subject, 100, tmp_path, progress), options, tmp_path, progress)
        assert logs() == 2
        search(subject, described, again, replace(options, objective="loss"), tmp_path, progress)
        assert logs() == 3


def test_a_folder_with_the_ranges_of_another_model_is_refused_and_kept(run: Path, tmp_path: Path) -> None:
    subject = subject_of(run)
    with Progress(1) as progress:
        statistics(subject, 50, tmp_path, progress)
        kept = (tmp_path / "stats.json").read_bytes()
        other = replace(subject, about={**subject.about, "weights": "others"})
        with pytest.raises(
            QuantizationError, match=r"has the ranges of another model: weights .*; give this one a folder of its own with --out"
        ):
            statistics(other, 50, tmp_path, progress)
    assert (tmp_path / "stats.json").read_bytes() == kept


def test_a_search_where_there_is_nothing_to_search_is_refused(run: Path, tmp_path: Path) -> None:
    line = f"quantize {ROW_FILES / 'fp16.yaml'} --model {run} --cost-samples 0 --out {tmp_path} --search"
    assert "has no ranges to search" in str(invoke(f"{line} greedy").exception)
    assert "no layer has a weight of integers" in str(invoke(f"{line} bits").exception)


def test_what_is_wrong_of_a_file_for_this_model_is_said_with_its_name(run: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("quantizers:\n  q: {class: PostTrainLinearQuantizer, overrides: {decodr: {bits_weights: 4}}}\n")
    few = "--calibration-{0} 50 --eval-{0} 50"
    for line in (f"quantize {wrong} --model {run} {few.format('samples')}", f"lm quantize {run} {wrong} {few.format('words')}"):
        said = str(invoke(f"{line} --out {tmp_path / 'out'}").exception)
        assert said.partition(": overrides: 1 fault")[0] in {str(wrong), "wrong"}
        assert "no layer is named 'decodr'; did you mean 'decoder'?" in said
    assert not (tmp_path / "out").exists()  # before there is any calibration


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--dynamic --search lapq", "there is nothing for --stats and --search to do"),
        ("--objective loss", "--objective: says nothing without a search; leave it out, or give --search both"),
        ("--budget 5", "--budget: says nothing without a search"),
        ("--search greedy --tolerance 0.1", "--tolerance: is of --search bits; leave it out"),
        ("--search bits --objective loss", "is of a search for ranges, and bits are bound by the loss"),
        ("--ranges x.json --search lapq", "give one of --ranges and --search"),
        ("--ranges nowhere.json", "nowhere.json cannot be read: No such file or directory; name a file that a search wrote"),
        ("--data nowhere", "no corpus 'nowhere'"),
    ],
)
def test_what_does_not_go_together_is_said(given: str, message: str, run: Path, file: Path, tmp_path: Path) -> None:
    result = invoke(f"quantize {file} --model {run} --calibration-samples 50 --eval-samples 50 --cost-samples 0 --out {tmp_path} {given}")
    assert result.exit_code != 0
    assert message in " ".join((result.output + str(result.exception)).replace("│", " ").split())


def test_ranges_of_something_else_are_refused(run: Path, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"ranges": {"fc.weight": ["mse", 1.0]}}')
    assert load_ranges(other) == {"fc.weight": ("mse", 1.0)}
    result = invoke(f"quantize {file} --model {run} --calibration-samples 50 --cost-samples 0 --ranges {other} --out {tmp_path}")
    assert "has a range for 'fc.weight', which the model quantized by" in str(result.exception)
    other.write_text('{"about": {"model": "Big"}, "ranges": {"encoder.weight": ["mse", 1.0]}}')
    result = invoke(f"quantize {file} --model {run} --calibration-samples 50 --cost-samples 0 --ranges {other} --out {tmp_path}")
    assert "was found for another model: model 'Big', not" in str(result.exception)
    other.write_text("[]")
    with pytest.raises(QuantizationError, match=r"other\.json holds no ranges of a search"):
        load_ranges(other)

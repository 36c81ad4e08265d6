"""The application as a user meets it: command lines of the ancestor's documents, summaries, plans, runs, text."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from limbeck.apps.checkpoint import load_checkpoint, save_checkpoint
from limbeck.apps.lm import app as lm
from limbeck.apps.lm.options import TrainOptions
from limbeck.apps.loop import has_bfloat16
from limbeck.cli import app
from limbeck.errors import CheckpointError, LimbeckError

SMALL = "--emsize 16 --nhid 16 --batch-size 8 --bptt 7 --epochs 2 --tied"


def invoke(line: str) -> Result:
    """Run ``limbeck LINE`` in this process."""
    return CliRunner().invoke(app, shlex.split(line))


# (command line after the program's name in documents 000 and 002, what it must mean)
DOCUMENTED: list[tuple[str, dict[str, Any]]] = [
    ("--cuda --epochs 40 --tied --wd=1e-6", {"cuda": True, "epochs": 40, "tied": True, "weight_decay": 1e-6}),
    ("--cuda --emsize 650 --nhid 650 --dropout 0.5 --epochs 40 --tied --wd=1e-6", {"emsize": 650, "nhid": 650, "dropout": 0.5}),
    ("--cuda --emsize 1500 --nhid 1500 --dropout 0.65 --tied --wd=1e-5", {"emsize": 1500, "dropout": 0.65, "epochs": 40}),
    (
        "--cuda --emsize 1500 --nhid 1500 --dropout 0.65 --tied --compress=schedules/lm/large_80.yaml --wd=1e-6",
        {"compress": "schedules/lm/large_80.yaml", "weight_decay": 1e-6},
    ),
    ("--cuda --epochs 6", {"cuda": True, "epochs": 6, "tied": False, "lr": 20.0, "clip": 0.25, "bptt": 35, "batch_size": 20}),
    ("--cuda --epochs 6 --tied", {"tied": True, "emsize": 200, "nhid": 200, "nlayers": 2, "dropout": 0.2, "seed": 1111}),
    ("--cuda --tied", {"epochs": 40, "momentum": 0.0, "weight_decay": 0.0}),
    ("--cuda --emsize 1500 --nhid 1500 --dropout 0.65 --epochs 40", {"emsize": 1500, "tied": False}),
    (
        "--data D --model GRU --emsize 3 --nhid 4 --nlayers 5 --lr 6 --clip 7 --epochs 8 --batch-size 9 --bptt 10 --dropout 0.5 "
        "--decay 0.25 --seed 11 --log-interval 12 --save S",
        {"data": "D", "model": "GRU", "nlayers": 5, "lr": 6.0, "clip": 7.0, "batch_size": 9, "bptt": 10, "decay": 0.25, "save": "S"},
    ),
    ("--batch_size 9 --weight-decay 0.5 --momentum 0.9", {"batch_size": 9, "weight_decay": 0.5, "momentum": 0.9}),
    ("--amp --compile --device cpu --save-every 7", {"amp": True, "compile": True, "device": "cpu", "save_every": 7}),
]


@pytest.mark.parametrize(("line", "meaning"), DOCUMENTED)
def test_documented_command_lines_run_verbatim(monkeypatch: pytest.MonkeyPatch, line: str, meaning: dict[str, Any]) -> None:
    seen: list[TrainOptions] = []
    monkeypatch.setattr(lm, "run_training", lambda options, given, resume, as_json: seen.append(options))
    result = invoke(f"lm train {line}")
    assert result.exit_code == 0, result.output
    assert {key: getattr(seen[0], key) for key in meaning} == meaning


def test_summaries_print_and_exit(corpus: Path) -> None:
    for name, expected in {
        "sparsity": "NNZ (sparse)",
        "model": "RNNModel(",
        "modules": "Embedding",
        "percentile": "rnn.weight_hh_l1",
        "compute": "Total MACs: ",
    }.items():
        result = invoke(f"lm train {SMALL} --data {corpus} --summary {name}")
        assert result.exit_code == 0, result.output
        assert expected in result.output
    table = json.loads(invoke(f"lm train {SMALL} --data {corpus} --summary=sparsity --json").output)
    assert table["rows"][0]["name"] == "encoder.weight"
    assert "encoder.weight is tied with decoder.weight: one tensor, counted once" in table["notes"]


def test_plan_is_the_plan_of_that_very_command(corpus: Path, schedule: Path) -> None:
    result = invoke(f"lm train {SMALL} --data {corpus} --compress {schedule} --plan --json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.output)
    encoder = plan["parameters"]["encoder.weight"]
    assert [point["epoch"] for point in encoder["timeline"]] == [0, 1]  # the run has two epochs, the schedule three
    assert plan["warnings"]
    assert plan["parameters"]["rnn.weight_hh_l0"]["data_dependent"]


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN_TANH", "RNN_RELU"])
def test_every_cell_trains_evaluates_and_generates(tmp_path: Path, corpus: Path, cell: str) -> None:
    run, text = tmp_path / "run", tmp_path / "text.txt"
    result = invoke(f"lm train {SMALL} --lr 5 --model {cell} --data {corpus} --save {run}")
    assert result.exit_code == 0, result.output
    record = json.loads((run / "run.json").read_text())
    assert record["finished"]
    assert record["test_perplexity"] < record["model"]["vocabulary"]
    evaluation = json.loads(invoke(f"lm evaluate {run} --json").output)
    assert evaluation["perplexity"] == record["test_perplexity"]
    assert invoke(f"lm generate --checkpoint {run} --words 30 --outf {text}").exit_code == 0
    assert len(text.read_text().split()) >= 20


def test_a_pruned_run_is_as_sparse_as_its_plan_and_tests_a_model_of_that_sparsity(tmp_path: Path, corpus: Path) -> None:
    schedule = tmp_path / "agp.yaml"
    schedule.write_text(
        "version: 1\n"
        "pruners: {agp: {class: AutomatedGradualPruner, initial_sparsity: 0.05, final_sparsity: 0.9, weights: ['*.weight', 'rnn.weight_*']}}\n"
        "policies: [{pruner: {instance_name: agp}, starting_epoch: 0, ending_epoch: 2}]\n"
    )
    run = tmp_path / "run"
    plan = json.loads(invoke(f"lm train {SMALL} --data {corpus} --compress {schedule} --plan --json").output)
    assert invoke(f"lm train {SMALL} --data {corpus} --compress {schedule} --save {run}").exit_code == 0
    evaluation = json.loads(invoke(f"lm evaluate {run} --json").output)
    assert evaluation["nonzeros"] == plan["total"]["nonzeros"]
    assert json.loads((run / "run.json").read_text())["best_epoch"] == 1
    rows = (run / "sparsity.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 5


def test_learning_rates_of_the_schedule_replace_the_plateau_decay_and_say_so(tmp_path: Path, corpus: Path) -> None:
    schedule = tmp_path / "lr.yaml"
    schedule.write_text(
        "version: 1\nlr_schedulers: {decay: {class: ExponentialLR, gamma: 0.5}}\n"
        "policies: [{lr_scheduler: {instance_name: decay}, starting_epoch: 0, ending_epoch: 9}]\n"
    )
    run = tmp_path / "run"
    result = invoke(f"lm train {SMALL} --lr 4 --data {corpus} --compress {schedule} --save {run}")
    assert "the schedule's learning rate (ExponentialLR) replaces the built-in plateau decay" in result.stderr
    validation = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines() if ",validation," in line]
    assert [float(cells[5]) for cells in validation] == [4.0, 2.0]


def test_no_run_is_overwritten(tmp_path: Path, corpus: Path) -> None:
    run = tmp_path / "run"
    (run / "last").mkdir(parents=True)
    result = invoke(f"lm train {SMALL} --data {corpus} --save {run}")
    assert str(result.exception) == f"{run} holds a run already; continue it with --resume {run}, or save to another folder"


def test_clear_errors(tmp_path: Path, corpus: Path) -> None:
    for line, message in {
        f"lm train --data {corpus} --tied --nhid 16 --save {tmp_path}/a": "tied weights need emsize equal to nhid, not 200 and 16",
        f"lm train {SMALL} --data {corpus} --device gpu --save {tmp_path}/c": "--device gpu cannot be used here: ",
        f"lm train {SMALL} --data {corpus} --device cuda:99 --save {tmp_path}/d": "--device cuda:99 cannot be used here: ",
        f"lm evaluate {tmp_path}/none": "none",
        f"lm train --resume {tmp_path}/none": "none",
    }.items():
        result = invoke(line)
        assert result.exit_code == 1, line
        assert isinstance(result.exception, LimbeckError), line  # which the program prints; anything else would be a traceback
        assert message in str(result.exception), line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lm train --summary sparsty", "no summary named 'sparsty'; did you mean 'sparsity'?"),
        ("lm train --model LTSM", "no recurrent cell named 'LTSM'; did you mean 'LSTM'?"),
        ("lm train --plan", "--plan shows what a schedule will do: name one with --compress FILE"),
        ("lm evaluate none --split x", "no split named 'x'; choose one of valid, test"),
    ],
)
def test_a_wrong_value_is_wrong_usage(line: str, message: str) -> None:
    result = CliRunner().invoke(app, shlex.split(line), env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert message in result.stderr


def test_autocast_training_runs_and_says_where_it_cannot(tmp_path: Path, corpus: Path) -> None:
    result = invoke(f"lm train {SMALL} --epochs 1 --amp --data {corpus} --save {tmp_path}/amp")
    assert result.exit_code == 0, result.output
    assert ("--amp is ignored" in result.stderr) == (not has_bfloat16(torch.device("cpu")))


@pytest.mark.long
def test_compiled_training_gives_the_same_model(tmp_path: Path, corpus: Path) -> None:
    for name, flag in {"plain": "", "compiled": "--compile"}.items():
        result = invoke(f"lm train {SMALL} --dropout 0 --data {corpus} --save {tmp_path}/{name} {flag}")
        assert result.exit_code == 0, result.output
    plain, compiled = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("plain", "compiled"))
    assert compiled["test_perplexity"] == pytest.approx(plain["test_perplexity"], rel=1e-3)


def test_cuda_without_a_device_warns_and_runs(tmp_path: Path, corpus: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    result = invoke(f"lm train {SMALL} --epochs 1 --cuda --data {corpus} --save {tmp_path}/run")
    assert "no CUDA device here: --cuda is ignored" in result.stderr
    assert result.exit_code == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A finished run; do not write to it."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert invoke(f"lm train {SMALL} --lr 5 --data {corpus} --save {run}").exit_code == 0
    return run


def test_a_run_goes_on_in_another_folder_with_its_best_model(tmp_path: Path, trained: Path) -> None:
    other = tmp_path / "other"
    result = invoke(f"lm train --resume {trained} --save {other}")
    assert result.exit_code == 0, result.output
    one, two = (json.loads((run / "run.json").read_text()) for run in (trained, other))
    assert one["test_perplexity"] == two["test_perplexity"]
    result = invoke(f"lm train --resume {trained} --save {other}")
    assert str(result.exception).startswith(f"{other} holds a run already")


def test_a_run_goes_on_in_its_own_folder_after_a_crash_between_two_renames(tmp_path: Path, trained: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "last").rename(run / ".last.old")
    result = invoke(f"lm train --resume {run} --epochs 3")
    assert result.exit_code == 0, result.output
    assert json.loads((run / "run.json").read_text())["epochs"] == 3
    assert (run / "last").is_dir()
    assert not (run / ".last.old").exists()


def test_a_run_whose_best_model_was_lost_finds_another(tmp_path: Path, trained: Path) -> None:
    shutil.copytree(trained / "last", tmp_path / "run" / "last")
    result = invoke(f"lm train --resume {tmp_path}/run --epochs 3")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "run" / "run.json").read_text())["best_epoch"] == 2


@pytest.mark.parametrize("option", ["--lr 4", "--momentum 0.5", "--weight-decay 0.5", "--decay 0.5", "--seed 2"])
def test_what_a_checkpoint_carries_on_is_not_silently_ignored(trained: Path, option: str) -> None:
    result = invoke(f"lm train --resume {trained} {option}")
    assert isinstance(result.exception, CheckpointError)
    assert "the run was saved with" in str(result.exception)
    assert option.split(maxsplit=1)[0] in str(result.exception)


def test_a_corpus_may_move_but_not_change(tmp_path: Path, trained: Path, corpus: Path) -> None:
    moved, run = tmp_path / "moved", tmp_path / "run"
    shutil.copytree(corpus, moved)
    shutil.copytree(trained, run)
    result = invoke(f"lm train --resume {run} --data {moved} --json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((run / "run.json").read_text())
    lines = (moved / "train.txt").read_text().splitlines()
    (moved / "train.txt").write_text("\n".join([*lines[:-2], lines[-1], lines[-2]]))
    assert "has another text" in str(invoke(f"lm train --resume {run} --data {moved}").exception)


def test_the_plan_of_a_resumed_run_has_its_options_and_its_schedule(tmp_path: Path, corpus: Path, schedule: Path) -> None:
    line = f"lm train {SMALL} --data {corpus} --compress {schedule}"
    assert invoke(f"{line} --save {tmp_path}/run").exit_code == 0
    assert invoke(f"lm train --resume {tmp_path}/run --plan --json").output == invoke(f"{line} --plan --json").output


def test_a_bare_checkpoint_needs_a_folder_to_go_on_in(tmp_path: Path, trained: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(trained / "last", bare)
    for line in (f"lm train --resume {bare}", f"lm train --resume {bare} --save {bare}"):
        assert "name the folder of the run that goes on with --save DIR" in str(invoke(line).exception)
    assert invoke(f"lm train --resume {bare} --save {tmp_path}/run --epochs 3").exit_code == 0


def test_options_of_a_newer_version_are_left_out() -> None:
    assert TrainOptions.of({"emsize": 3, "unheard_of": 1}) == TrainOptions(emsize=3)


def test_a_diverged_model_is_evaluated(tmp_path: Path, trained: Path) -> None:
    checkpoint = load_checkpoint(trained / "best")
    model = lm.build_model(TrainOptions(**checkpoint.state["options"]), len(checkpoint.state["vocabulary"]))
    torch.nn.init.constant_(model.decoder.bias, 1e6)
    torch.nn.init.constant_(model.decoder.bias[:5], 0.0)
    save_checkpoint(tmp_path / "wild", model, checkpoint.state)
    result = invoke(f"lm evaluate {tmp_path}/wild")
    assert result.exit_code == 0, result.output
    assert "perplexity inf" in result.output
    assert json.loads(invoke(f"lm evaluate {tmp_path}/wild --json").output)["perplexity"] is None

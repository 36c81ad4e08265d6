"""The commands of ``limbeck translate`` on a handful of sentences: what they write, print and refuse."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from apps.translation.conftest import PRUNED, SMALL, invoke, rows_of
from limbeck.apps.translation import keep
from limbeck.apps.translation.bleu import Scores
from limbeck.apps.translation.options import TrainOptions
from limbeck.apps.translation.session import load_trained
from limbeck.apps.translation.validate import Validation
from limbeck.apps.weights import load_weights

SEED = "(ln/gamma)|(ln/beta)|(modalit)"
"""The pattern of NeurST's page on weight pruning."""


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory, folder: Path, dense: Path) -> Path:
    """The page's experiment: a dense run fine-tuned under pruning, with its options under their names, some of them in a file."""
    home = tmp_path_factory.mktemp("pruned")
    (home / "a.yml").write_text(
        "entry.class: trainer\nentry.params:\n  train_steps: 999\n  summary_steps: 2\nvalidator.params: {eval_steps: 4}\n", encoding="utf-8"
    )
    (home / "b.yml").write_text("train_steps: 9\npruning_schedule.class: PolynomialDecay\n", encoding="utf-8")
    line = (
        f"translate train --config_paths {home}/a.yml,{home}/b.yml --data {folder} --pretrain_model {dense} --model_dir {home}/run "
        f"--initial_global_step 12 --batch-tokens 48 --train_steps 8 --save_checkpoints_steps 4 --pruning_schedule polynomial_decay "
        f"--initial_sparsity 0 --target_sparsity 0.5 --begin_pruning_step 0 --end_pruning_step 4 --pruning_frequency 2 "
        f"--nopruning_variable_pattern '{SEED}' --beam_size 2"
    )
    result = invoke(line)
    assert result.exit_code == 0, result.output
    return home / "run"


def test_the_folder_of_a_run(dense: Path) -> None:
    assert {path.name for path in dense.iterdir()} >= {
        "best",
        "best_avg",
        "last",
        "ckpt-6",
        "ckpt-12",
        "run.json",
        "metrics.csv",
        "log.txt",
    }
    record = json.loads((dense / "run.json").read_text())
    assert (record["application"], record["finished"], record["steps"]) == ("translate", True, 12)
    assert record["sparsity"] == 0
    assert record["signatures"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert set(record["tests"]) == {"test_a"}
    rows = rows_of(dense / "metrics.csv")
    assert [row["step"] for row in rows if row["split"] == "validation"] == ["6", "12"]
    assert [row["step"] for row in rows if row["split"] == "train"] == ["3", "6", "9", "12"]
    rates = [0.3 * (16 * 20) ** -0.5 * step / 20 for step in (3, 6, 9, 12)]
    assert [float(row["learning_rate"]) for row in rows if row["split"] == "train"] == pytest.approx(
        rates
    )  # of that step, not of the next one


def test_files_and_the_command_line_add_up(pruned: Path) -> None:
    """The command line wins over files, the later file over the earlier one; the sizes and subwords are the pretrained model's."""
    options = json.loads((pruned / "last" / "state.json").read_text())["state"]["options"]
    assert (options["train_steps"], options["summary_steps"], options["eval_steps"]) == (8, 2, 4)
    assert (options["width"], options["ffn"], options["save"]) == (16, 16, str(pruned))
    assert (pruned / "best_avg").is_dir()


def test_checkpoints_are_named_by_the_global_step_and_pruned_by_the_run_s_own(pruned: Path) -> None:
    assert sorted(path.name for path in pruned.glob("ckpt-*")) == ["ckpt-16", "ckpt-20"]
    rows = rows_of(pruned / "pruning.csv")
    assert {row["Sparsity (%)"] for row in rows if row["Pruned"] == "True"} == {"50.0"}
    assert {row["Why"] for row in rows if row["Pruned"] == "True"} > {"attention; nopruning_variable_pattern does not find it"}
    rates = [float(row["learning_rate"]) for row in rows_of(pruned / "metrics.csv") if row["split"] == "train"]
    assert rates[0] < rates[-1]


def test_the_average_is_as_sparse_as_the_model(pruned: Path) -> None:
    last, average = (load_file(pruned / name / "model.safetensors") for name in ("last", "best_avg"))
    for name, tensor in last.items():
        assert average[name].count_nonzero() == tensor.count_nonzero() or tensor.dim() < 2 or "embedding" in name


def test_evaluate_says_what_the_run_says(pruned: Path) -> None:
    record = json.loads((pruned / "run.json").read_text())
    found = json.loads(invoke(f"translate evaluate {pruned} --json").output)
    assert found["splits"]["test_a"]["bleu"] == record["tests"]["test_a"]["bleu"]
    assert (found["nonzeros"], found["sparsity"]) == (record["nonzeros"], record["sparsity"])
    valid = json.loads(invoke(f"translate evaluate {pruned} --split val --json").output)
    assert valid["splits"]["val"]["bleu"] == record["validation_bleu"]
    text = invoke(f"translate evaluate {pruned} --beam_size 1").output
    assert "beam 1, length penalty 0.6" in text
    assert "tok:13a" in text
    assert "no split is named 'test_b'; did you mean 'test_a'?" in str(invoke(f"translate evaluate {pruned} --split test_b").exception)


def test_evaluate_needs_no_files_but_those_of_its_split(tmp_path: Path, folder: Path, dense: Path) -> None:
    for language in ("en", "de"):
        (tmp_path / f"test_c.{language}").write_text((folder / f"test_a.{language}").read_text())
    found = json.loads(invoke(f"translate evaluate {dense} --data {tmp_path} --json").output)["splits"]
    assert found["test_c"]["bleu"] == json.loads((dense / "run.json").read_text())["tests"]["test_a"]["bleu"]
    assert "no split is named 'dev'; there are test_c" in str(invoke(f"translate evaluate {dense} --data {tmp_path} --split dev").exception)


def test_a_file_of_weights_brings_no_subwords_which_is_told(tmp_path: Path, folder: Path, dense: Path) -> None:
    line = f"translate train --data {folder} {SMALL} --train_steps 1 --save {tmp_path / 'run'}"
    result = invoke(f"{line} --pretrain_model {dense / 'last' / 'model.safetensors'}")
    assert f"is a part of a checkpoint, which brings its subwords too; give {dense / 'last'}" in str(result.exception)
    model = load_trained(dense).model
    torch.save(model.state_dict(), tmp_path / "alone.pt")
    load_weights(shutil.copy(dense / "last" / "model.safetensors", tmp_path / "alone.safetensors"), model)  # tied ones are there once
    result = invoke(f"{line} --pretrain_model {tmp_path / 'alone.pt'}")
    assert result.exit_code == 0, result.output
    assert "alone.pt holds weights alone, so subwords are learnt anew" in result.output


def test_generate_translates_line_by_line(tmp_path: Path, dense: Path) -> None:
    (tmp_path / "in.en").write_text("one two\n\nred cat\n", encoding="utf-8")
    result = invoke(f"translate generate {dense} --input {tmp_path}/in.en --out {tmp_path}/out.de")
    assert result.exit_code == 0, result.output
    lines = (tmp_path / "out.de").read_text(encoding="utf-8").split("\n")
    assert (len(lines), lines[1], lines[3]) == (4, "", "")
    assert invoke(f"translate generate {dense} --input {tmp_path}/in.en").stdout == (tmp_path / "out.de").read_text(encoding="utf-8")


def test_only_line_feeds_end_a_line_and_a_missing_folder_is_told_first(tmp_path: Path, dense: Path) -> None:
    (tmp_path / "in.en").write_text("one\u2028two\x0cred\ncat\n", encoding="utf-8-sig")
    assert invoke(f"translate generate {dense} --input {tmp_path}/in.en").stdout.count("\n") == 2
    result = invoke(f"translate generate {dense} --input {tmp_path}/in.en --out {tmp_path}/none/out.de")
    assert "there is no folder" in str(result.exception)
    (tmp_path / "latin.en").write_bytes(b"caf\xe9\n")
    assert "is not UTF-8 text (line 1" in str(invoke(f"translate generate {dense} --input {tmp_path}/latin.en").exception)


def test_compare_sets_runs_side_by_side(tmp_path: Path, dense: Path, pruned: Path) -> None:
    found = json.loads(invoke(f"translate compare {dense} {pruned} --out {tmp_path} --json").output)
    header = (tmp_path / "table.csv").read_text().splitlines()[0]
    assert 'test_a,"dev, tokenised","test_a, tokenised"' in header
    assert {path.name for path in tmp_path.iterdir()} == {
        "table.md", "table.csv", "bleu_size.png", "bleu_size.svg", "bleu_epochs.png", "bleu_epochs.svg",
    }  # fmt: skip
    assert [row["target"] for row in found["rows"]] == [0.0, 0.5]


def test_plan_says_what_the_options_will_do(folder: Path, dense: Path) -> None:
    line = f"translate train --data {folder} {SMALL} {PRUNED} --train_steps 20 --plan --json"
    tree = json.loads(invoke(line).output)["parameters"]
    steps = tree["encoder.layers.0.ffn.conv1.weight"]["timeline"]
    assert [(firing["step"], firing["nonzeros"]) for firing in steps][-1] == (12, 128)
    text = invoke(line.removesuffix(" --json")).output
    assert "sparsity in %, by step" in text
    assert "?: depends on what the weights are then" in text  # zeros that are kept until the first renewal
    assert "source_embedding.weight (tied: " in text
    assert "not pruned: source_embedding.weight: embedding; prune_embeddings prunes it" in text
    refused = invoke(f"translate train --data {folder} {SMALL} --plan")
    assert refused.exit_code == 1
    assert "--compress FILE" in str(refused.exception)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--trian_steps 3", "--train_steps"),
        ("--hparams_set transformer_tny", "did you mean 'transformer_tiny'?"),
        ("--lr_schedule noam --learning_rate 0.1", "--learning_rate says nothing with --lr_schedule noam: noam takes --lr_factor"),
        ("--target_sparsity 0.5", "end_pruning_step -1: a polynomial decay must arrive somewhere"),
        ("--target_sparsity 0.5 --end_pruning_step 4 --pruning_frequency 2 --pruning_variable_pattern qvk", "finds no parameter"),
        ("--target_sparsity 0.5 --compress x.yaml --plan", "both prune; leave one of them out"),
        ("--width 15", "a width of 15 cannot be split over 2 heads"),
        ("--dropout 1.5", "--dropout: "),
        ("--separate_vocabulary --share_embeddings", "--share_embeddings needs one vocabulary"),
        ("--pretrain_model nowhere", "nowhere does not exist"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(folder: Path, line: str, message: str, tmp_path: Path) -> None:
    result = invoke(f"translate train --data {folder} {SMALL} {line} --train_steps 8 --save {tmp_path}/run")
    assert result.exit_code != 0
    assert message in result.output.replace("\n", " ") + str(result.exception)


@pytest.mark.parametrize("columns", [80, 140])
def test_help_names_every_option_in_full(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = invoke("translate train --help").output
    names = {field.name for field in fields(TrainOptions)} - {"command", "save"} | {
        "model_dir",
        "no_keep_prune_property",
        "save_checkpoints_steps",
    }
    assert [name for name in sorted(names) if f"--{name}" not in text] == []
    assert "Above 0." in text
    assert max(map(len, text.splitlines())) <= columns


def test_a_file_of_a_run_with_a_plateau_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "plateau.yaml").write_text(
        "version: 1\nlr_schedulers: {fall: {class: ReduceLROnPlateau}}\n"
        "policies: [{lr_scheduler: {instance_name: fall}, starting_epoch: 0, ending_epoch: 3}]\n",
        encoding="utf-8",
    )
    result = invoke(f"translate train --data {folder} {SMALL} --compress {tmp_path}/plateau.yaml --save {tmp_path}/run")
    assert "here validations come by step" in str(result.exception)


def test_patience_ends_a_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two validations in a row that are not the best; of equal ones the newer is the better."""
    bleus = iter([3.0, 2.0, 3.0, 2.5, 1.0, 9.0])
    monkeypatch.setattr(keep, "validate", lambda *_: Validation(1.0, Scores(next(bleus), 0.0, "", ""), 1.0))
    line = (
        f"translate train --data {folder} {SMALL} --train_steps 60 --eval_steps 2 --eval_estop_patience 2 --eval_top_checkpoints_to_keep 1"
    )
    result = invoke(f"{line} --save {tmp_path}/run")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["finished"], record["steps"], record["best_step"], record["best_bleu"]) == (True, 10, 6, 3.0)
    assert [path.name for path in (tmp_path / "run" / "best").iterdir()] == ["ckpt-6"]


def test_patience_does_not_count_while_there_is_pruning_to_come(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bleus = iter([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0])
    monkeypatch.setattr(keep, "validate", lambda *_: Validation(1.0, Scores(next(bleus), 0.0, "", ""), 1.0))
    line = (
        f"translate train --data {folder} {SMALL} --train_steps 60 --eval_steps 2 --eval_estop_patience 2 --eval_top_checkpoints_to_keep 1"
    )
    result = invoke(f"{line} --target_sparsity 0.5 --end_pruning_step 12 --pruning_frequency 12 --save {tmp_path}/run")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "run" / "run.json").read_text())["steps"] == 16


@pytest.mark.long
def test_the_embedded_task_is_learnt_and_pruned(tmp_path: Path) -> None:
    """The defaults, in fewer steps, with half of the attention's and feed-forward's weights gone halfway."""
    line = "translate train --train_steps 600 --eval_steps 200 --target_sparsity 0.5 --end_pruning_step 300 --pruning_frequency 50"
    result = invoke(f"{line} --beam_size 1 --save {tmp_path}/run")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["tests"]["test"]["bleu"] > 60
    assert record["averaged_steps"] == [400, 600]
    pruned = [row for row in rows_of(tmp_path / "run" / "pruning.csv") if row["Pruned"] == "True"]
    assert {row["Sparsity (%)"] for row in pruned} == {"50.0"}


def test_options_of_pruning_that_say_nothing_are_told(tmp_path: Path, folder: Path) -> None:
    schedule = tmp_path / "schedule.yaml"
    schedule.write_text(
        "version: 1\npruners: {p: {class: ConstantSparsityPruner, target_sparsity: 0.5, weights: ['*.ffn.*.weight']}}\n"
        "policies: [{pruner: {instance_name: p}, starting_step: 0, ending_step: 2, frequency: 1}]\n",
        encoding="utf-8",
    )
    line = f"translate train --data {folder} {SMALL} --train_steps 2 --prune_embeddings"
    result = invoke(f"{line} --compress {schedule} --save {tmp_path / 'none'}")
    assert "--prune_embeddings says nothing beside --compress" in str(result.exception)
    result = invoke(f"{line.removesuffix(' --prune_embeddings')} --compress {schedule} --save {tmp_path / 'file'}")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "file" / "run.json").read_text())["target_sparsity"] == 0.5
    result = invoke(f"{line} --end_pruning_step 2 --save {tmp_path / 'run'}")
    assert "nothing is pruned: --end_pruning_step, --prune_embeddings without a --target_sparsity above 0" in result.output


def test_a_model_to_begin_with_brings_its_own_subwords(tmp_path: Path, folder: Path, dense: Path) -> None:
    result = invoke(f"translate train --data {folder} --pretrain_model {dense} --vocabulary 50 --save {tmp_path / 'run'}")
    assert "brings its own subwords (vocabulary 60); leave it out" in str(result.exception)
    assert not (tmp_path / "run").exists()

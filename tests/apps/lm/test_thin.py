"""Hidden units of a language model that go: in the middle of a schedule, and after the training."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from limbeck.apps.checkpoint import load_checkpoint
from limbeck.cli import app

SCHEDULE = """\
version: 1
pruners:
  units: {class: L1RankedStructureParameterPruner, desired_sparsity: 0.5, group_type: Channels, coupling: joint, weights: decoder.weight}
policies:
  - {pruner: {instance_name: units}, epochs: [0]}
"""
THINNED = SCHEDULE.replace(
    "policies:", "extensions:\n  thin: {class: StructureRemover}\npolicies:\n  - {extension: {instance_name: thin}, epochs: [1]}"
)
SMALL = "--emsize 8 --nhid 12 --nlayers 2 --batch-size 4 --bptt 8 --epochs 3"


def invoke(line: str) -> Result:
    return CliRunner().invoke(app, shlex.split(line))


def run(corpus: Path, folder: Path, schedule: str, *options: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schedule.yaml").write_text(schedule, encoding="utf-8")
    line = f"lm train --data {corpus} {SMALL} --compress {folder / 'schedule.yaml'} --save {folder / 'run'} {' '.join(options)}"
    result = invoke(line)
    assert result.exit_code == 0, result.output
    return folder / "run"


def perplexity(path: Path) -> float:
    result = invoke(f"lm evaluate {path} --json")
    assert result.exit_code == 0, result.output
    return float(json.loads(result.stdout)["perplexity"])


def test_hidden_units_go_in_the_middle_of_training(corpus: Path, tmp_path: Path) -> None:
    last = load_checkpoint(run(corpus, tmp_path, THINNED) / "last")
    assert last.model["decoder.weight"].shape[1] == 6
    assert last.model["rnn.weight_hh_l0"].shape == (24, 6)
    assert perplexity(tmp_path / "run") > 1


def test_a_run_that_is_stopped_around_the_thinning_ends_as_the_whole_one(corpus: Path, tmp_path: Path) -> None:
    whole = run(corpus, tmp_path / "whole", THINNED)
    first = run(corpus, tmp_path / "first", THINNED, "--epochs 1")
    second = invoke(f"lm train --resume {first} --epochs 2")
    assert second.exit_code == 0, second.output
    third = invoke(f"lm train --resume {first} --epochs 3")
    assert third.exit_code == 0, third.output
    one, two = load_checkpoint(whole / "last"), load_checkpoint(first / "last")
    assert one.model.keys() == two.model.keys()
    assert all(torch.isfinite(tensor).all() and tensor.shape == two.model[name].shape for name, tensor in one.model.items())
    assert one.recipes[0].cuts == two.recipes[0].cuts


def test_thinning_after_the_training_keeps_the_perplexity(corpus: Path, tmp_path: Path) -> None:
    pruned = run(corpus, tmp_path, SCHEDULE)
    result = invoke(f"thin {pruned} --out {tmp_path / 'thin'}")
    assert result.exit_code == 0, result.output
    assert "rnn.weight_hh_l0: 48 x 12 -> 24 x 6" in result.stdout
    assert perplexity(tmp_path / "thin") == pytest.approx(perplexity(pruned), rel=1e-5)
    generated = invoke(f"lm generate --checkpoint {tmp_path / 'thin'} --words 5 --outf {tmp_path / 'words.txt'}")
    assert generated.exit_code == 0, generated.output

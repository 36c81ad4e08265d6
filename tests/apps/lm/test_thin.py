"""Hidden units of a language model that go: in the middle of a schedule, and after the training."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from limbeck.apps.checkpoint import load_checkpoint
from limbeck.apps.track import Tracker
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """The run that nothing stops."""
    return run(corpus, tmp_path_factory.mktemp("whole"), THINNED)


def test_hidden_units_go_in_the_middle_of_training(whole: Path) -> None:
    last = load_checkpoint(whole / "last")
    assert last.model["decoder.weight"].shape[1] == 6
    assert last.model["rnn.weight_hh_l0"].shape == (24, 6)
    assert last.model["rnn.weight_hh_l1"].shape == (24, 6)
    assert perplexity(whole) > 1


@pytest.mark.parametrize("away", [-1, 0, 1, 5])
def test_a_run_that_is_stopped_around_its_thinning_ends_in_the_same_bits(
    corpus: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: int
) -> None:
    after, epoch = Tracker.after_step, load_checkpoint(whole / "last").state["scheduler"]["clock"]["step"] // 3

    def stop(tracker: Tracker[Any]) -> None:
        tracker.interrupt.asked = tracker.session.scheduler.clock.step >= epoch + away
        after(tracker)

    with monkeypatch.context() as patched:
        patched.setattr(Tracker, "after_step", stop)
        stopped = run(corpus, tmp_path, THINNED)
    assert len(load_checkpoint(stopped / "last").recipes) == (away > 0)
    assert invoke(f"lm train --resume {stopped}").exit_code == 0
    for kind in ("last", "best"):
        for name in ("model", "state"):
            one, two = (load_file(path / kind / f"{name}.safetensors") for path in (whole, stopped))
            assert one.keys() == two.keys()
            assert all(torch.equal(one[key], two[key]) for key in one), (kind, name)


def test_thinning_after_the_training_keeps_the_perplexity(corpus: Path, tmp_path: Path) -> None:
    pruned = run(corpus, tmp_path, SCHEDULE)
    result = invoke(f"thin {pruned} --out {tmp_path / 'thin'}")
    assert result.exit_code == 0, result.output
    assert "rnn.weight_hh_l0: 48 x 12 -> 24 x 6" in result.stdout
    assert perplexity(tmp_path / "thin") == pytest.approx(perplexity(pruned), rel=1e-5)
    generated = invoke(f"lm generate --checkpoint {tmp_path / 'thin'} --words 5 --outf {tmp_path / 'words.txt'}")
    assert generated.exit_code == 0, generated.output

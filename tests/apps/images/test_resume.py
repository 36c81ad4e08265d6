"""The law of state, for image classifiers: stop at any step, resume, and the final tensors are equal bit for bit, thinned networks included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from apps.images.conftest import SMALL, invoke
from limbeck.apps.images.session import Session
from limbeck.apps.track import Tracker


class Killed(BaseException):
    """The process is gone."""


def killed_at(step: int, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a training that is gone after a step."""
    after = Tracker.after_step

    def kill(tracker: Tracker[Session]) -> None:
        after(tracker)
        if tracker.session.scheduler.clock.step == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "after_step", kill)
        with pytest.raises(Killed):
            raise invoke(line).exception or AssertionError("the run was over before")


def assert_equal_runs(one: Path, other: Path) -> None:
    """Models, all other tensors, and what the logs say of losses and sparsity."""
    for kind in ("last", "best"):
        for name in ("model", "state"):
            first, second = (load_file(run / kind / f"{name}.safetensors") for run in (one, other))
            assert first.keys() == second.keys()
            assert all(torch.equal(first[key], second[key]) for key in first), (kind, name)
    records = [json.loads((run / "run.json").read_text()) for run in (one, other)]
    for key in ("nonzeros", "weights", "validation_top1", "test_top1", "best_epoch", "finished"):
        assert records[0][key] == records[1][key], key
    tables = [[line.rsplit(",", 1)[0] for line in (run / "metrics.csv").read_text().splitlines()] for run in (one, other)]
    assert tables[0] == tables[1]
    assert (one / "sparsity.csv").read_text() == (other / "sparsity.csv").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, schedules: Path) -> dict[str, Path]:
    """The runs that nothing stops."""
    runs = {}
    for name in ("pruned", "thinned"):
        runs[name] = tmp_path_factory.mktemp("whole") / name
        result = invoke(
            f"images train {SMALL} --vs 0.1 --log-interval 5 --compress {schedules}/{name}.yaml --save-every 3 --save {runs[name]}"
        )
        assert result.exit_code == 0, result.output
    return runs


@pytest.mark.parametrize(("schedule", "step"), [("pruned", 1), ("pruned", 24), ("thinned", 22), ("thinned", 44)])
def test_a_run_that_was_killed_resumes_to_the_same_bits(
    tmp_path: Path, schedules: Path, whole: dict[str, Path], schedule: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    line = f"images train {SMALL} --vs 0.1 --log-interval 5 --compress {schedules}/{schedule}.yaml --save-every 3 --save {run}"
    killed_at(max(step, 3), line, monkeypatch)
    result = invoke(f"images train --resume {run}")
    assert result.exit_code == 0, result.output
    assert_equal_runs(whole[schedule], run)


def test_a_thinned_run_keeps_a_thinned_network(whole: dict[str, Path]) -> None:
    record = json.loads((whole["thinned"] / "run.json").read_text())
    assert load_file(whole["thinned"] / "best" / "model.safetensors")["3.conv1.weight"].shape == (4, 8, 3, 3)
    assert record["weights"] == 8 * 9 + 2 * 4 * 8 * 9 + 1280
    evaluation = json.loads(invoke(f"images evaluate {whole['thinned']} --json").output)
    assert evaluation["top1"] == record["test_top1"]


def test_what_a_run_carries_on_cannot_change(trained: Path) -> None:
    for options, message in {
        "--lr 1": "--lr 0.1, not 1.0",
        "--model resnet20_cifar": "--model apps.images.tiny:net, not resnet20_cifar",
        "--epochs 9": "planned for 3 epochs, not 9",
        "--data elsewhere": "elsewhere",
    }.items():
        assert message in str(invoke(f"images train --resume {trained} {options}").exception)

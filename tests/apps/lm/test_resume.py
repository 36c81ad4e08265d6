"""The law of state: stop at any step, in any way, resume, and the final tensors are equal bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

PROGRAM = (sys.executable, "-c", "from limbeck.cli import main; main()", "lm", "train")
SMALL = (
    "--emsize",
    "16",
    "--nhid",
    "16",
    "--epochs",
    "3",
    "--tied",
    "--batch-size",
    "8",
    "--bptt",
    "7",
    "--momentum",
    "0.5",
    "--log-interval",
    "5",
)


def command(corpus: Path, schedule: Path, save: Path) -> list[str]:
    """A small run with everything in it that has a state."""
    return [*PROGRAM, "--data", str(corpus), *SMALL, "--compress", str(schedule), "--save", str(save), "--save-every", "3"]


def held(step: int, line: list[str]) -> list[str]:
    """The same command line, for a run that waits after a step until a signal comes: it is not over before."""
    program = f"""
import time
from limbeck.apps.track import Tracker
from limbeck.cli import main
after = Tracker.after_step
def hold(tracker):
    while tracker.session.scheduler.clock.step >= {step} and not tracker.interrupt.asked:
        time.sleep(0.01)
    after(tracker)
Tracker.after_step = hold
main()
"""
    return [line[0], line[1], program, *line[3:]]


def environment() -> dict[str, str]:
    """One thread: the processes run beside other tests."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, corpus: Path, schedule: Path) -> Path:
    """The run that nothing stops."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run(command(corpus, schedule, folder), check=True, capture_output=True, env=environment())
    return folder


def wait_for_step(run: Path, step: int) -> None:
    """Until a checkpoint of that step, or a later one, stands."""
    for _ in range(20000):
        try:
            if json.loads((run / "last" / "state.json").read_text())["state"]["scheduler"]["clock"]["step"] >= step:
                return
        except (OSError, ValueError, KeyError, TypeError):
            pass
        time.sleep(0.005)
    pytest.fail(f"no checkpoint of step {step} came to stand in {run}")


def assert_equal_runs(one: Path, other: Path) -> None:
    """Models, all other tensors, and what the logs say of losses and sparsity."""
    for kind in ("last", "best"):
        for name in ("model", "state"):
            first, second = (load_file(run / kind / f"{name}.safetensors") for run in (one, other))
            assert first.keys() == second.keys()
            assert all(torch.equal(first[key], second[key]) for key in first), (kind, name)
    records = [json.loads((run / "run.json").read_text()) for run in (one, other)]
    for key in ("nonzeros", "validation_perplexity", "test_perplexity", "best_epoch", "finished"):
        assert records[0][key] == records[1][key], key
    tables = [[line.rsplit(",", 1)[0] for line in (run / "metrics.csv").read_text().splitlines()] for run in (one, other)]
    assert tables[0] == tables[1]
    assert (one / "sparsity.csv").read_text() == (other / "sparsity.csv").read_text()


@pytest.mark.parametrize(
    "step",
    [1, pytest.param(13, marks=pytest.mark.long), pytest.param(30, marks=pytest.mark.long), pytest.param(47, marks=pytest.mark.long)],
)
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, corpus: Path, schedule: Path, whole: Path, step: int) -> None:
    run = tmp_path / "run"
    with subprocess.Popen(
        held(step + 5, command(corpus, schedule, run)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    ) as process:
        wait_for_step(run, step)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    subprocess.run([*PROGRAM, "--resume", str(run)], check=True, capture_output=True, env=environment())
    assert_equal_runs(whole, run)


def test_ctrl_c_keeps_a_checkpoint_tests_the_model_and_resumes_to_the_same_bits(
    tmp_path: Path, corpus: Path, schedule: Path, whole: Path
) -> None:
    run = tmp_path / "run"
    with subprocess.Popen(
        held(26, command(corpus, schedule, run)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        wait_for_step(run, 22)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
    assert not json.loads((run / "run.json").read_text())["finished"]
    assert process.returncode == 0
    assert "test perplexity" in out
    assert f"limbeck lm train --resume {run}" in out
    subprocess.run([*PROGRAM, "--resume", str(run)], check=True, capture_output=True, env=environment())
    assert json.loads((run / "run.json").read_text())["test_perplexity"] == json.loads((whole / "run.json").read_text())["test_perplexity"]
    first, second = (load_file(folder / "last" / "model.safetensors") for folder in (whole, run))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_options_that_shape_the_model_cannot_change_on_the_way(whole: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "--resume", str(whole), "--nhid", "32", "--emsize", "32"], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 1
    assert "--emsize 16, not 32" in done.stderr


def test_a_request_to_terminate_leaves_a_checkpoint_and_no_test(tmp_path: Path, corpus: Path, schedule: Path, whole: Path) -> None:
    run = tmp_path / "run"
    with subprocess.Popen(
        command(corpus, schedule, run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    ) as process:
        wait_for_step(run, 4)
        process.terminate()
    assert process.returncode == 0
    record = json.loads((run / "run.json").read_text())
    assert (record["finished"], record["test_perplexity"]) == (False, None)
    subprocess.run([*PROGRAM, "--resume", str(run)], check=True, capture_output=True, env=environment())
    assert_equal_runs(whole, run)


RATES = """\
version: 1
pruners: {half: {class: SparsityLevelParameterPruner, levels: {encoder.weight: 0.5}}}
lr_schedulers:
  rise: {class: OneCycleLR, max_lr: 4.0, total_steps: 30}
  fall: {class: ExponentialLR, gamma: 0.7}
policies:
  - {pruner: {instance_name: half}, epochs: [1]}
  - {lr_scheduler: {instance_name: rise}, starting_step: 0, ending_step: 30}
  - {lr_scheduler: {instance_name: fall}, starting_epoch: 2, ending_epoch: 3}
"""


@pytest.mark.parametrize("rates", ["schedule", pytest.param("decay", marks=pytest.mark.long)])
def test_a_learning_rate_on_its_way_resumes_to_the_same_bits(tmp_path: Path, corpus: Path, rates: str) -> None:
    (tmp_path / "rates.yaml").write_text(RATES, encoding="utf-8")
    own = ["--compress", str(tmp_path / "rates.yaml")] if rates == "schedule" else ["--decay", "0.6"]
    line = [*PROGRAM, "--data", str(corpus), *SMALL, *own, "--save-every", "3", "--save"]
    whole, part = tmp_path / "whole", tmp_path / "part"
    subprocess.run([*line, str(whole)], check=True, capture_output=True, env=environment())
    with subprocess.Popen(held(26, [*line, str(part)]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()) as process:
        wait_for_step(part, 22)
        process.terminate()
    assert process.returncode == 0
    subprocess.run([*PROGRAM, "--resume", str(part)], check=True, capture_output=True, env=environment())
    assert_equal_runs(whole, part)
    assert len({line.split(",")[5] for line in (whole / "metrics.csv").read_text().splitlines()}) > 3

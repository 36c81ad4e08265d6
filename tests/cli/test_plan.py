"""``limbeck plan``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from limbeck import cli
from limbeck.cli import plan
from limbeck.errors import ScheduleError

ROOT = Path(__file__).parents[2]
RUN = CliRunner()
LARGE = ["--model", "lm:LSTM", *(part for size in ("emsize=1500", "nhid=1500", "tied=true") for part in ("--model-arg", size))]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_example_runs() -> None:
    assert RUN.invoke(cli.app, shlex.split(plan.EXAMPLE)[2:]).exit_code == 0


def test_the_table_shows_the_levels_and_the_non_zeros() -> None:
    lines = RUN.invoke(cli.app, ["plan", "schedules/lm/large_70b.yaml", *LARGE]).output.splitlines()
    embedding = next(line for line in lines if line.startswith("encoder.weight"))
    assert "(tied: decoder.weight)" in embedding
    assert "epoch 3: 5.0  6: 34.6  9: 55.8  12: 70.1  15: 78.7  18: 83.1  21: 84.8  24: 85.0" in embedding
    assert lines[-1].split() == ["total", "85,917,000", "70.33", "%", "sparse", "in", "the", "end", "25,487,550"]


def test_json_has_the_totals() -> None:
    result = RUN.invoke(cli.app, ["plan", "schedules/lm/large_90.yaml", *LARGE, "--json", "--epochs", "400", "--steps-per-epoch", "10"])
    total = json.loads(result.output)["total"]
    assert total == {"weights": 85_917_000, "nonzeros": 8_591_700, "sparsity": pytest.approx(0.9, abs=1e-6)}


def test_what_depends_on_data_is_a_question_mark() -> None:
    lines = RUN.invoke(cli.app, ["plan", "schedules/lm/large_baidu.yaml", *LARGE]).output.splitlines()
    assert lines[-1].split() == ["total", "85,917,000", "depends", "on", "data", "?"]


def test_a_run_that_is_too_short_is_warned_of() -> None:
    output = RUN.invoke(cli.app, ["plan", "schedules/lm/large_70b.yaml", *LARGE, "--epochs", "20"]).output
    assert "warning: line" in output
    assert "which a run of 20 epochs never reaches" in output


def test_a_faulty_schedule_has_no_plan() -> None:
    result = RUN.invoke(cli.app, ["plan", "schedules/lm/large_80.yaml", "--model", "torch.nn:Identity"])
    assert isinstance(result.exception, ScheduleError)
    assert "no parameter is named 'encoder.weight'" in str(result.exception)


@pytest.fixture
def thinning(tmp_path: Path) -> Path:
    file = tmp_path / "thin.yaml"
    file.write_text(
        """
version: 1
pruners: {half: {class: L1RankedStructureParameterPruner, desired_sparsity: 0.5, group_type: Filters, weights: ["conv?.weight"]}}
extensions: {thinner: {class: FilterRemover}}
policies: [{pruner: {instance_name: half}, epochs: [0]}, {extension: {instance_name: thinner}, epochs: [1]}]
"""
    )
    return file


def test_a_rehearsal_tells_what_is_kept_of_weights_and_compute(thinning: Path) -> None:
    # LeNet: 10 and 25 of its 20 and 50 filters of 5x5 stay, on maps of 24x24 and 8x8; then 400 and 500 inputs of 500 and 10 outputs
    result = RUN.invoke(cli.app, ["plan", str(thinning), "--model", "images:simplenet_mnist", "--rehearse", "--json"])
    total = json.loads(result.output)["total"]
    assert (total["weights_before"], total["weights_after"], total["nonzeros"]) == (430_500, 211_500, 211_500)
    assert (total["macs_before"], total["macs_after"]) == (2_293_000, 10 * 25 * 576 + 25 * 250 * 64 + 200_000 + 5_000)


def test_a_rehearsal_of_a_function_of_the_users_asks_for_the_inputs_shape(thinning: Path) -> None:
    words = ["plan", str(thinning), "--model", "limbeck.apps.images.models.chains:simplenet_mnist", "--rehearse"]
    assert "--input-shape" in str(RUN.invoke(cli.app, words).exception)
    lines = RUN.invoke(cli.app, [*words, "--input-shape", "1,1,28,28"]).output.splitlines()
    assert lines[-1] == "Compute kept: 32.66 %, 749,000 of 2,293,000 MACs"


def test_a_shape_without_a_rehearsal_is_wrong_usage(thinning: Path) -> None:
    result = RUN.invoke(cli.app, ["plan", str(thinning), "--model", "images:simplenet_mnist", "--input-shape", "1,1,28,28"])
    assert result.exit_code == 2
    assert "--rehearse" in result.output

"""``limbeck thin`` after a classifier's training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apps.images.conftest import SMALL, invoke
from limbeck.apps.checkpoint import load_checkpoint

FILES = {"model.safetensors", "schedule.yaml", "state.json", "state.safetensors"}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory, schedules: Path) -> Path:
    """A run whose filters are masked and still there."""
    run = tmp_path_factory.mktemp("pruned") / "run"
    result = invoke(f"images train {SMALL} --epochs 2 --compress {schedules / 'pruned.yaml'} --save {run}")
    assert result.exit_code == 0, result.output
    return run


def measured(path: Path) -> dict[str, float]:
    result = invoke(f"images evaluate {path} --json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_thinned_run_is_smaller_and_classifies_as_it_did(pruned: Path, tmp_path: Path) -> None:
    result = invoke(f"thin {pruned} --out {tmp_path / 'thin'}")
    assert result.exit_code == 0, result.output
    assert "3.conv1.weight: " in result.stdout
    assert f"wrote {tmp_path / 'thin'}" in result.stdout
    assert {path.name for path in (tmp_path / "thin" / "best").iterdir()} == FILES
    before, after = measured(pruned), measured(tmp_path / "thin")
    assert after["top1"] == before["top1"]
    assert after["loss"] == pytest.approx(before["loss"], abs=1e-5)
    assert after["weights"] < before["weights"]
    assert after["macs"] < before["macs"]
    assert after["bytes"] < before["bytes"]


def test_it_trains_on(pruned: Path, tmp_path: Path) -> None:
    assert invoke(f"thin {pruned} --out {tmp_path / 'thin'}").exit_code == 0
    saved = load_checkpoint(tmp_path / "thin" / "best")
    assert len(saved.recipes) == 1
    masks, optimizer = saved.state["scheduler"]["masks"], saved.state["optimizer"]["state"]
    shapes = {name: tensor.shape for name, tensor in saved.model.items()}
    assert masks["3.conv1.weight"].shape == shapes["3.conv1.weight"]
    assert any(state["momentum_buffer"].shape == shapes["3.conv1.weight"] for state in optimizer.values())
    for where in (f" --save {tmp_path / 'on'}", ""):
        result = invoke(f"images train --resume {tmp_path / 'thin'}{where}")
        assert result.exit_code == 0, result.output


def test_it_is_compared_with_the_run_that_it_comes_from(pruned: Path, trained: Path, tmp_path: Path) -> None:
    assert invoke(f"thin {pruned} --out {tmp_path / 'thin'}").exit_code == 0
    result = invoke(f"images compare {trained} {pruned} {tmp_path / 'thin'} --no-latency --out {tmp_path / 'out'} --json")
    assert result.exit_code == 0, result.output
    rows = {row["folder"]: row for row in json.loads(result.stdout)["rows"]}
    before, after = rows[str(pruned)], rows[str(tmp_path / "thin")]
    assert after["name"] == "thin"
    assert after["top1"] == before["top1"]
    assert after["weights"] < before["weights"]
    assert after["kept"] == after["nonzeros"] / rows[str(trained)]["weights"] < before["kept"]  # what read the filters is gone too
    assert after["command"].startswith("limbeck thin ")


def test_the_model_alone_is_one_file_to_begin_with(pruned: Path, tmp_path: Path) -> None:
    result = invoke(f"thin {pruned} --out {tmp_path / 'new' / 'thin.safetensors'} --json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    (before, after) = told["shapes"]["3.conv1.weight"]
    assert after[0] < before[0]
    assert told["after"]["macs"] < told["before"]["macs"]
    result = invoke(f"images train {SMALL} --epochs 1 --weights {tmp_path / 'new' / 'thin.safetensors'} --save {tmp_path / 'run'}")
    assert result.exit_code == 0, result.output
    assert measured(tmp_path / "run")["weights"] == told["after"]["weights"]
    again = invoke(f"thin {pruned} --out {tmp_path / 'new' / 'thin.safetensors'}")
    assert again.exit_code == 0, again.output  # a file may be written again


def test_where_nothing_is_zero_nothing_goes(trained: Path, tmp_path: Path) -> None:
    result = invoke(f"thin {trained} --out {tmp_path / 'thin'}")
    assert result.exit_code == 0, result.output
    assert "nothing goes: no unit is zero" in result.stdout
    assert "(100.00%)" in result.stdout


def test_what_is_wrong_is_told(pruned: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    for line, message in {
        f"thin {tmp_path / 'nowhere'} --out {tmp_path / 'thin'}": "does not exist",
        f"thin {pruned} --out {tmp_path / 'taken'}": "is there already; write to another place",
        f"thin {pruned} --out {pruned / 'best'}": "holds a checkpoint already",
        f"thin {pruned} --out {pruned / 'run.json' / 'thin'}": "can be made for thin",
        f"thin {pruned} --out {pruned / 'best' / 'model.safetensors'}": "is there already; write to another place",
    }.items():
        result = invoke(line)
        assert result.exit_code != 0
        assert message in f"{result.output}{result.exception}"

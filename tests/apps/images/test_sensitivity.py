from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from apps.images.conftest import invoke
from apps.images.tiny import net
from limbeck.apps.images.sensitivity import Shared, chained
from limbeck.apps.images.session import load_trained
from limbeck.apps.images.train import evaluate
from limbeck.config import check_file
from limbeck.names import named_parameters
from limbeck.sensitivity import Metrics, Row, read_rows
from limbeck.sensitivity.scan import pruned
from limbeck.summaries.compute import macs

FAST = "--levels 0,0.3,0.6,0.9 --samples 60"
INPUTS = (torch.zeros(1, 1, 8, 8),)


def batches() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(4, 1, 8, 8), torch.randint(10, (4,))) for _ in range(3)]


def measured(model: nn.Module, data: Sequence[tuple[Tensor, Tensor]]) -> Metrics:
    found = evaluate(model, data)
    return Metrics(found["top1"], found["top5"], found["loss"])


def test_a_pass_that_is_shared_gives_what_a_whole_one_gives() -> None:
    model, data = net(10).eval(), batches()
    shared, parameters, remembered = Shared(data), named_parameters(model), []
    order = [*parameters, *reversed(parameters), "7.weight", "0.weight"]
    for name in order:
        for level in (0.3, 0.8):
            keep = torch.rand(parameters[name].parameter.shape) > level
            with pruned(model, parameters, {name: keep}):
                assert shared(model, [name]) == measured(model, data)
        remembered.append(shared.remembered)
    assert dict(zip(order[-2:], remembered[-2:], strict=True)) == {"7.weight": 7, "0.weight": 0}
    assert shared(model, []) == measured(model, data)


def test_changes_in_two_places_are_shared_up_to_the_first() -> None:
    model, data = net(10).eval(), batches()
    shared, parameters = Shared(data), named_parameters(model)
    shared(model, ["7.weight"])
    masks = {name: torch.zeros_like(parameters[name].parameter, dtype=torch.bool) for name in ("3.conv1.weight", "7.bias")}
    with pruned(model, parameters, masks):
        assert shared(model, list(masks)) == measured(model, data)
    assert shared.remembered == 3


def test_a_model_that_is_no_chain_runs_whole() -> None:
    class Branches(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](x.flatten(1)) + self[2](x.flatten(1))

    model = Branches(nn.Flatten(), nn.Linear(64, 10), nn.Linear(64, 10)).eval()
    assert [name for name, _ in chained(model, "")] == [""]
    shared = Shared(batches())
    assert shared(model, ["2.weight"]) == measured(model, batches())
    assert shared.remembered == 0


def test_activations_that_are_too_large_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limbeck.apps.images.sensitivity.REMEMBERED", 100)
    model = net(10).eval()
    shared = Shared(batches())
    assert shared(model, ["7.weight"]) == measured(model, batches())
    assert shared.remembered == 0


def test_the_command_writes_table_picture_and_a_schedule_that_trains(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "filters"
    result = invoke(f"images sensitivity {trained} --group filter {FAST} --out {out} --suggest macs=0.7 --json")
    assert result.exit_code == 0, result.output
    rows = read_rows(out / "sensitivity.csv")
    assert [(row.parameter, row.sparsity) for row in rows] == [
        (name, level) for name in ("0.weight", "3.conv1.weight", "3.conv2.weight") for level in (0.0, 0.3, 0.6, 0.9)
    ]
    assert (out / "sensitivity.png").stat().st_size > 10_000
    told = json.loads(result.stdout)
    schedule = out / "suggested_macs_0.7.yaml"
    assert str(schedule) in told["files"]
    assert [row["parameter"] for row in told["rows"]] == ["0.weight", "3.conv1.weight", "3.conv2.weight"]
    text = schedule.read_text()
    assert check_file(schedule, net(10)).ok

    run = tmp_path / "thin"
    command = " ".join(line.removeprefix("# ").strip(" \\") for line in text.splitlines()[2:4]).removeprefix("limbeck ")
    result = invoke(f"{command} --save {run}")
    assert result.exit_code == 0, result.output
    kept = macs(load_trained(run).model, INPUTS) / macs(net(10), INPUTS)
    assert 0.5 < kept <= 0.7
    assert f"MACs kept {100 * kept:.2f} %" in text


def test_an_analysis_goes_on_where_it_was_cut_off(trained: Path, tmp_path: Path) -> None:
    line = f"images sensitivity {trained} --group channel {FAST} --params 3.* --out {tmp_path}"
    assert invoke(line).exit_code == 0
    table = tmp_path / "sensitivity.csv"
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) * 2 // 3])
    assert invoke(line).exit_code == 0
    assert table.read_bytes() == whole
    marked = whole.replace(b",0.3,", b",0.3,12345", 1)
    table.write_bytes(marked)
    assert invoke(f"{line} --levels 0,0.3").exit_code == 0
    assert table.read_bytes() == marked  # nothing was measured again


def test_another_analysis_does_not_go_on_in_the_same_folder(trained: Path, tmp_path: Path) -> None:
    assert invoke(f"images sensitivity {trained} {FAST} --params 7.weight --out {tmp_path}").exit_code == 0
    result = invoke(f"images sensitivity {trained} --levels 0,0.5 --samples 50 --params 7.weight --out {tmp_path}")
    assert result.exit_code == 1
    assert "samples 60, not 50" in str(result.exception)


def test_the_checkpoint_is_not_changed(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert invoke(f"images sensitivity {copy} {FAST} --params 7.weight --out {tmp_path / 'out'}").exit_code == 0
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("--levels 0:1:0.1", "no range of levels"),
        ("--levels 0.5 --suggest macs=0.5", "begin at 0"),
        ("--suggest latency=0.5", "no budget named"),
        ("--params conv9", "no parameter is named 'conv9'"),
        ("--split valid", "held out"),
    ],
)
def test_what_cannot_be_done_is_refused_before_it_begins(trained: Path, tmp_path: Path, rest: str, message: str) -> None:
    result = invoke(f"images sensitivity {trained} --out {tmp_path} {rest}")
    assert result.exit_code == 1
    assert message in str(result.exception)
    assert not (tmp_path / "sensitivity.csv").exists()


def test_more_pruning_does_not_help_a_trained_network(trained: Path, tmp_path: Path) -> None:
    assert invoke(f"images sensitivity {trained} --levels 0,0.97 --params 7.weight --out {tmp_path}").exit_code == 0
    rows: list[Row] = read_rows(tmp_path / "sensitivity.csv")
    assert all(later.loss > earlier.loss for earlier, later in pairwise(rows))

"""The application as a user meets it: command lines, runs, summaries, plans, evaluations, comparisons, weights from elsewhere."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from apps.images.conftest import SMALL, invoke
from apps.images.tiny import net
from limbeck.apps.images import app as images
from limbeck.apps.images.options import TrainOptions
from limbeck.apps.images.session import load_trained
from limbeck.cli import app
from limbeck.errors import CheckpointError, LimbeckError


def record_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


# (command line after the program's name, what it must mean)
LINES: list[tuple[str, dict[str, Any]]] = [
    ("", {"data": "digits", "model": "resnet20_cifar", "epochs": 30, "batch_size": 128, "lr": 0.2, "momentum": 0.9, "weight_decay": 5e-4}),
    ("--exp-load-weights-from W -b 7 --wd 0 --vs 0.1", {"weights": "W", "batch_size": 7, "weight_decay": 0.0, "validation_split": 0.1}),
    (
        "--model images:vgg16_cifar --compile --amp --channels-last",
        {"model": "vgg16_cifar", "compile": True, "amp": True, "channels_last": True},
    ),
    (
        "--label-smoothing 0.1 --seed 3 --save S --save-every 9 --compress C --device cpu",
        {"label_smoothing": 0.1, "seed": 3, "compress": "C"},
    ),
]


@pytest.mark.parametrize(("line", "meaning"), LINES)
def test_command_lines_mean_what_they_say(monkeypatch: pytest.MonkeyPatch, line: str, meaning: dict[str, Any]) -> None:
    seen: list[TrainOptions] = []
    monkeypatch.setattr(images, "run_training", lambda options, given, resume, as_json: seen.append(options))
    result = invoke(f"images train {line}")
    assert result.exit_code == 0, result.output
    assert {key: getattr(seen[0], key) for key in meaning} == meaning


def test_a_run_learns_and_its_folder_tells_what_it_is(trained: Path) -> None:
    record = record_of(trained)
    assert record["finished"]
    assert record["test_top1"] > 60  # of ten digits
    assert (record["application"], record["type"], record["validation_top1"]) == ("images", "apps.images.tiny:net", None)
    # by hand: 8*9 + 2*8*8*9 + 128*10 weights, 3 norms of 2*8, 10 biases; MACs 64 places of each convolution, and the last layer
    assert (record["weights"], record["parameters"]) == (2504, 2504 + 48 + 10)
    assert record["macs"] == 64 * (72 + 1152) + 1280
    with (trained / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "step", "split", "loss", "top1", "top5", "learning_rate", "sparsity", "images_per_second"]
    tests = [row for row in rows if row["split"] == "test"]
    assert [int(row["epoch"]) for row in tests] == [0, 1, 2]
    assert float(tests[-1]["top1"]) == record["test_top1"]


def test_the_learning_rate_is_one_cycle(tmp_path: Path) -> None:
    """torch's own OneCycleLR, driven by hand, gives the rates that the log names."""
    run = tmp_path / "run"
    assert invoke(f"images train {SMALL} --log-interval 1 --save {run}").exit_code == 0
    with (run / "metrics.csv").open(newline="") as file:
        logged = [float(row["learning_rate"]) for row in csv.DictReader(file) if row["split"] == "train"]
    optimizer = torch.optim.SGD(net(10).parameters(), lr=0.1)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=72, pct_start=0.2, anneal_strategy="linear", cycle_momentum=False, div_factor=10, final_div_factor=1000
    )
    expected = []
    for _ in range(71):
        optimizer.step()
        cycle.step()
        expected.append(optimizer.param_groups[0]["lr"])
    assert logged[:71] == pytest.approx(expected)


def test_with_a_validation_the_best_model_is_tested(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert invoke(f"images train {SMALL} --vs 0.2 --save {run}").exit_code == 0
    record = record_of(run)
    with (run / "metrics.csv").open(newline="") as file:
        found = {int(row["epoch"]): float(row["top1"]) for row in csv.DictReader(file) if row["split"] == "validation"}
    assert record["validation_top1"] == max(found.values()) == found[record["best_epoch"]]
    evaluation = json.loads(invoke(f"images evaluate {run} --json").output)
    assert (evaluation["top1"], evaluation["loss"]) == (record["test_top1"], record["test_loss"])
    assert json.loads(invoke(f"images evaluate {run} --split valid --json").output)["top1"] == record["validation_top1"]


def test_evaluation_tells_sizes_and_times(trained: Path) -> None:
    result = invoke(f"images evaluate {trained} --latency --json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    tensors = load_file(trained / "best" / "model.safetensors")
    assert found["bytes"] == pytest.approx((trained / "best" / "model.safetensors").stat().st_size, abs=64)
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) < found["bytes"]
    assert found["deflated"] < found["bytes"]
    assert 0 < found["latency"]["1"]["low"] <= found["latency"]["1"]["median"] < found["latency"]["64"]["median"]
    assert "thread" in found["device"]
    text = invoke(f"images evaluate {trained}").output
    assert "MACs an image" in text


def test_plan_is_the_plan_of_that_very_command(schedules: Path) -> None:
    result = invoke(f"images train {SMALL} --compress {schedules}/pruned.yaml --plan --json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.output)["parameters"]
    assert [point["step"] for point in plan["7.weight"]["timeline"]] == [2, 9, 16, 23, 30, 37, 44]
    assert plan["3.conv1.weight"]["nonzeros"] == 8 * 8 * 9 // 2


def test_summaries(trained: Path) -> None:
    result = invoke(f"images summary compute {trained} --json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["total"]["macs"] == record_of(trained)["macs"]
    assert "Total sparsity" in invoke(f"images train {SMALL} --summary sparsity").output


def test_weights_of_a_run_a_file_and_another_program(tmp_path: Path, trained: Path) -> None:
    model = load_trained(trained).model
    save_file(model.state_dict(), tmp_path / "plain.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in model.state_dict().items()}}, tmp_path / "old.pth")
    torch.save(model.state_dict(), tmp_path / "new.pt")
    for source in (trained, trained / "last", tmp_path / "plain.safetensors", tmp_path / "old.pth", tmp_path / "new.pt"):
        session = images.start(TrainOptions(model="apps.images.tiny:net", weights=str(source)))
        assert all(torch.equal(own, model.state_dict()[name]) for name, own in session.model.state_dict().items()), source


def test_weights_that_need_code_or_do_not_fit_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "code.pth")
    torch.save({"0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "bad.pth").write_bytes(b"PK no zip")
    (tmp_path / "bad.safetensors").write_bytes(b"none")
    for name, message in {
        "code.pth": "which only running its code could load",
        "other.pth": "0.weight: shape (3,)",
        "list.pth": "holds no state dict",
        "bad.pth": "no file of torch.save",
        "bad.safetensors": "is damaged",
        "none": "does not exist",
    }.items():
        with pytest.raises(CheckpointError) as raised:
            images.start(TrainOptions(model="apps.images.tiny:net", weights=str(tmp_path / name)))
        assert message in str(raised.value), name


def test_a_new_run_goes_on_from_thinned_weights(tmp_path: Path, schedules: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    assert invoke(f"images train {SMALL} --compress {schedules}/thinned.yaml --save {first}").exit_code == 0
    result = invoke(f"images train {SMALL} --epochs 2 --weights {first} --save {second}")
    assert result.exit_code == 0, result.output
    assert record_of(second)["weights"] == record_of(first)["weights"] < 2504
    assert invoke(f"images evaluate {second}").exit_code == 0
    assert invoke(f"images train --resume {second} --save {third}").exit_code == 0
    assert record_of(third)["test_top1"] == record_of(second)["test_top1"]


def test_comparison_with_the_dense_twin(tmp_path: Path, trained: Path, schedules: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = {name: tmp_path / name for name in ("pruned", "thinned")}
    for name, run in runs.items():
        assert invoke(f"images train {SMALL} --compress {schedules}/{name}.yaml --save {run}").exit_code == 0
    result = invoke(f"images compare {trained} {runs['pruned']} {runs['thinned']} --out {tmp_path}/out --json")
    assert result.exit_code == 0, result.output
    rows = {Path(row["folder"]).name: row for row in json.loads(result.output)["rows"]}
    dense, pruned, thinned = rows[trained.name], rows["pruned"], rows["thinned"]
    assert dense["difference"] is None
    assert pruned["difference"] == pruned["top1"] - dense["top1"]
    assert (pruned["macs"], thinned["macs"]) == (dense["macs"], 64 * (72 + 2 * 4 * 8 * 9) + 1280)
    assert thinned["weights"] < pruned["weights"] == dense["weights"]
    assert thinned["bytes"] < dense["bytes"]
    assert pruned["deflated"] < dense["deflated"]
    assert all(row["latency_1"] > 0 and row["latency_64"] > 0 for row in rows.values())
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"table.md", "table.csv", "top1_size.png", "top1_macs.svg", "top1_latency.png", "top1_epochs.png"} <= names
    assert "is of 'limbeck images'" in str(invoke(f"lm compare {trained} --out {tmp_path}/none").exception)


def test_early_exits_are_trained_together_and_judged_by_the_last(tmp_path: Path) -> None:
    result = invoke(f"images train --model apps.images.tiny:exits --batch-size 64 --epochs 2 --save {tmp_path}/run")
    assert result.exit_code == 0, result.output
    assert record_of(tmp_path / "run")["test_top1"] > 50
    first, last = (load_trained(tmp_path / "run").model.state_dict()[f"{name}.weight"].abs().mean() for name in ("early", "late"))
    assert first > 0.07
    assert last > 0.07  # both have moved away from U(-1/8, 1/8), of mean 1/16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model resnet20_cfar", "no model is named 'resnet20_cfar'; did you mean 'resnet20_cifar'"),
        ("--model apps.images.tiny:none", "has no function 'none'"),
        ("--model apps.images.tiny:NUMBER", "which is no function"),
        ("--model apps.images.tiny:failing", "failing raised RuntimeError: no such weights"),
        ("--model apps.images.tiny:broken --epochs 1", "a classifier returns logits [batch, classes]"),
        (
            "--model apps.images.tiny:wide",
            "cannot take images of 1 x 8 x 8 (channels, height, width): mat1 and mat2 shapes cannot be multiplied",
        ),
        ("--model apps.images.tiny:few", "tells 3 classes apart, and the images are of 10"),
        ("--model no.such.module:net", "No module named 'no'"),
        ("--data nowhere", "nowhere"),
        ("--device gpu", "--device gpu cannot be used here"),
    ],
)
def test_clear_errors(tmp_path: Path, options: str, message: str) -> None:
    result = invoke(f"images train {SMALL} {options} --save {tmp_path}/run")
    assert result.exit_code == 1
    assert isinstance(result.exception, LimbeckError), result.exception
    assert message in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_a_rate_that_watches_a_plateau_needs_a_validation(tmp_path: Path) -> None:
    schedule = tmp_path / "plateau.yaml"
    schedule.write_text(
        "version: 1\nlr_schedulers: {rate: {class: ReduceLROnPlateau, mode: max}}\n"
        "policies: [{lr_scheduler: {instance_name: rate}, starting_epoch: 0, ending_epoch: 9}]\n"
    )
    line = f"images train {SMALL} --compress {schedule} --save {tmp_path}"
    assert "--validation-split 0.1" in str(invoke(f"{line}/none").exception)
    result = invoke(f"{line}/run --vs 0.1")
    assert result.exit_code == 0, result.output
    assert "the schedule's learning rate (ReduceLROnPlateau) replaces the built-in cycle" in result.stderr


def test_wrong_usage() -> None:
    for line, message in {
        "images train --plan": "name one with --compress FILE",
        "images train --summary sparsty": "did you mean 'sparsity'",
        "images evaluate run --split x": "'x' is not one of",
    }.items():
        result = CliRunner().invoke(app, shlex.split(line), env={"COLUMNS": "200"})
        assert result.exit_code == 2, line
        assert message in result.stderr


def test_mixed_precision_and_channels_last_run(tmp_path: Path, schedules: Path) -> None:
    line = f"images train {SMALL} --amp --channels-last --compress {schedules}/thinned.yaml --save {tmp_path}/run"
    result = invoke(line)
    assert result.exit_code == 0, result.output
    assert record_of(tmp_path / "run")["weights"] < 2504


@pytest.mark.long
@pytest.mark.filterwarnings("default::DeprecationWarning")  # of torch's compiler about itself
def test_compiled_training_goes_on_after_a_thinning(tmp_path: Path, schedules: Path) -> None:
    for name, flag in {"plain": "", "compiled": "--compile"}.items():
        result = invoke(f"images train {SMALL} --compress {schedules}/thinned.yaml --save {tmp_path}/{name} {flag}")
        assert result.exit_code == 0, result.output
    plain, compiled = (record_of(tmp_path / name) for name in ("plain", "compiled"))
    assert compiled["weights"] == plain["weights"]
    assert compiled["test_top1"] == pytest.approx(plain["test_top1"], abs=6)

"""Averages of snapshots: exact means, and exactly the sparsity of the newest one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from typer.testing import CliRunner

from limbeck import Pruner, Ramp, Scheduler, Window, cli
from limbeck.apps.average import Snapshot, average_checkpoints, average_sparse, members
from limbeck.apps.checkpoint import load_checkpoint, save_checkpoint, step_of
from limbeck.errors import CheckpointError
from limbeck.pruning import Prune
from limbeck.recipes import Cut, Recipe

RUN = CliRunner()
SIZE = 12

MASKS = st.lists(st.booleans(), min_size=SIZE, max_size=SIZE)
WEIGHTS = st.lists(st.floats(0.5, 8, width=32), min_size=SIZE, max_size=SIZE)  # of one sign: no two of them add up to zero


def snapshot(weights: Sequence[float], keep: Sequence[bool] | None = None) -> Snapshot:
    tensor = torch.tensor(weights, dtype=torch.float32)
    mask = tensor != 0 if keep is None else torch.tensor(keep)
    return Snapshot(
        {"layer.weight": (tensor * mask).view(3, -1) if len(weights) == SIZE else tensor * mask}, {"layer.weight": _shaped(mask)}
    )


def _shaped(mask: Tensor) -> Tensor:
    return mask.view(3, -1) if mask.numel() == SIZE else mask


snapshots = st.lists(st.builds(snapshot, WEIGHTS, MASKS), min_size=1, max_size=5)
alike = MASKS.flatmap(lambda keep: st.lists(st.builds(snapshot, WEIGHTS, st.just(keep)), min_size=1, max_size=5))


def zeros(found: Snapshot) -> int:
    return int((found.tensors["layer.weight"] == 0).sum())


@settings(max_examples=30)
@given(found=snapshots | alike, prune_again=st.booleans())
def test_the_average_is_exactly_as_sparse_as_the_newest(found: list[Snapshot], prune_again: bool) -> None:
    average, used = average_sparse(found[0], found[1:], prune_again)
    keep = average.masks["layer.weight"]
    assert zeros(found[0]) == int((~keep).sum())
    assert torch.equal(average.tensors["layer.weight"] * keep, average.tensors["layer.weight"])
    if all(torch.equal(each.masks["layer.weight"], keep) for each in found) or not prune_again:
        assert zeros(average) == zeros(found[0])
    assert used == tuple(range(len(found))) if prune_again else used[0] == 0


@settings(max_examples=30)
@given(found=alike)
def test_a_mean_is_exact_and_rounded_once(found: list[Snapshot]) -> None:
    average, used = average_sparse(found[0], found[1:])
    assert used == tuple(range(len(found)))
    columns = zip(*(each.tensors["layer.weight"].flatten().tolist() for each in found), strict=True)
    exact = [np.float32(float(sum(map(Fraction, column)) / len(found))) for column in columns]
    assert average.tensors["layer.weight"].flatten().tolist() == exact


@settings(max_examples=30)
@given(found=snapshots, prune_again=st.booleans(), count=st.integers(1, 7))
def test_the_mean_of_one_snapshot_many_times_is_it_bit_for_bit(found: list[Snapshot], prune_again: bool, count: int) -> None:
    average, used = average_sparse(found[0], [found[0]] * count, prune_again)
    assert len(used) == count + 1
    assert torch.equal(average.tensors["layer.weight"], found[0].tensors["layer.weight"])
    assert torch.equal(average.masks["layer.weight"], found[0].masks["layer.weight"])


@settings(max_examples=30)
@given(found=snapshots)
def test_what_is_pruned_again_keeps_the_largest_means(found: list[Snapshot]) -> None:
    average, _ = average_sparse(found[0], found[1:], prune_again=True)
    mean = torch.stack([each.tensors["layer.weight"].double() for each in found]).mean(0).float()
    kept, dropped = mean[average.masks["layer.weight"]], mean[~average.masks["layer.weight"]]
    assert not kept.numel() or not dropped.numel() or kept.min() >= dropped.max()


def test_unlike_masks_do_not_dilute_the_sparsity() -> None:
    """NeurST's average of these is [0, 0.5, 0.5, 2], a quarter sparse of two halves (facts 1.8)."""
    newest, older = snapshot([0, 0, 1, 2]), snapshot([0, 1, 0, 2])
    average, used = average_sparse(newest, [older])
    assert (average.tensors["layer.weight"].tolist(), used) == ([0, 0, 1, 2], (0,))
    average, used = average_sparse(newest, [older], prune_again=True)
    assert (average.tensors["layer.weight"].tolist(), used) == ([0, 0, 0.5, 2], (0, 1))  # of the two halves the newest one's stays
    assert average.masks["layer.weight"].tolist() == [False, False, True, True]


def test_a_short_type_is_rounded_once() -> None:
    """Of bfloat16 numbers 1 and 1 + 3 / 128, with 1 + 1 / 128 twice, the mean is 1 + 5 / 512: nearest 1 + 1 / 128."""
    values = [1.0, 1 + 3 / 128, 1 + 1 / 128, 1 + 1 / 128]
    newest, *older = [Snapshot({"w": torch.tensor([value], dtype=torch.bfloat16)}) for value in values]
    found = average_sparse(newest, older).snapshot.tensors["w"]
    assert (found.dtype, found.item()) == (torch.bfloat16, 1 + 1 / 128)


def test_what_was_given_stays_as_it_was() -> None:
    newest = Snapshot({"w": torch.tensor([1.0, 2.0], dtype=torch.float64), "n": torch.tensor([3, 4])}, {"w": torch.tensor([True, True])})
    older = Snapshot({"w": torch.tensor([3.0, 0.0], dtype=torch.float64), "n": torch.tensor([1, 1])}, {"w": torch.tensor([True, False])})
    found = average_sparse(newest, [older], prune_again=True).snapshot.tensors
    assert (found["w"].tolist(), found["n"].tolist()) == ([2, 1], [3, 4])  # whole numbers are the newest one's
    found["n"].zero_()
    assert (newest.tensors["w"].tolist(), newest.tensors["n"].tolist()) == ([1, 2], [3, 4])


@pytest.mark.parametrize(
    ("other", "fault"),
    [
        ({"w": torch.zeros(3)}, r"'w' is \(3,\) of float32 in one, \(2,\) of float32 in the newest"),
        ({"w": torch.zeros(2).half()}, "of float16 in one"),
        ({}, "'w' is not there in one"),
        ({"w": torch.zeros(2), "x": torch.zeros(1)}, r"'x' is \(1,\) of float32 in one, not there in the newest"),
    ],
)
def test_unlike_models_are_refused(other: dict[str, Tensor], fault: str) -> None:
    with pytest.raises(CheckpointError, match=fault):
        average_sparse(Snapshot({"w": torch.zeros(2)}), [Snapshot(other)])


class Tied(nn.Module):
    """A tied pair, a norm with statistics, and a module whose own name is a wrapper's."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.module, self.norm = nn.Embedding(4, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.decoder = nn.Linear(3, 4, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.norm(self.module(self.encoder(x))))
        return out


Trained = tuple[Tied, torch.optim.Optimizer, Scheduler]


def trained(soft: bool = False) -> Trained:
    torch.manual_seed(1)
    model = Tied()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    pruning = Prune(Pruner({"encoder.weight": Ramp(0.25, 0.5), "weight": 0.25}), use_double_copies=soft)
    return model, optimizer, Scheduler(model, [(Window(0, 3, 2, unit="step"), pruning)], optimizer)


def run(trained: Trained, folder: Path, steps: int, application: str = "words") -> None:
    """Train on, and save a checkpoint after each step."""
    model, optimizer, scheduler = trained
    for _ in scheduler.epochs(1):
        for x in scheduler.steps(torch.randint(4, (steps, 6))):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), x).backward()
            optimizer.step()
            scheduler.masks.apply()
            state = {"application": application, "scheduler": scheduler.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(folder / f"ckpt-{9 + scheduler.clock.step}", model, state)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """A run whose masks change after its first two steps: ckpt-9, ckpt-10 (which a sort by name puts first), ckpt-11, ckpt-12."""
    run(trained(), tmp_path / "run", 4)
    return tmp_path / "run"


def test_a_folder_stands_for_its_checkpoints_by_step(checkpoints: Path) -> None:
    assert [path.name for path in members(checkpoints)] == ["ckpt-9", "ckpt-10", "ckpt-11", "ckpt-12"]
    assert [step_of(path) for path in members(checkpoints)] == [0, 1, 2, 3]
    assert members(checkpoints / "ckpt-9") == [checkpoints / "ckpt-9"]


def test_an_average_on_disk_is_a_checkpoint_as_sparse_as_the_newest(checkpoints: Path, tmp_path: Path) -> None:
    found = average_checkpoints([checkpoints], tmp_path / "average")
    last = load_checkpoint(checkpoints / "ckpt-12")
    own = [load_checkpoint(path) for path in members(checkpoints)]
    same = [each for each in own if all(torch.equal(keep, each.masks[name]) for name, keep in last.masks.items())]
    assert [Path(path).name for path in found.used] == [each.path.name for each in same] == ["ckpt-11", "ckpt-12"]
    assert [Path(path).name for path in found.left_out] == ["ckpt-9", "ckpt-10"]
    made = load_checkpoint(tmp_path / "average")
    for name, tensor in made.model.items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, torch.stack([each.model[name].double() for each in same]).mean(0).float())
    assert made.aliases == {"decoder.weight": "encoder.weight"}
    assert made.state["average_of"] == list(found.used)
    assert (found.weights, found.nonzeros) == (12 + 9, 6 + 9 - 2)
    assert "batch norm" in found.notes[0]


def test_an_average_pruned_again_takes_all_and_can_be_trained_on(checkpoints: Path, tmp_path: Path) -> None:
    found = average_checkpoints(members(checkpoints), tmp_path / "average", prune_again=True)
    assert (len(found.used), found.left_out, found.nonzeros) == (4, (), 6 + 9 - 2)
    made, (model, optimizer, scheduler) = load_checkpoint(tmp_path / "average"), trained()
    made.restore_model(model)
    scheduler.load_state_dict(made.state["scheduler"])
    optimizer.load_state_dict(made.state["optimizer"])
    assert {name: keep.tolist() for name, keep in scheduler.masks.items()} == {name: keep.tolist() for name, keep in made.masks.items()}
    model(torch.randint(4, (6,))).sum().backward()
    optimizer.step()
    assert int(model.encoder.weight.count_nonzero()) == 6


def test_dense_copies_of_one_snapshot_are_not_those_of_the_average(tmp_path: Path) -> None:
    run(trained(soft=True), tmp_path / "run", 2)
    assert load_checkpoint(tmp_path / "run" / "ckpt-10").state["scheduler"]["aside"]
    average_checkpoints([tmp_path / "run"], tmp_path / "average", prune_again=True)
    assert not load_checkpoint(tmp_path / "average").state["scheduler"]["aside"]


def test_a_scheduler_s_state_may_be_all_of_a_checkpoint_s(tmp_path: Path) -> None:
    (model, _, scheduler), folder = trained(), tmp_path / "ckpt-1"
    for epoch in scheduler.epochs(1):
        scheduler.on_minibatch_begin(epoch, 0, 1)
    save_checkpoint(folder, model, scheduler.state_dict())
    average_checkpoints([folder, folder], tmp_path / "average")
    made = load_checkpoint(tmp_path / "average")
    assert made.masks.keys() == {"encoder.weight", "weight"}
    scheduler.load_state_dict(made.state)


def test_snapshots_of_another_training_are_refused(checkpoints: Path, tmp_path: Path) -> None:
    run(trained(), tmp_path / "other", 1, application="pictures")
    with pytest.raises(CheckpointError, match="of another application than"):
        average_checkpoints([tmp_path / "other", checkpoints], tmp_path / "average")
    model = Tied()
    save_checkpoint(tmp_path / "plain", model, {"application": "words"})
    model.decoder.weight = nn.Parameter(torch.zeros(4, 3))
    save_checkpoint(tmp_path / "untied", model, {"application": "words"})
    with pytest.raises(CheckpointError, match="tied otherwise than"):
        average_checkpoints([tmp_path / "plain", tmp_path / "untied"], tmp_path / "average")
    assert not (tmp_path / "average").exists()


def test_thinned_models_of_unlike_units_are_refused(tmp_path: Path) -> None:
    for lost in (0, 1):
        recipe = Recipe((Cut("weight", 0, 4, tuple({0, 1, 2, 3} - {lost})),))
        save_checkpoint(tmp_path / f"ckpt-{lost}", nn.Linear(2, 3), {"recipes": [recipe.to_json()]})
    with pytest.raises(CheckpointError, match="thinned otherwise than"):
        average_checkpoints([tmp_path], tmp_path / "average")


def test_models_without_masks_have_a_plain_mean(tmp_path: Path) -> None:
    for value in (1.0, 4.0):
        layer = nn.Linear(2, 2)
        nn.init.constant_(layer.weight, value)
        save_checkpoint(tmp_path / f"ckpt-{value:g}", layer, {})
    found = average_checkpoints([tmp_path / "ckpt-1", tmp_path / "ckpt-4"], tmp_path / "average")
    assert (len(found.used), found.sparsity) == (2, 0.0)
    assert load_checkpoint(tmp_path / "average").model["weight"].tolist() == [[2.5, 2.5], [2.5, 2.5]]


def invoke(*words: Any) -> Any:
    return RUN.invoke(cli.app, ["average", *map(str, words)])


def test_the_command_says_what_it_averaged(checkpoints: Path, tmp_path: Path) -> None:
    result = invoke(checkpoints, "--out", tmp_path / "average")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["averaged:", "averaged:", "left", "left", "note:", "13", "wrote"]
    assert "13 of 21 weights are not zero: 38.10% sparse" in lines
    again = invoke(checkpoints, "--out", tmp_path / "again", "--prune-again", "--json")
    assert len(json.loads(again.output)["used"]) == 4


def test_the_command_overwrites_nothing(checkpoints: Path) -> None:
    result = invoke(checkpoints, "--out", checkpoints / "ckpt-9")
    assert "is there already" in str(result.exception)
    assert isinstance(invoke(checkpoints / "none", "--out", checkpoints / "new").exception, CheckpointError)

"""The average that a run keeps: exactly as sparse as its snapshots, the mean of them, and measured by its own translations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from apps.translation.conftest import SMALL, invoke, rows_of
from limbeck.apps.checkpoint import Checkpoint, load_checkpoint
from limbeck.apps.translation.data import load_pairs
from limbeck.apps.translation.session import examples_of, load_trained
from limbeck.apps.translation.validate import Decoding, validate

STEPS = "--train_steps 12 --eval_steps 2 --save_checkpoint_steps 100 --eval_top_checkpoints_to_keep 3 --lr_factor 1"
RAMP = "--target_sparsity 0.5 --end_pruning_step 4 --pruning_frequency 2"
RENEWED = "--pruning_schedule constant_sparsity --target_sparsity 0.5 --pruning_frequency 1"
"""Masks that change in every step, and weights that die and come back."""


def trained(folder: Path, run: Path, more: str) -> dict[str, Any]:
    result = invoke(f"translate train --data {folder} {SMALL} {STEPS} {more} --save {run}")
    assert result.exit_code == 0, result.output
    record: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return record


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """A run whose masks stand from its fourth step on."""
    run = tmp_path_factory.mktemp("averages") / "run"
    trained(folder, run, RAMP)
    return run


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return found


def assert_half_sparse(found: Checkpoint) -> None:
    assert found.masks
    for name, keep in found.masks.items():
        assert int(keep.sum()) == keep.numel() // 2
        assert torch.equal(found.model[name] != 0, keep)


def test_the_average_has_exactly_the_target_sparsity_and_is_the_mean(run: Path) -> None:
    average, steps = load_checkpoint(run / "best_avg"), record(run)["averaged_steps"]
    assert len(steps) > 1
    assert_half_sparse(average)
    snapshots = [load_checkpoint(run / "best" / f"ckpt-{step}").model for step in steps]
    for name, tensor in average.model.items():
        assert torch.equal(tensor, torch.stack([snapshot[name].double() for snapshot in snapshots]).mean(0).float())


def test_the_figure_of_the_average_is_its_own(run: Path, folder: Path) -> None:
    found, corpus = load_trained(run / "best_avg"), load_pairs(folder)
    examples = examples_of(corpus.valid, found.vocabularies)
    own = validate(
        found.model, examples, corpus.valid.target, found.vocabularies.target, corpus.target, Decoding(beam_size=2, batch_size=8)
    )
    assert own.scores.detokenised == record(run)["validation_bleu"]
    own = {row["step"]: float(row["bleu"]) for row in rows_of(run / "metrics.csv") if row["split"] == "validation"}
    assert record(run)["averaged_bleus"] == [own[str(step)] for step in record(run)["averaged_steps"]]
    assert record(run)["nonzeros"] == sum(int(weight.count_nonzero()) for weight in found.model.parameters() if weight.dim() > 1)


@pytest.mark.parametrize("prune_again", [False, True])
def test_masks_that_never_stand_still_do_not_dilute_the_sparsity(tmp_path: Path, folder: Path, prune_again: bool) -> None:
    found = trained(folder, tmp_path / "run", RENEWED + (" --average_prune_again" if prune_again else ""))
    assert_half_sparse(load_checkpoint(tmp_path / "run" / "best_avg"))
    masks = [load_checkpoint(path).masks for path in (tmp_path / "run" / "best").glob("ckpt-*")]
    assert any(not torch.equal(masks[0][name], other[name]) for other in masks[1:] for name in masks[0])
    assert len(found["averaged_steps"]) == 1 or prune_again
    plan = json.loads(invoke(f"translate train --resume {tmp_path / 'run'} --train_steps 20 --plan --json").output)
    assert plan["parameters"]["encoder.layers.0.ffn.conv1.weight"]["timeline"][-1]["step"] > 12  # for ever is as long as the run is now


def test_an_average_afterwards_is_as_sparse_and_translates(run: Path, tmp_path: Path) -> None:
    result = invoke(f"average {run}/best --out {tmp_path}/average")
    assert result.exit_code == 0, result.output
    made = load_checkpoint(tmp_path / "average")
    assert len(made.state["average_of"]) == 3
    assert_half_sparse(made)
    assert invoke(f"translate evaluate {tmp_path}/average").exit_code == 0

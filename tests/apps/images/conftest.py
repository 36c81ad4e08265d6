"""The command line in this process, and runs that other tests look at."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from limbeck.cli import app

SMALL = "--model apps.images.tiny:net --batch-size 64 --epochs 3 --lr 0.1"
FILTERS = """\
version: 1
pruners:
  fine: {class: AutomatedGradualPruner, initial_sparsity: 0.1, final_sparsity: 0.6, weights: 7.weight}
  filters: {class: L1RankedStructureParameterPruner, desired_sparsity: 0.5, group_type: Filters, weights: [3.conv1.weight]}
  sensitive: {class: SensitivityPruner, sensitivities: {0.weight: 0.3}}
policies:
  - {pruner: {instance_name: fine}, starting_step: 2, ending_step: 50, frequency: 7}
  - {pruner: {instance_name: filters}, epochs: [1]}
  - {pruner: {instance_name: sensitive}, epochs: [0, 2]}
"""
THINNED = FILTERS.replace(
    "policies:",
    "extensions:\n  thin: {class: FilterRemover, thinning_func_str: remove_filters}\npolicies:\n"
    "  - {extension: {instance_name: thin}, epochs: [1]}",
)


def invoke(line: str) -> Result:
    """Run ``limbeck LINE`` in this process."""
    return CliRunner().invoke(app, shlex.split(line))


@pytest.fixture(scope="session")
def schedules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with schedules."""
    folder = tmp_path_factory.mktemp("schedules")
    (folder / "pruned.yaml").write_text(FILTERS, encoding="utf-8")
    (folder / "thinned.yaml").write_text(THINNED, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dense run; do not write to it."""
    run = tmp_path_factory.mktemp("trained") / "run"
    result = invoke(f"images train {SMALL} --save {run}")
    assert result.exit_code == 0, result.output
    return run

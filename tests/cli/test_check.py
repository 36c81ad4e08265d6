"""``limbeck check``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from limbeck import cli
from limbeck.cli import check

ROOT = Path(__file__).parents[2]
RUN = CliRunner()
FAULTY = """
pruners:
  p: {class: SparsityLevelParameterPruner, levels: {rnn.weight_ih_10: 0.5}}
  q: {class: SparsityLevelParameterPruner, levels: {rnn.weight_ih_l0: 0.5}}
policies: [{pruner: {instance_name: p}, epochs: [0]}]
"""


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    path = tmp_path / "faulty.yaml"
    path.write_text(FAULTY, encoding="utf-8")
    return path


def test_the_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = RUN.invoke(cli.app, shlex.split(check.EXAMPLE)[2:])
    assert (result.exit_code, result.output) == (0, "schedules/lm/large_80.yaml: no faults\n")


def test_names_are_checked_against_the_model(faulty: Path) -> None:
    warning = f"{faulty}: 1 warning\n  line 4, pruners.q: declared, but no policy applies this pruner\n"
    assert RUN.invoke(cli.app, ["check", str(faulty)]).output == f"{faulty}: no faults\n{warning}"
    result = RUN.invoke(cli.app, ["check", str(faulty), "--model", "lm:GRU"])
    assert result.exit_code == 1
    assert (
        result.output
        == (
            f"{faulty}: 1 fault\n"
            "  line 3, pruners.p.levels['rnn.weight_ih_10']: no parameter is named 'rnn.weight_ih_10'; did you mean 'rnn.weight_ih_l1' or 'rnn.weight_ih_l0'?\n"
        )
        + warning
    )


def test_json(faulty: Path) -> None:
    result = RUN.invoke(cli.app, ["check", str(faulty), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.output) == {
        "file": str(faulty),
        "faults": [],
        "warnings": [{"line": 4, "path": "pruners.q", "message": "declared, but no policy applies this pruner"}],
    }


def test_a_missing_file_is_status_1() -> None:
    result = RUN.invoke(cli.app, ["check", "nowhere.yaml"])
    assert (result.exit_code, result.output) == (1, "nowhere.yaml: 1 fault\n  cannot be read: No such file or directory\n")

"""The program's root: help, version, exit status, and a start-up without torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from limbeck import cli

RUN = CliRunner()


@pytest.mark.parametrize("command", [[], ["average"], ["check"], ["import"], ["plan"], ["schema"], ["summary"], ["lm"]])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(command: list[str], option: str) -> None:
    result = RUN.invoke(cli.app, [*command, option])
    assert result.exit_code == 0
    assert "Usage:" in result.output


@pytest.mark.parametrize(
    "command",
    [
        "average", "check", "import neurst", "import tfmot", "plan", "schema", "summary", "lm train", "lm evaluate", "lm generate", "lm compare",
    ],
)  # fmt: skip
def test_help_ends_with_an_example(command: str) -> None:
    *_, last = RUN.invoke(cli.app, [*command.split(), "--help"], env={"COLUMNS": "200"}).output.strip().splitlines()
    assert last.strip().startswith(f"Example: limbeck {command}")


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command below a group."""
    for name, command in group.commands.items():
        yield from commands(command, (*words, name)) if hasattr(command, "commands") else [(*words, name)]


@pytest.mark.parametrize("command", list(commands(typer.main.get_command(cli.app))), ids=" ".join)
def test_help_cuts_nothing_on_a_narrow_terminal(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = RUN.invoke(cli.app, [*command, "--help"]).output
    assert [line for line in text.splitlines() if "…" in line or len(line) > 80] == []


def test_help_tells_arguments_from_options_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = RUN.invoke(cli.app, ["plan", "--help"]).output
    assert text.index("Arguments:") < text.index("The schedule file.") < text.index("Options:") < text.index("--steps-per-epoch")


def test_version() -> None:
    assert RUN.invoke(cli.app, ["--version"]).output == f"limbeck {version('limbeck')}\n"


@pytest.mark.parametrize("arguments", [["nothing"], ["plan", "x.yaml"], ["check"], ["check", "x.yaml", "--modle", "m"]])
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    assert RUN.invoke(cli.app, arguments).exit_code == 2


def test_an_error_of_limbeck_is_a_message_and_status_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["limbeck", "check", "x.yaml", "--model", "lm:LSTMM"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert capsys.readouterr() == ("", "no model is named 'lm:LSTMM'; did you mean 'lm:LSTM'?\n")


def test_what_the_file_system_refuses_is_a_message_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", lambda: tmp_path.write_text("text"))
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert capsys.readouterr().err == f"{tmp_path}: Is a directory\n"


def test_a_file_where_a_folder_is_to_be_is_called_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "quantized"
    file.touch()
    monkeypatch.setattr(cli, "app", lambda: file.mkdir(exist_ok=True))
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == f"{file} is a file, and a folder is to be there; name another\n"


def test_help_does_not_import_torch() -> None:
    program = "import sys, limbeck.cli as cli\ntry: cli.app(['lm', '--help'])\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "False"

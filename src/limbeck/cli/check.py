"""``limbeck check``: all faults of a schedule file."""

from __future__ import annotations

import json

import typer

from limbeck.cli._options import AllowPlugins, File, Json, Model, ModelArguments

EXAMPLE = "Example: limbeck check schedules/lm/large_80.yaml --model lm:LSTM"


def check(
    file: File, model: Model = None, model_arg: ModelArguments = None, allow_plugins: AllowPlugins = False, as_json: Json = False
) -> None:
    """Print all faults and warnings of a schedule FILE, each with its line and its remedy; the status is 1 when there are faults.

    With a model also names that match none of its parameters are found. Nothing that the file names is run.
    """
    from limbeck.cli._models import resolve_model
    from limbeck.config import check_file

    report = check_file(file, resolve_model(model, model_arg or []) if model else None, allow_plugins=allow_plugins)
    typer.echo(json.dumps(report.to_json(), indent=2) if as_json else report.text())
    raise typer.Exit(0 if report.ok else 1)

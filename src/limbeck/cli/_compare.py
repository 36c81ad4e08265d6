"""What ``compare`` of every application takes and prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from limbeck.apps.compare import Comparison

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, as `train --save DIR` writes them.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the table and the figures go.")]


def show_comparison(compared: Comparison[Any], as_json: bool) -> None:
    """Print the table and the files that were written, or both as JSON."""
    from limbeck.summaries import render

    files = [str(path) for path in compared.files]
    if as_json:
        typer.echo(json.dumps({**render.as_tree(compared.table), "files": files}, indent=2, allow_nan=False))
        return
    render.show(compared.table)
    typer.echo("\n".join(["", *files]))

"""``limbeck lm compare``: runs side by side."""

from __future__ import annotations

import json as codec
from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, as `limbeck lm train --save DIR` writes them.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the table and the figures go.")] = Path("comparison"),
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare runs: a table of sizes and perplexities, and three figures."""
    from limbeck.apps import compare as comparison
    from limbeck.summaries import render

    compared = comparison.compare(runs, out)
    files = [str(path) for path in compared.files]
    if json:
        typer.echo(codec.dumps({**render.as_tree(compared.table), "files": files}, indent=2, allow_nan=False))
        return
    render.show(compared.table)
    typer.echo("\n".join(["", *files]))

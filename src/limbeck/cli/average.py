"""``limbeck average``: one checkpoint out of several of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._options import Json

EXAMPLE = "Example: limbeck average runs/pruned/best --out runs/pruned_average"

Checkpoints = Annotated[
    list[Path],
    typer.Argument(metavar="CHECKPOINT...", help="Checkpoints of one run, or folders of them (RUN, RUN/best).", show_default=False),
]
Out = Annotated[Path, typer.Option("--out", metavar="OUT", help="Where to write the average, a checkpoint.", show_default=False)]
PruneAgain = Annotated[
    bool,
    typer.Option(
        "--prune-again",
        "--prune_again",
        help="Average all of them, whatever their masks, and prune the mean to the sparsity of the newest.",
    ),
]


def average(checkpoints: Checkpoints, out: Out, prune_again: PruneAgain = False, as_json: Json = False) -> None:
    """Average the weights of checkpoints, as sparse as the newest of them: only those that have its masks count, unless --prune-again."""
    from dataclasses import asdict

    from limbeck.apps.average import average_checkpoints
    from limbeck.errors import CheckpointError

    if out.exists():
        raise CheckpointError(f"{out} is there already; write to another place")
    found = average_checkpoints(checkpoints, out, prune_again)
    if as_json:
        typer.echo(json.dumps({**asdict(found), "sparsity": found.sparsity}, indent=2))
        return
    for path in found.used:
        typer.echo(f"averaged: {path}")
    for path in found.left_out:
        typer.echo(f"left out: {path} has other masks than the newest; --prune-again averages it too")
    for note in found.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"{found.nonzeros:,} of {found.weights:,} weights are not zero: {found.sparsity:.2%} sparse")
    typer.echo(f"wrote {found.out}")

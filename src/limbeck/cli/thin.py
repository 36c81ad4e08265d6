"""``limbeck thin``: a smaller model out of a pruned one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.cli._options import Json

if TYPE_CHECKING:
    from limbeck.apps.thin import Cost, Thinned

EXAMPLE = "Example: limbeck thin runs/pruned --out runs/thin"
SHOWN = 8
"""Longer lists of what stays are cut off."""

Run = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A run folder (its best model) or a checkpoint.", show_default=False)]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="OUT",
        help="Where to write the smaller one: a run folder to evaluate, compare or resume, or FILE.safetensors, the model alone.",
        show_default=False,
    ),
]
Data = Annotated[str | None, typer.Option("--data", help="Where the run's data lie now; default: where they lay.", show_default=False)]


def thin(checkpoint: Run, out: Out, data: Data = None, as_json: Json = False) -> None:
    """Take the units of a trained model out that are zero: filters, channels, neurons and all that is coupled to them; it computes the same."""
    from limbeck.apps.thin import thin_run

    found = thin_run(checkpoint, out, data)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        _print(found)


def _print(found: Thinned) -> None:
    for name, (before, after) in found.shapes.items():
        typer.echo(f"{name}: {_shape(before)} -> {_shape(after)}")
    if not found.shapes:
        typer.echo("nothing goes: no unit is zero with all that is coupled to it")
    typer.echo(f"weights {_change(found.before.weights, found.after.weights)}; {_macs(found.before, found.after)}")
    for line in found.left[:SHOWN]:
        typer.echo(f"left: {line}")
    if len(found.left) > SHOWN:
        typer.echo(f"and {len(found.left) - SHOWN} more that are left; --json lists them")
    typer.echo(f"wrote {found.out}")


def _macs(before: Cost, after: Cost) -> str:
    return "MACs not known" if before.macs is None or after.macs is None else f"MACs {_change(before.macs, after.macs)}"


def _change(before: int, after: int) -> str:
    return f"{before:,} -> {after:,} ({after / before:.2%})" if before else f"{before:,} -> {after:,}"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))

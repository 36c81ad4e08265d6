"""``limbeck plan``: what a schedule will do, before any training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from limbeck.cli._options import AllowPlugins, File, InputShape, Json, ModelArguments, ModelNeeded

if TYPE_CHECKING:
    from limbeck.config import Firing, Plan, Rehearsal, Row

EXAMPLE = "Example: limbeck plan schedules/lm/large_80.yaml --model lm:LSTM"

SHOWN = 9
"""Longer timelines are shown by their first and last firings."""

Steps = Annotated[
    int | None, typer.Option("--steps-per-epoch", min=1, help="Puts windows by step and by epoch in order.", show_default=False)
]
Epochs = Annotated[
    int | None, typer.Option("--epochs", min=1, help="How long the run is; warns of policies that outlast it.", show_default=False)
]


Rehearse = Annotated[
    bool,
    typer.Option(
        "--rehearse", help="Prune and thin a model of random weights by it, without training: what of weights and compute is kept."
    ),
]


def plan(
    file: File,
    model: ModelNeeded,
    model_arg: ModelArguments = None,
    steps_per_epoch: Steps = None,
    epochs: Epochs = None,
    rehearse: Rehearse = False,
    input_shape: InputShape = None,
    allow_plugins: AllowPlugins = False,
    as_json: Json = False,
) -> None:
    """Print every parameter's sparsity at every firing of a schedule FILE, and the non-zeros in the end; '?' depends on data."""
    from limbeck.apps.modules import search_current_folder
    from limbeck.cli._models import example_inputs, resolve_model
    from limbeck.config import plan as make_plan
    from limbeck.config import rehearse as make_rehearsal

    if input_shape and not rehearse:
        raise typer.BadParameter("is what --rehearse runs the model with; a plan needs no inputs", param_hint="--input-shape")
    if allow_plugins:
        search_current_folder()
    if not rehearse:
        built = resolve_model(model, model_arg or [])
        show_plan(make_plan(file, built, steps_per_epoch=steps_per_epoch, epochs=epochs, allow_plugins=allow_plugins), as_json)
        return
    built = resolve_model(model, model_arg or [], device="cpu")
    inputs = example_inputs(model, built, input_shape or ())
    found = make_rehearsal(file, built, inputs, steps_per_epoch=steps_per_epoch, epochs=epochs, allow_plugins=allow_plugins)
    show_rehearsal(found, as_json)


def show_rehearsal(rehearsal: Rehearsal, as_json: bool) -> None:
    """Print a rehearsal as JSON or as a table."""
    from limbeck.summaries.render import show

    if as_json:
        typer.echo(json.dumps(rehearsal.to_json(), indent=2))
    else:
        show(rehearsal.table())


def show_plan(plan: Plan, as_json: bool, notes: Sequence[str] = ()) -> None:
    """Print a plan as JSON or as a table, with what else is to be said of it below."""
    if as_json:
        typer.echo(json.dumps(plan.to_json(), indent=2))
        return
    print_plan(plan)
    for note in notes:
        typer.echo(note)


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Render a plan as a table."""
    out = console or Console()
    if console is None and not out.is_terminal:
        out = Console(width=160)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("parameter", overflow="fold")
    table.add_column("weights", justify="right", no_wrap=True)
    timelines = [*(row.timeline for row in plan.rows), *(pool.timeline for pool in plan.pools)]
    units = sorted({firing.unit for firings in timelines for firing in firings}) or ["epoch"]
    table.add_column(f"sparsity in %, by {' or '.join(units)}", overflow="fold")
    table.add_column("non-zeros", justify="right", no_wrap=True)
    for row in plan.rows:
        if row.timeline:
            table.add_row(_name(row), f"{row.numel:,}", timeline(row.timeline), _count(row.nonzeros))
    for pool in plan.pools:
        table.add_row(f"{len(pool.names)} of them together", f"{pool.numel:,}", timeline(pool.timeline), _count(pool.nonzeros))
    dense = [row for row in plan.rows if not row.timeline and len(row.shape) >= 2]
    if dense:
        weights = sum(row.numel for row in dense)
        names = _name(dense[0]) if len(dense) == 1 else f"{len(dense)} others"
        table.add_row(f"[dim]{names}[/]", f"[dim]{weights:,}[/]", "[dim]not pruned[/]", f"[dim]{weights:,}[/]")
    share = "depends on data" if plan.sparsity is None else f"{100 * plan.sparsity:.2f} % sparse in the end"
    table.add_section()
    table.add_row("[bold]total[/]", f"[bold]{plan.weights:,}[/]", f"[bold]{share}[/]", f"[bold]{_count(plan.nonzeros)}[/]")
    out.print(table)
    if plan.nonzeros is not None and any(row.data_dependent for row in plan.rows):  # else the total says so
        out.print("?: depends on what the weights are then", highlight=False)
    for later in plan.afterwards:
        out.print(f"after training, {later}", highlight=False, markup=False)
    for warning in plan.warnings:
        out.print(f"[yellow]warning:[/] {warning}", highlight=False)


def timeline(firings: tuple[Firing, ...]) -> str:
    """The firings in one line: ``epoch 1: 5.0  4: 21.7 ... 22: 50.0``."""
    if len(firings) > SHOWN:
        firings = (*firings[: SHOWN - 2], firings[-1])
        shown = [_words(firings[:-1]), "…", _words(firings[-1:])]
    else:
        shown = [_words(firings)]
    return "  ".join(shown)


def _words(firings: tuple[Firing, ...]) -> str:
    parts = []
    for unit, group in groupby(firings, key=lambda firing: firing.unit):
        parts.append(f"{unit} " + "  ".join(f"{firing.time}: {_percent(firing.sparsity)}" for firing in group))
    return "  ".join(parts)


def _percent(sparsity: float | None) -> str:
    return "?" if sparsity is None else f"{100 * sparsity:.1f}"


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _name(row: Row) -> str:
    return row.name + (f" [dim](tied: {', '.join(row.aliases)})[/]" if row.aliases else "")

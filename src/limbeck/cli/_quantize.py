"""What every command that quantizes takes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from limbeck.apps.search import SearchOptions


class Method(StrEnum):
    """What a search does."""

    greedy = "greedy"
    lapq = "lapq"
    both = "both"
    bits = "bits"


class RangeMethod(StrEnum):
    """What a search for ranges does."""

    greedy = "greedy"
    lapq = "lapq"
    both = "both"


class Objective(StrEnum):
    """What a search for ranges makes least."""

    divergence = "divergence"
    loss = "loss"


Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where statistics, logs, tables and pictures go.")]
Budget = Annotated[int, typer.Option("--budget", min=1, help="Evaluations that a search may make, those of its log included.")]
Least = Annotated[
    Objective | None,
    typer.Option(
        "--objective",
        help="What a search for ranges makes least: the divergence from FP32's predictions, or the loss. Default: divergence.",
        show_default=False,
    ),
]
Searching = Annotated[
    RangeMethod | None,
    typer.Option(
        "--search",
        help="Search the ranges of INT8: greedy, the best clipping for each tensor; lapq, the best norm, then Powell's method; both.",
        show_default=False,
    ),
]


def search_options(
    method: str | None, budget: int, samples: int | None, objective: Objective | None, tolerance: float = 0.01
) -> SearchOptions | None:
    """The options of a search, where one is asked for."""
    if objective is not None and method in (None, Method.bits):
        why = "bits are bound by the loss" if method else "there is no search"
        raise typer.BadParameter(f"is of a search for ranges, and {why}; leave it out, or give --search both", param_hint="--objective")
    from limbeck.apps.search import SearchOptions

    return (
        None if method is None else SearchOptions(str(method), budget, samples, str(objective or Objective.divergence), tolerance=tolerance)
    )

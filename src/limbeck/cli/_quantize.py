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


Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where statistics, logs, tables and what else is written go.")]
Budget = Annotated[
    int | None,
    typer.Option(
        "--budget", min=1, help="Evaluations that a search may make, those of its log included. Default: 200.", show_default=False
    ),
]
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


BUDGET, TOLERANCE = 200, 0.01


def search_options(
    method: str | None, budget: int | None, samples: tuple[str, int | None], objective: Objective | None, tolerance: float | None = None
) -> SearchOptions | None:
    """The options of a search, where one is asked for; ``samples`` come with the name of their option. Options that would say nothing are wrong usage."""
    of_ranges = "--objective" if objective is not None else None
    of_bits = "--tolerance" if tolerance is not None else None
    given = [name for name, value in (("--budget", budget), samples) if value is not None]
    if method is None and (idle := [*given, *filter(None, (of_ranges, of_bits))]):
        raise typer.BadParameter("says nothing without a search; leave it out, or give --search both", param_hint=idle[0])
    if method == Method.bits and of_ranges:
        raise typer.BadParameter("is of a search for ranges, and bits are bound by the loss; leave it out", param_hint=of_ranges)
    if method is not None and method != Method.bits and of_bits:
        raise typer.BadParameter("is of --search bits; leave it out", param_hint=of_bits)
    from limbeck.apps.search import SearchOptions

    if method is None:
        return None
    bound = TOLERANCE if tolerance is None else tolerance
    return SearchOptions(str(method), budget or BUDGET, samples[1], str(objective or Objective.divergence), tolerance=bound)

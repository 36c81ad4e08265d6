"""The pruner that a schedule file composes itself: what is scored how, cut into what, competing where, and how much of it falls."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from limbeck.fields import ByName, Names
from limbeck.groups import group
from limbeck.pruning.chance import Chance
from limbeck.pruning.criteria import Criterion, geometric_median, l1, l2, maximum
from limbeck.pruning.inputs import wanda_score
from limbeck.pruning.observed_criteria import OBSERVED_CRITERIA
from limbeck.pruning.pruner import Pruner, Way
from limbeck.pruning.selectors import Lowest
from limbeck.ramps import Amount
from limbeck.tile import ELEMENT, FILTERS, TENSOR, Tile

CRITERIA: dict[str, Criterion] = {
    "geometric_median": geometric_median,
    "l1": l1,
    "l2": l2,
    "max": maximum,
    "random": Chance(),
    "wanda": wanda_score,
    **OBSERVED_CRITERIA,
}
"""Names of the criteria that need no arguments, for ``criterion`` in a schedule file."""

GRANULARITIES: dict[str, Tile] = {
    "element": ELEMENT,
    "filters": group("Filters"),
    "channels": group("Channels"),
    "kernels": group("2D"),
    "rows": group("Rows"),
    "cols": group("Cols"),
}
"""Names of what lives or dies as one; ``blocks`` are cut by ``block_shape``."""

SCOPES: dict[str, Tile | None] = {"tensor": TENSOR, "row": FILTERS, "global": None}
"""Names of who competes with whom: the units of a tensor, those of one of its rows, those of all targets together."""

N_OF_M = re.compile(r"(\d{1,6}):(\d{1,6})")

Scored = Annotated[Criterion, ByName("criterion", CRITERIA)]
Granularity = Literal["element", "filters", "channels", "rows", "cols", "kernels", "blocks"]
Scope = Literal["tensor", "row", "global"]
NOfM = Annotated[str, Field(description="'2:4' keeps 2 of every 4 in a row", json_schema_extra={"pattern": f"^{N_OF_M.pattern}$"})]
Blocks = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]


def composed_pruner(
    weights: Names,
    sparsity: Amount | None = None,
    criterion: Scored = l1,
    granularity: Granularity = "element",
    block_shape: Blocks | None = None,
    scope: Scope = "tensor",
    n_of_m: NOfM | None = None,
    coupling: Way = "follow",
) -> Pruner:
    """Drop the lowest by any criterion, in any units, by any ramp, tensor by tensor or over all; or keep ``n_of_m``.

    >>> pruner = composed_pruner(["*.weight"], 0.5, granularity="filters", scope="global")
    >>> pruner.targets, pruner.unit, pruner.pool
    ({'*.weight': 0.5}, Tile(sizes=(1, -1), rest=-1), None)
    >>> composed_pruner(["fc.weight"], n_of_m="2:4").pool
    Tile(sizes=(1, 4), rest=1, pad=True)

    ``n_of_m`` counts along the input axis, whose last group may be partial: it keeps at most n. Raises ``ValueError`` for arguments that do
    not go together.
    """
    if n_of_m is not None:
        if sparsity is not None:
            raise ValueError(f"n_of_m: {n_of_m} says how much is kept already; take sparsity out, or n_of_m")
        if (granularity, block_shape, scope, coupling) != ("element", None, "tensor", "follow"):
            raise ValueError(
                f"n_of_m: {n_of_m} chooses among single weights of one tensor; take granularity, block_shape, scope and coupling out"
            )
        return _n_of_m(weights, criterion, n_of_m)
    if sparsity is None:
        raise ValueError("needs 'sparsity', a fraction of zeros or a ramp of it, or 'n_of_m', as in 2:4")
    if scope == "row" and granularity in ("filters", "rows"):
        raise ValueError(f"scope row leaves each of the {granularity} alone in its row; take scope tensor, or global")
    if granularity == "blocks" and block_shape is None:
        raise ValueError("granularity blocks needs block_shape, the sizes of a block, as in [1, 8]")
    if granularity != "blocks" and block_shape is not None:
        raise ValueError(f"block_shape goes with granularity blocks, not with {granularity}; leave it out")
    if coupling == "joint" and (granularity not in ("filters", "channels", "rows", "cols") or scope == "row"):
        raise ValueError(f"coupling: joint ranks whole filters or channels of tensors, not {granularity} in scope {scope}; leave it out")
    unit = group("Blocks", block_shape) if granularity == "blocks" else GRANULARITIES[granularity]
    return Pruner(dict.fromkeys(weights, sparsity), score=criterion, unit=unit, pool=SCOPES[scope], coupling=coupling)


def _n_of_m(weights: Names, criterion: Criterion, n_of_m: str) -> Pruner:
    kept, size = parse_n_of_m(n_of_m)
    pool = Tile((1, size), rest=1, pad=True)
    return Pruner(dict.fromkeys(weights, (size - kept) / size), score=criterion, pool=pool, select=Lowest(rounding=round))


def parse_n_of_m(n_of_m: str) -> tuple[int, int]:
    """The two numbers of a pattern; raises ``ValueError`` for one that means nothing.

    >>> parse_n_of_m("2:4")
    (2, 4)
    """
    matched = N_OF_M.fullmatch(n_of_m)
    if matched is None:
        raise ValueError(f"n_of_m '{n_of_m}' is not two numbers with a colon, as in 2:4, which keeps 2 of every 4")
    kept, size = int(matched[1]), int(matched[2])
    if not 0 < kept < size:
        raise ValueError(f"n_of_m {kept}:{size} would keep {kept} of every {size}; the first number must lie between 0 and the second")
    return kept, size


COMPOSED: dict[str, Callable[..., Pruner]] = {"Pruner": composed_pruner}
"""Class names of the schedule file's ``pruners`` section."""

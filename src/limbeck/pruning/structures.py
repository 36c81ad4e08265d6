"""The named pruners of structures: filters, channels, rows, columns, kernels and blocks that live or die as one.

Each builder is a composition, and its signature is the schema of the schedule file. ``group_dependency: Leader`` lets the first of ``weights``
decide for all of them, as convolutions need whose outputs are added; all must have equally many structures. ``coupling`` says what falls with a
structure, as ``Way`` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from limbeck.fields import TARGETS, ByName, Names, NonNegative, Sparsity, Whole, pair
from limbeck.groups import GroupName, group
from limbeck.names import canonical
from limbeck.pruning.chance import Chance, Noise, Survivors, Uniform
from limbeck.pruning.criteria import Criterion, geometric_median, l1, l2, maximum
from limbeck.pruning.pruner import Cut, Pruner, Way, first
from limbeck.pruning.selectors import Below, Lowest
from limbeck.ramps import Amount, Ramp
from limbeck.schedules import Schedule
from limbeck.tile import Tile

ROUNDINGS: dict[str, Callable[[float], float]] = {"ceil": math.ceil, "floor": math.floor, "round": round}
"""Names of the ways to count what is dropped."""

THRESHOLD_CRITERIA: dict[str, Criterion] = {"Max": maximum, "Mean_Abs": l1}
"""Names of what a structure's threshold is held against."""

Regimes = Annotated[
    Mapping[str, Annotated[tuple[NonNegative, GroupName], pair("[threshold, group], as in [0.001, Rows]")]],
    Field(min_length=1, description="parameter name, glob or 're:REGEX' to [threshold of 0 or more, group type]"),
    TARGETS,
]
BlockShape = Mapping[Literal["block_shape"], Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]]
"""``{block_shape: [1, 8, 1, 1]}``: eight input channels at one place of one filter."""
Dependency = Literal["Leader"]
Alone = Literal["follow", "none"]
"""Couplings of pruners that rank nothing."""
FilterGroup = Literal["3D", "Filters"]
Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[Sparsity, Sparsity]
Rounding = Annotated[Callable[[float], float], ByName("rounding", ROUNDINGS)]
Multiple = Annotated[int, Field(ge=1)]


def _unit(group_type: str, kwargs: BlockShape | None, rows_are_columns: bool = False) -> Tile:
    if rows_are_columns and group_type != "Rows":
        raise ValueError(f"rows_are_columns goes with the group type Rows, not with {group_type}; leave it out")
    return group("Cols" if rows_are_columns else group_type, (kwargs or {}).get("block_shape"))


def ranked(
    score: Criterion, amount: float | Schedule, weights: Sequence[str], unit: Tile, dependency: Dependency | None, coupling: Way = "follow"
) -> Pruner:
    """The lowest structures of each tensor, or, with a leader, those of the first for all; raises ``ValueError`` for a leader in joint groups."""
    targets: dict[str, float | Schedule] = dict.fromkeys(weights, amount)
    if dependency is None:
        return Pruner(targets, score, unit, coupling=coupling)
    if coupling == "joint":
        raise ValueError(
            "coupling: joint ranks coupled tensors by all of them, group_dependency: Leader by the first; leave one of them out"
        )
    targets[weights[0]] = Cut(amount, leads=True)
    return Pruner(targets, score, unit, tie=first, coupling=coupling)


def structure_pruner(
    reg_regims: Regimes,
    threshold_criteria: Literal["Max", "Mean_Abs"] = "Mean_Abs",
    kwargs: BlockShape | None = None,
    coupling: Alone = "follow",
) -> Pruner:
    """Drop structures of which the mean (``Mean_Abs``) or the largest (``Max``) absolute weight does not exceed a threshold.

    >>> structure_pruner({"conv.weight": (0.01, "Filters")}).unit_of("conv.weight")
    Tile(sizes=(1, -1), rest=-1)
    """
    shape = (kwargs or {}).get("block_shape")
    targets = {name: Cut(threshold, group(kind, shape if kind == "Blocks" else None)) for name, (threshold, kind) in reg_regims.items()}
    return Pruner(targets, THRESHOLD_CRITERIA[threshold_criteria], select=Below(), coupling=coupling)


def _ranked_by(score: Criterion, what: str) -> Callable[..., Pruner]:
    """The builder of a pruner that drops the lowest structures by ``score``; ``what`` these are, in words."""

    def build(  # noqa: PLR0913, PLR0917  # Distiller's eight arguments, and three
        group_type: GroupName,
        desired_sparsity: Amount,
        weights: Names,
        group_dependency: Dependency | None = None,
        kwargs: BlockShape | None = None,
        noise: Probability = 0.0,
        group_size: Multiple = 1,
        rounding_fn: Rounding = math.floor,
        rows_are_columns: bool = False,
        seed: Whole = 0,
        coupling: Way = "follow",
    ) -> Pruner:
        scored = Noise(score, noise, seed) if noise else score
        pruner = ranked(scored, desired_sparsity, weights, _unit(group_type, kwargs, rows_are_columns), group_dependency, coupling)
        return replace(pruner, select=Lowest(rounding_fn, group_size))

    build.__doc__ = f"""Drop exactly a fraction of each tensor's structures: those of {what}.

    ``group_size`` makes their number a multiple of itself, ``rounding_fn`` (floor, ceil, round) counts them. With the probability ``noise``,
    drawn from ``seed``, a tensor's scores are multiplied by normal noise at a renewal. ``Rows`` are the rows of the matrix ``[out, in]``;
    ``rows_are_columns`` means its columns, as Distiller did whatever its documentation said. There ``group_size`` above 1 failed,
    ``rounding_fn`` did nothing, equal scores fell together, and a leader that rounded to nothing stopped the run.
    """
    return build


def _ranked_gradually_by(score: Criterion, what: str) -> Callable[..., Pruner]:
    """As ``_ranked_by``, along the ramp of automated gradual pruning."""
    constant = _ranked_by(score, what)

    def build(
        initial_sparsity: Sparsity,
        final_sparsity: Sparsity,
        group_type: GroupName,
        weights: Names,
        group_dependency: Dependency | None = None,
        kwargs: BlockShape | None = None,
        rows_are_columns: bool = False,
        coupling: Way = "follow",
    ) -> Pruner:
        ramp = Ramp(initial_sparsity, final_sparsity, power=3)
        return constant(group_type, ramp, weights, group_dependency, kwargs, rows_are_columns=rows_are_columns, coupling=coupling)

    build.__doc__ = f"""Drop structures of each tensor along the cubic ramp of automated gradual pruning: those of {what}.

    ``Rows`` are the rows of the matrix ``[out, in]``; ``rows_are_columns`` means its columns, as Distiller did.
    """
    return build


L1, L2 = "the smallest mean absolute weight", "the smallest Euclidean norm"
MEDIAN = "the smallest sum of distances to the others, which these can replace (FPGM; He et al. 2019, arXiv 1811.00250)"

l1_ranked_structure_pruner = _ranked_by(l1, L1)
l2_ranked_structure_pruner = _ranked_by(l2, L2)
geometric_median_pruner = _ranked_by(geometric_median, MEDIAN)
l1_ranked_structure_pruner_agp = _ranked_gradually_by(l1, L1)
l2_ranked_structure_pruner_agp = _ranked_gradually_by(l2, L2)
geometric_median_pruner_agp = _ranked_gradually_by(geometric_median, MEDIAN)


def random_level_structure_pruner(  # noqa: PLR0913, PLR0917  # Distiller's eight arguments, and three
    group_type: GroupName,
    sparsity_range: Range,
    weights: Names,
    group_dependency: Dependency | None = None,
    kwargs: BlockShape | None = None,
    noise: Probability = 0.0,
    group_size: Multiple = 1,
    rounding_fn: Rounding = math.floor,
    rows_are_columns: bool = False,
    seed: Whole = 0,
    coupling: Way = "follow",
) -> Pruner:
    """Drop a fraction of each tensor's structures that is drawn from a range at every renewal: those of the smallest mean absolute weight.

    Each of ``weights`` draws its own, all that one pattern matches the same, and a leader's is everyone's. The draws are a function of ``seed``
    and the moment, so that ``limbeck plan`` knows them. The other arguments are those of ``L1RankedStructureParameterPruner``.
    """
    low, high = sparsity_range
    pruner = l1_ranked_structure_pruner(
        group_type, low, weights, group_dependency, kwargs, noise, group_size, rounding_fn, rows_are_columns, seed, coupling
    )
    if group_dependency is not None:
        return replace(pruner, targets=ranked(l1, Uniform(low, high, seed), weights, pruner.unit, group_dependency).targets)
    return replace(pruner, targets={name: Uniform(low, high, seed, canonical(name)) for name in weights})


def random_ranked_filter_pruner(
    group_type: FilterGroup,
    desired_sparsity: Amount,
    weights: Names,
    group_dependency: Dependency | None = None,
    redraw: bool = False,
    seed: Whole = 0,
    coupling: Way = "follow",
) -> Pruner:
    """Drop exactly a fraction of each tensor's filters, by chance.

    The order is drawn once for the run, so that a weight that was zeroed is not brought back, as a zero, in another's place; ``redraw`` draws
    a new one at every renewal, as Distiller did, which needed a GPU for it.
    """
    return ranked(Chance(seed, redraw), desired_sparsity, weights, group(group_type), group_dependency, coupling)


def random_ranked_filter_pruner_agp(
    initial_sparsity: Sparsity,
    final_sparsity: Sparsity,
    group_type: FilterGroup,
    weights: Names,
    group_dependency: Dependency | None = None,
    redraw: bool = False,
    seed: Whole = 0,
    coupling: Way = "follow",
) -> Pruner:
    """Drop filters of each tensor by chance, along the cubic ramp of automated gradual pruning."""
    ramp = Ramp(initial_sparsity, final_sparsity, power=3)
    return random_ranked_filter_pruner(group_type, ramp, weights, group_dependency, redraw, seed, coupling)


def bernoulli_filter_pruner(
    desired_sparsity: Amount,
    group_type: FilterGroup,
    weights: Names,
    group_dependency: Dependency | None = None,
    seed: Whole = 0,
    coupling: Alone = "follow",
) -> Pruner:
    """Drop each filter with the probability ``desired_sparsity``, drawn anew at every renewal, and scale up what is kept (DropFilter).

    The kept weights are divided by the kept fraction while the mask is soft, which the policy's ``args`` say: ``mini_batch_pruning_frequency: 1``
    and ``use_double_copies: true`` make it a dropout of filters (Pan et al. 2018, arXiv 1811.06783). One filter at least is kept.
    """
    pruner = ranked(Chance(seed, redraw=True), desired_sparsity, weights, group(group_type), group_dependency, coupling)
    return replace(pruner, select=Survivors(), rescale=True)


def bernoulli_filter_pruner_agp(
    initial_sparsity: Sparsity,
    final_sparsity: Sparsity,
    group_type: FilterGroup,
    weights: Names,
    group_dependency: Dependency | None = None,
    seed: Whole = 0,
    coupling: Alone = "follow",
) -> Pruner:
    """As ``BernoulliFilterPruner``, with a probability along the cubic ramp of automated gradual pruning."""
    ramp = Ramp(initial_sparsity, final_sparsity, power=3)
    return bernoulli_filter_pruner(ramp, group_type, weights, group_dependency, seed, coupling)


STRUCTURE_PRUNERS: dict[str, Callable[..., Pruner]] = {
    "BernoulliFilterPruner": bernoulli_filter_pruner,
    "BernoulliFilterPruner_AGP": bernoulli_filter_pruner_agp,
    "GeometricMedianPruner": geometric_median_pruner,
    "GeometricMedianPruner_AGP": geometric_median_pruner_agp,
    "L1RankedStructureParameterPruner": l1_ranked_structure_pruner,
    "L1RankedStructureParameterPruner_AGP": l1_ranked_structure_pruner_agp,
    "L2RankedStructureParameterPruner": l2_ranked_structure_pruner,
    "L2RankedStructureParameterPruner_AGP": l2_ranked_structure_pruner_agp,
    "RandomLevelStructureParameterPruner": random_level_structure_pruner,
    "RandomRankedFilterPruner": random_ranked_filter_pruner,
    "RandomRankedFilterPruner_AGP": random_ranked_filter_pruner_agp,
    "StructureParameterPruner": structure_pruner,
}
"""Pruners of whole structures that need no data but the weights."""

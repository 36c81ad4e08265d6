"""From the table of an analysis to levels: how much of each parameter goes so that a budget is kept at the least predicted loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor, nn

from limbeck.errors import DataError, did_you_mean
from limbeck.names import named_parameters
from limbeck.pruning.pruner import Site
from limbeck.pruning.selectors import Lowest
from limbeck.schedules import Moment
from limbeck.sensitivity.allocate import allocate
from limbeck.sensitivity.costs import Costs
from limbeck.sensitivity.curves import Curve, curves
from limbeck.sensitivity.rows import Metrics, Row
from limbeck.sensitivity.scan import PRUNERS, Group
from limbeck.sensitivity.structure import Kind, Structure

KINDS: tuple[Kind, ...] = get_args(Kind)
TIGHTENINGS = 8


@dataclass(frozen=True)
class Budget:
    """How much may be left: of the weights (``sparsity`` says how much may not), or of the multiplications."""

    kind: Kind
    amount: float

    @property
    def kept(self) -> float:
        """The fraction that may be left."""
        return 1 - self.amount if self.kind == "sparsity" else self.amount

    def __str__(self) -> str:
        return f"{self.kind}={self.amount:g}"


def parse_budget(text: str) -> Budget:
    """``sparsity=0.8``, ``parameters=0.5``, ``macs=0.5``.

    >>> parse_budget("macs=0.5"), parse_budget("sparsity=0.8").kept
    (Budget(kind='macs', amount=0.5), 0.19999999999999996)

    Raises ``DataError`` for another kind, and for what is no fraction between 0 and 1.
    """
    name, _, number = text.partition("=")
    if name not in KINDS:
        raise DataError(f"no budget named '{name}'{did_you_mean(name, KINDS)}; give {', '.join(f'{kind}=FRACTION' for kind in KINDS)}")
    try:
        amount = float(number)
    except ValueError:
        amount = math.nan
    if not 0 < amount < 1:
        raise DataError(f"the budget {name}='{number}' is no fraction between 0 and 1, as in {name}=0.5")
    kind: Kind = next(kind for kind in KINDS if kind == name)
    return Budget(kind, amount)


@dataclass(frozen=True)
class Suggestion:
    """Levels by parameter, and what they are expected to make of the model."""

    group: Group
    budget: Budget
    levels: Mapping[str, float]
    left: Mapping[str, str]
    """Measured parameters that are not pruned, with the reason."""
    kept: Mapping[Kind, float]
    """What is left: the fraction of weights under masks is 1 - ``sparsity``; weights and multiplications after thinning."""
    dense: Metrics
    loss: float
    """Predicted before any retraining: the rises of all parameters, summed up."""
    top1: float
    """Likewise."""


def suggest(rows: Sequence[Row], model: nn.Module, example_inputs: Sequence[Any], group: Group, budget: Budget) -> Suggestion:
    """The levels that keep a budget at the least predicted rise of the loss; see ``allocate``.

    Filters and channels are counted as thinning takes them out of this very model, with what their going takes from the layers that read or
    compute them, and are suggested only where it can. Raises ``DataError`` when the budget cannot be reached.
    """
    structure = Structure.of(model, example_inputs)
    names = list(dict.fromkeys(row.parameter for row in rows))
    if foreign := [name for name in names if name not in structure.shapes]:
        raise DataError(f"the table has rows of {foreign[0]}, which is no weight of this model; give the model that was analysed")
    left: dict[str, str] = {}
    if group != "element":
        left = {name: reason for name, reason in structure.removable(model, names, group).items() if reason}
    chosen = [name for name in names if name not in left]
    if not chosen:
        raise DataError(
            f"no {group} can be taken out by itself: of {names[0]}, {left[names[0]]}; measure other parameters, or another group"
        )
    costs = structure.costs(chosen, group, budget.kind)
    rises = curves(rows, costs.units)
    masked = Masked(model, structure, group)
    dropped = _within(rises, costs, budget, masked)
    falls = curves(rows, costs.units, lambda row: -row.top1)
    fractions = {name: count / costs.units[name] for name, count in dropped.items()}
    dense = next(row for row in rows if row.sparsity == 0).metrics
    levels = {name: level_of(count, costs.units[name]) for name, count in dropped.items() if count}
    return Suggestion(
        group=group,
        budget=budget,
        levels=levels,
        left=left | {name: "its loss rises too much for what it saves" for name in dropped if name not in levels},
        kept=masked.kept(levels),
        dense=dense,
        loss=dense.loss + sum(float(rises[name].at(fraction)) for name, fraction in fractions.items()),
        top1=max(0.0, dense.top1 - sum(float(falls[name].at(fraction)) for name, fraction in fractions.items())),
    )


def _within(rises: Mapping[str, Curve], costs: Costs, budget: Budget, masked: Masked) -> dict[str, int]:
    """The allocation that keeps the budget also when it is carried out; where units go as wholes that costs see as parts, a tighter one."""
    aim = budget.kept
    for _ in range(TIGHTENINGS):
        dropped = allocate(rises, costs, aim)
        kept = masked.kept({name: level_of(count, costs.units[name]) for name, count in dropped.items() if count})
        reached = 1 - kept["sparsity"] if budget.kind == "sparsity" else kept[budget.kind]
        if reached <= budget.kept + 1e-12:
            return dropped
        aim *= min(budget.kept / reached, 1 - 1e-3)
    raise DataError(f"the budget {budget} is not reached: thinning leaves {reached:.4g}; allow more, or measure more parameters")


@dataclass(frozen=True)
class Masked:
    """A model under the masks of the schedule's last firing."""

    model: nn.Module
    structure: Structure
    group: Group

    def kept(self, levels: Mapping[str, float]) -> dict[Kind, float]:
        """Zeros as a fraction of all weights, and what is left of weights and multiplications, structures thinned."""
        masks, shapes = self._masks(levels), self.structure.shapes
        dense = {name: math.prod(shape) for name, shape in shapes.items()}
        nonzeros = {name: int(masks[name].count_nonzero()) if name in masks else number for name, number in dense.items()}
        sparsity = 1 - sum(nonzeros.values()) / sum(dense.values())
        if self.group == "element":
            return {"sparsity": sparsity, "parameters": 1 - sparsity, "macs": self.structure.macs(nonzeros) / self.structure.macs(dense)}
        after = self.structure.thinned(self.structure.recipe(self.model, masks))
        parameters = sum(after.values()) / sum(dense.values())
        return {"sparsity": sparsity, "parameters": parameters, "macs": self.structure.macs(after) / self.structure.macs(dense)}

    def _masks(self, levels: Mapping[str, float]) -> dict[str, Tensor]:
        parameters, masks = named_parameters(self.model), dict[str, Tensor]()
        for name, level in levels.items():
            masks |= PRUNERS[self.group](name, level).masks({name: Site(parameters[name].parameter.detach())}, Moment())
        return masks


def level_of(count: int, units: int) -> float:
    """The shortest decimal, of two digits or more, at which exactly ``count`` of so many units go.

    >>> level_of(9, 16), level_of(1, 3), level_of(123_457, 1_000_000)
    (0.57, 0.34, 0.123457)
    """
    for digits in range(2, 12):
        level = float(math.ceil(count / units * 10**digits - 1e-9) / 10**digits)
        if Lowest().dropped(level, units) == count:
            return level
    return count / units

"""What a schedule will do, before any training: every parameter's sparsity at every firing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from torch import nn

from limbeck.config.check import check
from limbeck.config.load import Source, load
from limbeck.config.policies import Policy, both_set_the_rate
from limbeck.names import Named, named_parameters, resolve
from limbeck.pruning import Pruner
from limbeck.schedules import Moment, Unit, Window, at


@dataclass(frozen=True)
class Firing:
    """One renewal of one parameter's mask; ``sparsity`` and ``nonzeros`` are None when they depend on data."""

    unit: Unit
    time: int
    sparsity: float | None
    nonzeros: int | None


@dataclass(frozen=True)
class Row:
    """One parameter: what happens to it, and its non-zeros after the last firing (None: depends on data)."""

    name: str
    shape: tuple[int, ...]
    aliases: tuple[str, ...] = ()
    timeline: tuple[Firing, ...] = ()

    @property
    def numel(self) -> int:
        """How many elements the parameter has."""
        return math.prod(self.shape)

    @property
    def nonzeros(self) -> int | None:
        """How many elements are kept after the last firing."""
        return self.timeline[-1].nonzeros if self.timeline else self.numel

    @property
    def data_dependent(self) -> bool:
        """Whether what is kept depends on data at any firing."""
        return any(firing.nonzeros is None for firing in self.timeline)


@dataclass(frozen=True)
class Plan:
    """Every parameter of the model, tied ones once, and what is worth a warning."""

    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()

    @property
    def weights(self) -> int:
        """How many elements the parameters of two dimensions or more have."""
        return sum(row.numel for row in self._counted())

    @property
    def nonzeros(self) -> int | None:
        """How many of ``weights`` are kept in the end; None when that depends on data."""
        kept = [row.nonzeros for row in self._counted()]
        return None if None in kept else sum(count for count in kept if count is not None)

    @property
    def sparsity(self) -> float | None:
        """The fraction of ``weights`` that is dropped in the end; None when that depends on data."""
        return None if self.nonzeros is None or not self.weights else 1 - self.nonzeros / self.weights

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data."""
        total = {"weights": self.weights, "nonzeros": self.nonzeros, "sparsity": self.sparsity}
        return {"parameters": {row.name: _row_as_json(row) for row in self.rows}, "total": total, "warnings": list(self.warnings)}

    def _counted(self) -> list[Row]:
        return [row for row in self.rows if len(row.shape) >= 2]


def _row_as_json(row: Row) -> dict[str, Any]:
    return {
        "shape": list(row.shape),
        "numel": row.numel,
        "aliases": list(row.aliases),
        "timeline": [{firing.unit: firing.time, "sparsity": firing.sparsity, "nonzeros": firing.nonzeros} for firing in row.timeline],
        "nonzeros": row.nonzeros,
        "data_dependent": row.data_dependent,
    }


def plan(
    source: Source,
    model: nn.Module | Mapping[str, Named],
    *,
    steps_per_epoch: int | None = None,
    epochs: int | None = None,
    allow_plugins: bool = False,
) -> Plan:
    """What a schedule file will do to a model, which may live on the meta device; a run of ``epochs`` epochs cuts it off.

    >>> text = '''
    ... version: 1
    ... pruners: {agp: {class: AutomatedGradualPruner, initial_sparsity: 0.0, final_sparsity: 0.8, weights: weight}}
    ... policies: [{pruner: {instance_name: agp}, starting_epoch: 0, ending_epoch: 3}]
    ... '''
    >>> [firing.nonzeros for firing in plan(text, nn.Linear(10, 10)).rows[0].timeline]
    [100, 30, 20]

    Raises ``ScheduleError`` with all faults of the file.
    """
    parameters = named_parameters(model) if isinstance(model, nn.Module) else model
    checked = check(load(source), parameters, plugins="import" if allow_plugins else "refuse")
    checked.report.raise_if_faulty()
    run = _Run(epochs, steps_per_epoch)
    instances = [(policy, checked.entries[policy.kind, policy.instance].made) for policy in checked.policies]
    pruning = [(policy, made) for policy, made in instances if isinstance(made, Pruner)]
    timelines: dict[str, dict[tuple[float, int, str], Firing]] = {}
    for policy, pruner in pruning:
        for name, firing in _firings(pruner, policy.window, parameters, run):
            timelines.setdefault(name, {})[run.place(firing.unit, firing.time)] = firing
    rows = [
        Row(name, tuple(named.parameter.shape), named.aliases, tuple(firing for _, firing in sorted(timelines.get(name, {}).items())))
        for name, named in parameters.items()
    ]
    warnings = [str(warning) for warning in checked.report.warnings]
    warnings += [str(checked.document.fault(late, policy.path)) for policy in checked.policies if (late := run.late(policy.window))]
    rates = [policy for policy in checked.policies if policy.kind == "lr_scheduler"]
    warnings += [str(checked.document.fault(message, policy.path)) for policy, message in _meeting(rates, run)]
    return Plan(tuple(rows), tuple(warnings + _unordered([policy for policy, _ in pruning], rates, run)))


@dataclass(frozen=True)
class _Run:
    """How long training lasts, as far as that is known."""

    epochs: int | None
    steps_per_epoch: int | None

    def end(self, unit: Unit) -> int | None:
        """The first epoch or step that is not run any more."""
        if unit == "epoch" or self.epochs is None:
            return self.epochs
        return None if self.steps_per_epoch is None else self.epochs * self.steps_per_epoch

    def place(self, unit: Unit, time: int) -> tuple[float, int, str]:
        """Sorts epochs and steps by when they come; an epoch begins before its first step does."""
        if unit == "epoch":
            return time * (self.steps_per_epoch or 1), 0, unit
        return time, 1, unit

    def moments(self, window: Window) -> Iterator[Moment]:
        """The firings that the run reaches."""
        end = self.end(window.unit)
        return takewhile(lambda moment: end is None or moment.now < end, window.firings())

    def late(self, window: Window) -> str:
        """What to say of a window that fires after the run's end, or an empty string."""
        end = self.end(window.unit)
        beyond = [] if end is None or window.end is None else [moment for moment in window.firings() if moment.now >= end]
        if not beyond:
            return ""
        times = f"{len(beyond)} time{'s' if len(beyond) > 1 else ''}"
        return f"fires {times} from {window.unit} {beyond[0].now} on, which a run of {end} {window.unit}s never reaches"


def _meeting(rates: Sequence[Policy], run: _Run) -> Iterator[tuple[Policy, str]]:
    """Learning rates by step and by epoch of which the run's steps per epoch tell that they meet: training would stop there."""
    for index, later in enumerate(rates):
        for earlier in rates[:index]:
            if later.window.overlaps(earlier.window, run.steps_per_epoch):
                yield later, f"{both_set_the_rate(later, earlier)} (an epoch has {run.steps_per_epoch} steps)"


def _unordered(pruning: Sequence[Policy], rates: Sequence[Policy], run: _Run) -> list[str]:
    if run.steps_per_epoch is not None:
        return []
    doubts = {
        "some policies count epochs and some steps: give the steps per epoch, or the order of their firings is a guess": pruning,
        "some learning rates count epochs and some steps: give the steps per epoch to see whether their windows overlap": rates,
    }
    return [doubt for doubt, policies in doubts.items() if len({policy.window.unit for policy in policies}) > 1]


def _firings(pruner: Pruner, window: Window, parameters: Mapping[str, Named], run: _Run) -> Iterator[tuple[str, Firing]]:
    """What a pruner does in a window, firing by firing, parameter by parameter."""
    targets = resolve(pruner.targets, parameters)
    pruner = replace(pruner, targets=targets)
    for moment in run.moments(window):
        for name in targets:
            shape = tuple(parameters[name].parameter.shape)
            dropped, numel = _dropped(pruner, name, shape, moment), math.prod(shape)
            if dropped is None:
                yield name, Firing(window.unit, moment.now, None, None)
            else:
                yield name, Firing(window.unit, moment.now, dropped / numel if numel else 0.0, numel - dropped)


def _dropped(pruner: Pruner, name: str, shape: tuple[int, ...], moment: Moment) -> int | None:
    """How many elements of a parameter fall at a moment; None when that depends on data."""
    count = getattr(pruner.select, "dropped", None)
    if count is None or (pruner.pool is None and len(pruner.targets) > 1):
        return None
    grid = pruner.unit.grid(shape)
    units = math.prod(grid if pruner.pool is None else pruner.pool.block(grid))
    pools = 1 if pruner.pool is None else math.prod(pruner.pool.grid(grid))
    fallen: int = count(at(pruner.targets[name], moment), units)
    return fallen * pools * math.prod(pruner.unit.block(shape))

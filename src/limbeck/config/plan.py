"""What a schedule will do, before any training: every parameter's sparsity at every firing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from torch import nn

from limbeck.config.build import applied
from limbeck.config.check import Checked, check
from limbeck.config.count import Counter, Dropped
from limbeck.config.load import Source, load
from limbeck.config.policies import Policy, both_set_the_rate
from limbeck.config.rows import Firing, Plan, Pool, Row
from limbeck.names import Named, named_parameters, resolve
from limbeck.pruning import Prune
from limbeck.regularization import Regularize
from limbeck.schedules import Moment, Unit, Window


def plan(
    source: Source,
    model: nn.Module | Mapping[str, Named],
    *,
    steps_per_epoch: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    allow_plugins: bool = False,
) -> Plan:
    """What a schedule file will do to a model, which may live on the meta device; a run of ``epochs`` epochs, or of ``steps`` steps, cuts it off.

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
    run = _Run(epochs, steps_per_epoch, steps)
    events = _Events(parameters, run)
    for policy in checked.policies:
        _, action = applied(checked, policy)
        if isinstance(action, Prune):
            events.prune(policy, action)
        elif isinstance(action, Regularize) and action.keep_mask:
            events.cut(policy, action)
    rows, pools = events.rows(), events.pools()
    later = [
        f"{entry.class_name} '{entry.name}': {entry.section.afterwards}" for entry in checked.entries.values() if entry.section.afterwards
    ]
    return Plan(tuple(rows), tuple(_warnings(checked, run)), tuple(pools), tuple(later))


def _warnings(checked: Checked, run: _Run) -> list[str]:
    """What is worth a warning in the file, and in a run of this length."""
    fault, policies = checked.document.fault, checked.policies
    rates, pruning = ([policy for policy in policies if policy.kind == kind] for kind in ("lr_scheduler", "pruner"))
    warnings = [str(warning) for warning in checked.report.warnings]
    warnings += [str(fault(late, policy.path)) for policy in policies if (late := run.late(policy.window, _after_step(policy)))]
    warnings += [str(fault(message, policy.path)) for policy, message in _meeting(rates, run)]
    return warnings + _unordered(pruning, rates, run)


def _after_step(policy: Policy) -> bool:
    return bool(policy.arguments.get("after_step", False))


@dataclass(frozen=True)
class _Run:
    """How long training lasts, as far as that is known."""

    epochs: int | None
    steps_per_epoch: int | None
    steps: int | None = None

    def end(self, unit: Unit) -> int | None:
        """The first epoch or step that is not run any more."""
        if unit == "step" and self.steps is not None:
            return self.steps
        if unit == "epoch" or self.epochs is None:
            return self.epochs
        return None if self.steps_per_epoch is None else self.epochs * self.steps_per_epoch

    def place(self, unit: Unit, time: int) -> tuple[float, int, str]:
        """Sorts epochs and steps by when they come; an epoch begins before its first step does."""
        if unit == "epoch":
            return time * (self.steps_per_epoch or 1), 0, unit
        return time, 1, unit

    def moments(self, window: Window, after_step: bool = False) -> Iterator[Moment]:
        """The firings that the run reaches; ``after_step`` the clock counts the steps that are done, from 1 on."""
        end = self.end(window.unit)
        reached = takewhile(lambda moment: end is None or moment.now < end + after_step, window.firings())
        return (moment for moment in reached if moment.now or not after_step)

    def late(self, window: Window, after_step: bool = False) -> str:
        """What to say of a window that fires after the run's end, or an empty string."""
        length = self.end(window.unit)
        end = None if length is None else length + after_step
        if end is None or window.last is None or window.last < end:
            return ""
        if window.only:
            beyond = [time for time in window.only if time >= end]
            first, number = beyond[0], len(beyond)
        else:
            first = window.begin + max(0, -(-(end - window.begin) // window.every)) * window.every
            number = (window.last - first) // window.every + 1
        times = f"{number} time{'s' if number > 1 else ''}"
        return f"fires {times} from {window.unit} {first} on, which a run of {length} {window.unit}s never reaches"


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
        "some policies count epochs and some steps: give the steps per epoch (--steps-per-epoch N), or the order of their firings is a guess": pruning,
        "some learning rates count epochs and some steps: give the steps per epoch (--steps-per-epoch N) to see whether their windows overlap": rates,
    }
    return [doubt for doubt, policies in doubts.items() if len({policy.window.unit for policy in policies}) > 1]


Place = tuple[float, int, str]
"""Sorts events by when they come."""


@dataclass(frozen=True)
class _Event:
    """A firing, the policy that fires, and whether its mask outlasts it."""

    firing: Firing
    policy: int
    lasting: bool = True


class _Events:
    """What happens to each parameter, policy by policy; of two events at one time the later policy's stands."""

    def __init__(self, parameters: Mapping[str, Named], run: _Run) -> None:
        self._parameters, self._run = parameters, run
        self._of: dict[str, dict[Place, _Event]] = {}
        self._pools: dict[int, tuple[tuple[str, ...], list[Firing]]] = {}

    def prune(self, policy: Policy, action: Prune) -> None:
        """All firings of a pruner."""
        targets = resolve(action.pruner.targets, self._parameters)
        shapes = {name: tuple(self._parameters[name].parameter.shape) for name in targets}
        counter = Counter(replace(action.pruner, targets=targets), shapes)
        lasting = not policy.arguments.get("discard_masks_at_minibatch_end", False)
        together: list[Firing] = []
        for moment in self._run.moments(policy.window, _after_step(policy)):
            dropped = counter.dropped(moment)
            if policy.arguments.get("mini_batch_pruning_frequency") and counter.draws_anew(moment):
                dropped = Dropped(dict.fromkeys(targets))
            for name, count in dropped.each.items():
                self._note(name, _firing(moment.unit, moment.now, math.prod(shapes[name]), count), policy, lasting)
            numel = sum(math.prod(shape) for shape in shapes.values())
            together.append(_firing(moment.unit, moment.now, numel, dropped.together))
        if counter.joint and together:
            self._pools[policy.index] = tuple(targets), together

    def cut(self, policy: Policy, action: Regularize) -> None:
        """The mask that a regularizer leaves when its window's last firing ends."""
        last, end = policy.window.last, self._run.end(policy.window.unit)
        if last is not None and (end is None or last < end):
            for name in resolve(action.regularizer.targets, self._parameters):
                self._note(name, Firing(policy.window.unit, last, None, None), policy, at_end=True)

    def _note(self, name: str, firing: Firing, policy: Policy, lasting: bool = True, at_end: bool = False) -> None:
        place = self._run.place(firing.unit, firing.time)
        if at_end:
            place = self._run.place(firing.unit, firing.time + 1)[0], -1, firing.unit
        self._of.setdefault(name, {})[place] = _Event(firing, policy.index, lasting)

    def rows(self) -> Iterator[Row]:
        """Every parameter."""
        for name, named in self._parameters.items():
            events = self._in_order(name)
            lasting = not events or events[-1].lasting
            yield Row(name, tuple(named.parameter.shape), named.aliases, tuple(event.firing for event in events), lasting)

    def pools(self) -> Iterator[Pool]:
        """The policies that prune parameters together."""
        for index, (names, firings) in self._pools.items():
            last = [self._in_order(name)[-1] for name in names]
            lasting = all(event.policy == index and event.lasting for event in last)
            yield Pool(names, sum(self._parameters[name].parameter.numel() for name in names), tuple(firings), lasting)

    def _in_order(self, name: str) -> list[_Event]:
        return [event for _, event in sorted(self._of.get(name, {}).items(), key=lambda item: item[0])]


def _firing(unit: Unit, time: int, numel: int, dropped: int | None) -> Firing:
    if dropped is None:
        return Firing(unit, time, None, None)
    return Firing(unit, time, dropped / numel if numel else 0.0, numel - dropped)

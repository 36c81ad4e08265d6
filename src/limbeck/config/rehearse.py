"""A schedule rehearsed: its masks and thinnings carried out on a model of random weights, without any training."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from torch import nn

from limbeck.config.build import applied
from limbeck.config.check import Checked, check
from limbeck.config.count import Counter
from limbeck.config.load import Source, load
from limbeck.config.policies import Policy
from limbeck.config.rehearsal import Cost, Rehearsal, RehearsedRow
from limbeck.errors import LimbeckError, ScheduleError, ScheduleWarning
from limbeck.events import Action, State
from limbeck.names import Named, named_parameters, resolve
from limbeck.pruning import Prune
from limbeck.regularization import Regularize
from limbeck.scheduler import Scheduler
from limbeck.schedules import Clock, Moment, Unit, Window
from limbeck.summaries.compute import Compute, counted

OF_THE_MASK = ("levels", "discard_masks_at_minibatch_end")
"""The arguments of a pruner's policy that say which weights are zero in the end; the others say what training makes of them."""
EXTENSION = "extension"


def rehearse(
    source: Source,
    model: nn.Module,
    example_inputs: Sequence[Any],
    *,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    allow_plugins: bool = False,
) -> Rehearsal:
    """What a schedule makes of a model: the sparsity of each tensor, the weights that are kept, and the MACs before and after.

    Every firing of its pruners and of its thinnings is carried out on a copy of the model, whose weights may be random; nothing is trained.
    ``example_inputs`` are one small batch of what the model takes: the MACs are those of one forward pass on it, so a batch of one tells those of
    one input. A run of ``epochs`` epochs cuts the schedule off. Pruners whose outcome depends on data are left out, and named in
    ``data_dependent``.

    >>> import torch
    >>> text = '''
    ... version: 1
    ... pruners: {half: {class: L1RankedStructureParameterPruner, desired_sparsity: 0.5, group_type: Filters, weights: 0.weight}}
    ... extensions: {thinner: {class: FilterRemover}}
    ... policies:
    ...   - {pruner: {instance_name: half}, epochs: [0]}
    ...   - {extension: {instance_name: thinner}, epochs: [1]}
    ... '''
    >>> found = rehearse(text, nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (torch.zeros(1, 4),))
    >>> [row.thinned for row in found.rows], found.before.macs, found.after.macs
    ([(4, 4), (4,), (2, 4), (2,)], 48, 24)

    Raises ``ScheduleError`` with all faults of the file, and for policies by epoch beside policies by step where ``steps_per_epoch`` is not known;
    ``LimbeckError`` for a model on the meta device, and ``CaptureError`` for one that cannot be captured.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        raise LimbeckError(
            "a rehearsal makes masks from numbers, and this model is on the meta device, where it has none; build it on the CPU"
        )
    model = copy.deepcopy(model)
    parameters = named_parameters(model)
    checked = check(load(source), parameters, plugins="import" if allow_plugins else "refuse")
    checked.report.raise_if_faulty()
    shapes = {name: tuple(named.parameter.shape) for name, named in parameters.items()}
    schedule, left_out = _cast(checked, parameters)
    run = _Run(epochs, steps_per_epoch)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scheduler = Scheduler(model, schedule, example_inputs=example_inputs)
        before = _counted(scheduler.state)
        run.walk(scheduler, schedule)
        after = _counted(scheduler.state) if scheduler.recipes else before
    notes = [str(warning.message) for warning in caught if issubclass(warning.category, ScheduleWarning)]
    notes += [line for recipe in scheduler.recipes for line in recipe.left if not any(line in note for note in notes)]
    notes += [f"not counted, for no count is known of it: {where}" for where in before.unsupported]
    known = not left_out or not any(policy.kind == EXTENSION for policy in checked.policies)
    return Rehearsal(
        rows=tuple(_rows(scheduler, shapes, {name for names in left_out.values() for name in names})),
        before=Cost(before.weights, before.macs),
        after=Cost(after.weights, after.macs) if known else None,
        thinnings=len(scheduler.recipes),
        data_dependent=tuple(left_out),
        notes=tuple(dict.fromkeys(notes)),
    )


Shapes = Mapping[str, tuple[int, ...]]


def _cast(checked: Checked, parameters: Mapping[str, Named]) -> tuple[list[tuple[Window, Action]], dict[str, tuple[str, ...]]]:
    """The policies that can be rehearsed, and those that depend on data, in words, each with the tensors that it prunes."""
    schedule, left_out = list[tuple[Window, Action]](), dict[str, tuple[str, ...]]()
    for policy in checked.policies:
        arguments = policy.arguments
        if policy.kind == "pruner":
            arguments = {name: value for name, value in arguments.items() if name in OF_THE_MASK}
        window, action = applied(checked, replace(policy, arguments=arguments))
        if isinstance(action, Regularize) and action.keep_mask:
            left_out[_words(checked, policy)] = tuple(resolve(action.regularizer.targets, parameters))
        elif isinstance(action, Prune) and not _is_known(action, window, parameters):
            left_out[_words(checked, policy)] = tuple(resolve(action.pruner.targets, parameters))
        elif isinstance(action, Prune) or policy.kind == EXTENSION:
            schedule.append((window, action))
    return schedule, left_out


def _is_known(action: Prune, window: Window, parameters: Mapping[str, Named]) -> bool:
    """Whether the shapes alone tell how much of each tensor falls, and no criterion waits to see data."""
    targets = resolve(action.pruner.targets, parameters)
    counter = Counter(replace(action.pruner, targets=targets), {name: tuple(parameters[name].parameter.shape) for name in targets})
    return action.pruner.needs is None and all(None not in counter.dropped(moment).each.values() for moment in window.firings())


def _words(checked: Checked, policy: Policy) -> str:
    return f"policies[{policy.index}]: {checked.entries[policy.kind, policy.instance].class_name} '{policy.instance}'"


@dataclass(frozen=True)
class _Run:
    """Walks through a run from firing to firing."""

    epochs: int | None
    steps_per_epoch: int | None

    def walk(self, scheduler: Scheduler, schedule: Sequence[tuple[Window, Action]]) -> None:
        """Call the hooks of each epoch and each minibatch in which something fires."""
        windows = [window for window, _ in schedule]
        units: set[Unit] = {window.unit for window in windows}
        if len(units) > 1 and self.steps_per_epoch is None:
            raise ScheduleError(
                "some policies count epochs and some steps: give the steps per epoch (--steps-per-epoch N), which order them"
            )
        steps = self.steps_per_epoch
        for epoch, minibatches in self._places(windows).items():
            scheduler.on_epoch_begin(epoch)
            for minibatch in sorted(minibatches):
                scheduler.state.clock = Clock(epoch, minibatch, epoch * (steps or 0) + minibatch)
                scheduler.on_minibatch_begin(epoch, minibatch, steps)
                scheduler.on_minibatch_end(epoch, minibatch, steps)
            scheduler.on_epoch_end(epoch)

    def _places(self, windows: Iterable[Window]) -> dict[int, set[int]]:
        """The minibatches in which something fires, by epoch; what fires by epoch is over after the epoch's first minibatch."""
        places: dict[int, set[int]] = {}
        for window in windows:
            for moment in takewhile(self._is_reached, window.firings()):
                epoch, minibatch = self._place(moment)
                places.setdefault(epoch, {0} if moment.unit == "epoch" else set()).add(minibatch)
        return dict(sorted(places.items()))

    def _place(self, moment: Moment) -> tuple[int, int]:
        if moment.unit == "epoch":
            return moment.now, 0
        return divmod(moment.now, self.steps_per_epoch) if self.steps_per_epoch else (0, moment.now)

    def _is_reached(self, moment: Moment) -> bool:
        end = self.epochs if moment.unit == "epoch" or self.epochs is None else self.epochs * (self.steps_per_epoch or 0)
        return not end or moment.now < end


def _counted(state: State) -> Compute:
    coupled = state.coupled()
    assert coupled is not None, "a rehearsal has example inputs"
    return counted(state.model, coupled.graph)


def _rows(scheduler: Scheduler, shapes: Shapes, unknown: set[str]) -> Iterable[RehearsedRow]:
    for name, named in scheduler.state.parameters.items():
        mask = scheduler.masks.get(name)
        nonzeros = named.parameter.numel() if mask is None else int(mask.count_nonzero())
        yield RehearsedRow(name, shapes[name], tuple(named.parameter.shape), None if name in unknown else nonzeros)

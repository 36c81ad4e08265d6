"""The action that makes a model thinner in the middle of a schedule."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from limbeck.errors import ScheduleError, ScheduleWarning
from limbeck.events import Action, State
from limbeck.recipes import Recipe
from limbeck.schedules import Moment, Window
from limbeck.thinning.thin import Shifts, thin_coupled

SHOWN = 3
"""Longer lists of what stays are cut off."""


class Thin(Action):
    """Takes out of the model all units that are zero when its window fires: in the first minibatch of the epoch, or in the step.

    Pruners of that epoch, or step, come before it, wherever they stand in the schedule; one that is put off, because it has not seen yet what it
    ranks by, is waited for. The model computes what it did; its masks, the optimizer's state and all that actions hold go along, and
    ``scheduler.recipes`` notes what went. A window may fire several times.

    ``input_shape``, the batch in it, makes inputs by chance for a model of which the scheduler has no ``example_inputs``. ``shifts`` is that of
    ``limbeck.thinning.thin``.

    >>> from torch import nn
    >>> from limbeck.scheduler import Scheduler
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> with torch.no_grad():
    ...     _ = net[0].weight[1].zero_(), net[0].bias[1].zero_()
    >>> scheduler = Scheduler(net, [(Window(only=(1,)), Thin((1, 2)))])
    >>> for epoch in scheduler.epochs(2):
    ...     for batch in scheduler.steps([torch.zeros(1, 2)]):
    ...         print(epoch, net[0])
    0 Linear(in_features=2, out_features=3, bias=True)
    1 Linear(in_features=2, out_features=2, bias=True)
    """

    def __init__(self, input_shape: Sequence[int] | None = None, shifts: Shifts = "keep") -> None:
        self._shape = None if input_shape is None else tuple(input_shape)
        self._shifts = shifts
        self._due: Moment | None = None
        self._told: set[str] = set()

    def bind(self, state: State) -> None:
        """See that the model can be thinned.

        Raises ``ScheduleError`` without inputs and for a model whose gradients are collected in buckets of a fixed size, ``CaptureError`` for
        one that cannot be captured.
        """
        if isinstance(state.model, DistributedDataParallel):
            raise ScheduleError(
                "DistributedDataParallel collects gradients in buckets whose sizes it fixes when it wraps a model, so that it cannot be thinned in "
                "training; thin it after training (limbeck thin), or between two runs, and wrap it anew"
            )
        if state.example_inputs is None:
            if self._shape is None:
                raise ScheduleError(
                    "to be thinned a model is run once: give input_shape, as in [1, 3, 32, 32], or a dataset to the extension, or example_inputs "
                    "to load_schedule"
                )
            state.example_inputs = random_inputs(self._shape)
        state.coupled()

    def on_epoch_begin(self, state: State, moment: Moment) -> None:
        """Thin in this epoch."""
        if moment.unit == "epoch":
            self._due = moment

    def on_minibatch_begin(self, state: State, moment: Moment) -> None:
        """Thin in this step."""
        if moment.unit == "step":
            self._due = moment

    def watch_minibatch(self, state: State, window: Window) -> None:
        """Thin, when all pruners have done what they had to."""
        self._carry_out(state)

    def watch_epoch_end(self, state: State, window: Window) -> None:
        """Thin at the latest here."""
        self._carry_out(state)

    def state_dict(self) -> dict[str, Any] | None:
        """The thinning that is still to come, or None."""
        return None if self._due is None else {"due": asdict(self._due)}

    def load_state_dict(self, state: State, saved: dict[str, Any] | None) -> None:
        """Stand where ``state_dict`` was taken."""
        self._due = None if saved is None else Moment(**saved["due"])

    def _carry_out(self, state: State) -> None:
        if self._due is not None and not any(getattr(action, "waits", False) for _, action in state.schedule):
            self._due = None
            self._tell(thin_now(state, self._shifts))

    def _tell(self, recipe: Recipe) -> None:
        """Warn, once of each, of what weights leave out and yet stays."""
        lines = [line for line in recipe.left if line not in self._told]
        self._told.update(lines)
        if lines:
            more = f"\n  and {len(lines) - SHOWN} more: scheduler.recipes[-1].left" if len(lines) > SHOWN else ""
            what = "thinning left in the model" if recipe else "thinning took nothing out of the model"
            warnings.warn(f"{what}, though it is zero:\n  " + "\n  ".join(lines[:SHOWN]) + more, ScheduleWarning, stacklevel=2)


def random_inputs(shape: Sequence[int]) -> tuple[Tensor]:
    """Normal numbers of a shape, the same each time."""
    return (torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0)),)


def thin_now(state: State, shifts: Shifts = "keep") -> Recipe:
    """Take out of a scheduler's model all units that are zero; the masks, the optimizer's state and all that actions hold go along.

    It is what ``Thin`` does, for a loop that thins when it sees fit: ``thin_now(scheduler.state)``, between two steps. Raises
    ``ScheduleError`` without ``example_inputs``, ``RecipeError`` where the optimizer's state, for one, cannot be cut; nothing is changed then.
    """
    units, inputs = state.coupled(), state.inputs()
    if units is None or inputs is None:
        raise ScheduleError("to be thinned a model is run once: give the scheduler example_inputs, as in (torch.zeros(1, 3, 32, 32),)")
    with torch.random.fork_rng(devices=()):
        recipe = thin_coupled(units, state.model, inputs, state.masks, state.optimizer, shifts)
    if recipe:
        state.recipes.append(recipe)
        for window, action in state.schedule:
            follow = getattr(action, "thinned", None)
            if follow is not None:
                follow(state, window, recipe)
    return recipe

"""Scheduled compression behind ``optimizer.step()``: of a trainer's loop, or of any other that is not yours to change."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from limbeck.config.build import built, read_schedule
from limbeck.config.load import Source
from limbeck.errors import ScheduleError
from limbeck.events import Action
from limbeck.names import named_parameters
from limbeck.pruning import Prune, Pruner
from limbeck.pruning.tfmot import TFMOT
from limbeck.pruning.translated import NeurST
from limbeck.scheduler import Scheduler
from limbeck.schedules import Window

Policies = Pruner | Action | NeurST | TFMOT | Iterable[tuple[Window, Action]] | Source


def attach(
    optimizer: Optimizer,
    model: nn.Module,
    pruner_or_schedule: Policies,
    window: Window | None = None,
    *,
    state: Mapping[str, Any] | None = None,
    allow_plugins: bool = False,
) -> Scheduler:
    """Put scheduled pruning behind ``optimizer.step()``: each call is one step, and the loop changes in nothing.

    ``pruner_or_schedule`` is a ``Pruner`` (or an action) with its ``window`` in steps; a list of (``Window``, action); a schedule file, its path, its text
    or its mapping; or the options of ``NeurST`` or ``TFMOT``. Where gradients add up over several batches, or a gradient scaler skips an update,
    only the updates count. What is due at step 0 is done at once.

    >>> import torch
    >>> from limbeck.ramps import Ramp
    >>> layer = nn.Linear(4, 2)
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    >>> scheduler = attach(optimizer, layer, Pruner({"weight": Ramp(0.25, 0.5)}), Window(1, 4, 2, unit="step"))
    >>> for step in range(4):
    ...     optimizer.zero_grad(); layer(torch.rand(3, 4)).sum().backward(); optimizer.step()
    ...     print(scheduler.clock.step, int(layer.weight.count_nonzero()))
    1 6
    2 6
    3 4
    4 4

    To resume, load the model and the optimizer, and give what ``scheduler.state_dict()`` was as ``state``; or call ``scheduler.load_state_dict`` before
    the model is loaded, which at step 0 has been pruned by then.

    Raises ``ScheduleError`` for windows and policies by epoch, of which an optimizer knows nothing, for an optimizer of another model, and for all
    faults of a schedule file; ``TargetError`` for names and patterns that match nothing.
    """
    if isinstance(optimizer, nn.Module) or isinstance(model, Optimizer):
        raise TypeError("here the optimizer comes first, and the model second: attach(optimizer, model, pruner_or_schedule)")
    optimizer = _innermost(optimizer)
    if isinstance(pruner_or_schedule, str | os.PathLike | Mapping):
        _refuse_window(window, "a schedule file says in its policies when they fire")
        parameters = named_parameters(model)
        checked = read_schedule(pruner_or_schedule, parameters, optimizer, allow_plugins=allow_plugins, by_step=True, stacklevel=3)
        scheduler = built(checked, model, optimizer)
    else:
        scheduler = Scheduler(model, _pairs(pruner_or_schedule, window), optimizer)
    scheduler.drive(optimizer)
    if state is None:
        scheduler.begin()
    else:
        scheduler.load_state_dict(state)
    return scheduler


def _pairs(given: Pruner | Action | NeurST | TFMOT | Iterable[tuple[Window, Action]], window: Window | None) -> list[tuple[Window, Action]]:
    if isinstance(given, NeurST | TFMOT):
        _refuse_window(window, f"{type(given).__name__} says itself when masks are renewed")
        return [step.policy() for step in given.steps()]
    if isinstance(given, Pruner | Action):
        if window is None:
            raise ScheduleError(
                f"a {type(given).__name__} needs a window: attach(optimizer, model, pruner, Window(0, 1000, 100, unit='step'))"
            )
        return [(window, Prune(given) if isinstance(given, Pruner) else given)]
    _refuse_window(window, "each pair of a list has a window of its own")
    return list(given)


def _refuse_window(window: Window | None, why: str) -> None:
    if window is not None:
        raise ScheduleError(f"{why}; leave the window {window.begin} to {window.end} out")


def _innermost(optimizer: Optimizer) -> Optimizer:
    """The optimizer of torch that makes the steps, in the wrappers of Accelerate and Lightning."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer

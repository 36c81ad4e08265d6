"""Schedule files by the ancestor's calls; what is read, checked and built is Limbeck's own language."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from limbeck.compat.distiller.scheduler import CompressionScheduler
from limbeck.config.build import applied, read_schedule
from limbeck.config.load import Source
from limbeck.errors import ScheduleError, ScheduleWarning
from limbeck.training import LearningRate


def file_config(
    model: nn.Module,
    optimizer: Optimizer | None,
    filename: str | os.PathLike[str],
    scheduler: CompressionScheduler | None = None,
    resumed_epoch: int | None = None,
    *,
    example_inputs: Sequence[Any] | None = None,
) -> CompressionScheduler:
    """The scheduler, a new one unless one is given, with the policies of a schedule file.

    ``example_inputs``, which the ancestor has not, are one small batch of what the model takes: filters then fall with biases and norms, and
    ``coupling: joint`` has a graph to go by. ``resumed_epoch`` is the last epoch that was finished before.
    What a learning rate needs to go on comes with the scheduler's ``state_dict``; where only masks are there, it counts from the epoch after,
    which is warned of.

    Raises ``limbeck.ScheduleError`` with all faults of the file, each with its line; nothing is built before that.
    """
    return _configure(model, optimizer, filename, scheduler, resumed_epoch, example_inputs)


def dict_config(
    model: nn.Module,
    optimizer: Optimizer | None,
    sched_dict: Mapping[str, Any],
    scheduler: CompressionScheduler | None = None,
    resumed_epoch: int | None = None,
    *,
    example_inputs: Sequence[Any] | None = None,
) -> CompressionScheduler:
    """``file_config`` for a schedule that is a mapping already."""
    return _configure(model, optimizer, sched_dict, scheduler, resumed_epoch, example_inputs)


def fileConfig(  # noqa: N802  # the ancestor's name
    model: nn.Module,
    optimizer: Optimizer | None,
    sched: CompressionScheduler,
    filename: str | os.PathLike[str],
    logger: object = None,
    resumed_epoch: int | None = None,
) -> CompressionScheduler:
    """``file_config`` in the shape of the ancestor's first version; nothing is written to ``logger``, because faults are raised."""
    return _configure(model, optimizer, filename, sched, resumed_epoch)


def _configure(
    model: nn.Module,
    optimizer: Optimizer | None,
    source: Source,
    compression: CompressionScheduler | None,
    resumed_epoch: int | None,
    example_inputs: Sequence[Any] | None = None,
) -> CompressionScheduler:
    if compression is None:
        compression = CompressionScheduler(model)
    elif compression.model is not model:
        raise ScheduleError("the scheduler belongs to another model than the one that is given; make it with CompressionScheduler(model)")
    scheduler = compression.scheduler
    if example_inputs is not None:
        scheduler.state.example_inputs = tuple(example_inputs)
    optimizer = scheduler.state.optimizer if optimizer is None else optimizer
    checked = read_schedule(source, scheduler.state.parameters, optimizer, stacklevel=4)
    if optimizer is not None and optimizer is not scheduler.state.optimizer:
        scheduler.attach(optimizer)
    for policy in checked.policies:
        scheduler.add(*applied(checked, policy))
    scheduler.text = scheduler.text or checked.document.text
    if resumed_epoch is not None and not compression.resumes:
        _warn_of_lost_rates(compression, resumed_epoch)
    return compression


def _warn_of_lost_rates(compression: CompressionScheduler, resumed_epoch: int) -> None:
    late = [
        action.name
        for window, action in compression.scheduler.schedule
        if isinstance(action, LearningRate) and window.unit == "epoch" and window.begin <= resumed_epoch
    ]
    if late:
        warnings.warn(
            f"{', '.join(late)} began before epoch {resumed_epoch + 1} and will count from there: load the scheduler's whole state_dict",
            ScheduleWarning,
            stacklevel=4,
        )

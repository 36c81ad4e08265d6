"""The ancestor's loggers, and the two functions that write to several of them at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, SupportsFloat

from torch import nn

from limbeck.apps.log import TensorBoardLog, describe
from limbeck.compat.distiller.apputils import MessageLogger
from limbeck.names import Named, canonical
from limbeck.summaries.render import to_csv, to_text
from limbeck.summaries.sparsity import sparsity_rows, sparsity_table, total

Stats = tuple[str, Mapping[str, SupportsFloat]]
"""A heading such as ``'Performance/Training/'`` and the numbers under it."""

Parameters = Mapping[str, nn.Parameter] | Iterable[tuple[str, nn.Parameter]]
"""``dict(model.named_parameters())``, or what ``model.named_parameters()`` gives."""


class DataLogger(Protocol):
    """Somewhere that training progress and sparsities are written to; a logger of your own has these three methods."""

    def log_training_progress(self, stats_dict: Stats, epoch: int, steps_completed: int, total_steps: int, freq: int = 1) -> None:
        """Write numbers of the training so far."""

    def log_weights_distribution(self, named_params: Parameters, steps_completed: int) -> None:
        """Write what is known of the gradients."""

    def log_weights_sparsity(self, model: nn.Module, epoch: int) -> None:
        """Write how many weights are zero."""


class NullLogger:
    """Writes nothing."""

    def log_training_progress(self, stats_dict: Stats, epoch: int, steps_completed: int, total_steps: int, freq: int = 1) -> None:
        """Write nothing."""

    def log_weights_distribution(self, named_params: Parameters, steps_completed: int) -> None:
        """Write nothing."""

    def log_weights_sparsity(self, model: nn.Module, epoch: int) -> None:
        """Write nothing."""


class PythonLogger:
    """Writes lines to a logger of Python's, such as the one that ``config_pylogger`` gives."""

    def __init__(self, logger: logging.Logger | MessageLogger) -> None:
        self.pylogger = logger

    def log_training_progress(self, stats_dict: Stats, epoch: int, steps_completed: int, total_steps: int, freq: int = 1) -> None:
        """One line with all numbers."""
        heading, numbers = _read(stats_dict)
        self.pylogger.info(f"epoch {epoch}, {steps_completed}/{total_steps}, {describe({'split': heading, **numbers})}")

    def log_weights_distribution(self, named_params: Parameters, steps_completed: int) -> None:
        """Nothing: gradients are no lines."""

    def log_weights_sparsity(self, model: nn.Module, epoch: int) -> None:
        """The sparsity table."""
        self.pylogger.info(f"epoch {epoch}\n{to_text(sparsity_table(model))}")


class CsvLogger:
    """Writes the newest sparsity table to ``weights_sparsity.csv`` in a folder."""

    def __init__(self, logdir: str | os.PathLike[str] = "") -> None:
        self.path = Path(logdir) / "weights_sparsity.csv"

    def log_training_progress(self, stats_dict: Stats, epoch: int, steps_completed: int, total_steps: int, freq: int = 1) -> None:
        """Nothing: the file holds sparsities."""

    def log_weights_distribution(self, named_params: Parameters, steps_completed: int) -> None:
        """Nothing: the file holds sparsities."""

    def log_weights_sparsity(self, model: nn.Module, epoch: int) -> None:
        """Write the table, over the one of the epoch before."""
        self.path.write_text(to_csv(sparsity_table(model)), encoding="utf-8")


class TensorBoardLogger:
    """Writes TensorBoard event files; a tag is a number's name and its heading, ``Loss/Performance/Training``.

    Set ``log_gradients`` to write norms and histograms of the gradients of the parameters whose names hold one of ``logged_params``.
    Raises ``limbeck.MissingExtraError`` without the package ``tensorboard``.
    """

    def __init__(self, logdir: str | os.PathLike[str], log_gradients: bool = False, logged_params: Sequence[str] = ("weight",)) -> None:
        self.log_gradients = log_gradients
        self.logged_params = tuple(logged_params)
        self._log = TensorBoardLog(Path(logdir))

    def log_training_progress(self, stats_dict: Stats, epoch: int, steps_completed: int, total_steps: int, freq: int = 1) -> None:
        """Each number at the step since the first epoch."""
        heading, numbers = _read(stats_dict)
        self._log.write({"split": heading, **numbers}, epoch=epoch, step=epoch * total_steps + steps_completed)

    def log_weights_distribution(self, named_params: Parameters, steps_completed: int) -> None:
        """The gradients, if they are asked for."""
        if self.log_gradients:
            pairs = named_params.items() if isinstance(named_params, Mapping) else named_params
            chosen = {name: Named(canonical(name), value) for name, value in pairs if any(part in name for part in self.logged_params)}
            self._log.gradients(chosen, step=steps_completed)

    def log_weights_sparsity(self, model: nn.Module, epoch: int) -> None:
        """The sparsity and the non-zeros of each tensor, and of all, at the epoch."""
        rows = sparsity_rows(model)
        for row in (*rows, total(rows)):
            values: dict[str, float | str] = {
                "parameter": row.name.rstrip(":"),
                "sparsity": row.sparsity,
                "nonzeros": float(row.nonzeros),
            }
            self._log.write(values, epoch=epoch, step=epoch)

    def close(self) -> None:
        """Have everything written."""
        self._log.close()


def log_training_progress(
    stats_dict: Stats,
    params_dict: Parameters | None,
    epoch: int,
    steps_completed: int,
    total_steps: int,
    log_freq: int,
    loggers: Sequence[DataLogger],
) -> None:
    """Write numbers of the training so far, and the parameters' gradients, to each logger; steps count from the epoch's begin."""
    parameters: Parameters = params_dict if isinstance(params_dict, Mapping) else dict(params_dict or {})
    for logger in loggers:
        logger.log_training_progress(stats_dict, epoch, steps_completed, total_steps, log_freq)
        logger.log_weights_distribution(parameters, epoch * total_steps + steps_completed)


def log_weights_sparsity(model: nn.Module, epoch: int, loggers: Sequence[DataLogger]) -> None:
    """Write how many weights are zero to each logger."""
    for logger in loggers:
        logger.log_weights_sparsity(model, epoch)


def _read(stats: Stats) -> tuple[str, dict[str, Any]]:
    heading, numbers = stats
    return heading.strip("/"), {name: float(value) for name, value in numbers.items()}

"""What a run writes down while it runs: CSV files, a text log, TensorBoard.

Every logger has the two methods of ``Logger``. ``RunLog`` puts the ones of a run folder together::

    metrics.csv     epoch,step,split,loss,perplexity,learning_rate,sparsity,tokens_per_second   (the measures are the application's)
    sparsity.csv    epoch,step,parameter,sparsity,threshold
    log.txt         the same metrics, and what else is said, as lines with the time
    tensorboard/    on request: the same numbers, gradients too
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor

from limbeck.errors import CheckpointError, require
from limbeck.names import Named
from limbeck.stats import sparsity

SPARSITY = ("epoch", "step", "parameter", "sparsity", "threshold")
CHUNK = 1 << 20


def metric_columns(measures: Sequence[str], rate: str) -> tuple[str, ...]:
    """The columns of ``metrics.csv``: an application's measures beside the loss, and what it counts a second."""
    return ("epoch", "step", "split", "loss", *measures, "learning_rate", "sparsity", rate)


METRICS = metric_columns(["perplexity"], "tokens_per_second")
"""Those of a language model."""

Values = Mapping[str, float | str]
"""Numbers by name, and at most one string: of what they are, a split or a parameter."""

FORMATS = {
    "bleu": "BLEU {:.2f}",
    "tokenised_bleu": "tokenised BLEU {:.2f}",
    "loss": "loss {:.3f}",
    "perplexity": "perplexity {:.2f}",
    "top1": "top-1 {:.2f} %",
    "top5": "top-5 {:.2f} %",
    "learning_rate": "learning rate {:.4g}",
    "sparsity": "sparsity {:.2%}",
    "tokens_per_second": "{:,.0f} tokens/s",
    "images_per_second": "{:,.0f} images/s",
}


def perplexity(loss: float) -> float:
    """``exp(loss)``; infinite where that overflows.

    >>> perplexity(0.0), perplexity(1000.0), perplexity(math.nan)
    (1.0, inf, nan)
    """
    return math.inf if loss >= 700 else math.exp(loss)


class Logger(Protocol):
    """Somewhere that numbers are written to. Epochs and steps are the ones that were finished."""

    def write(self, values: Values, *, epoch: int, step: int) -> None:
        """Write one row."""

    def close(self) -> None:
        """Have everything on its way to the disk."""


@dataclass(frozen=True)
class TensorSparsity:
    """The fraction of zeros of a pruned tensor, and the smallest magnitude among its weights that are not zero, NaN if there is none.

    The latter stands for the threshold: where weights fall by magnitude, nothing that is still there lies below it.
    """

    parameter: str
    sparsity: float
    threshold: float


def sparsity_rows(parameters: Mapping[str, Named], pruned: Iterable[str]) -> list[TensorSparsity]:
    """A row for each pruned parameter; ``pruned`` is the scheduler's ``masks``, or any names. No temporary exceeds a few MiB.

    >>> from limbeck.names import named_parameters
    >>> layer = torch.nn.Linear(2, 2)
    >>> _ = layer.weight.data.copy_(torch.tensor([[0.0, -0.5], [0.25, 1.0]]))
    >>> sparsity_rows(named_parameters(layer), ["weight"])
    [TensorSparsity(parameter='weight', sparsity=0.25, threshold=0.25)]
    """
    tensors = {name: parameters[name].parameter.detach() for name in pruned}
    return [TensorSparsity(name, sparsity(tensor), _smallest_kept(tensor)) for name, tensor in tensors.items()]


def _smallest_kept(tensor: Tensor) -> float:
    lowest = [chunk.abs().masked_fill_(chunk == 0, torch.inf).min() for chunk in torch.split(tensor.flatten(), CHUNK) if chunk.numel()]
    least = torch.stack(lowest).min().item() if lowest else torch.inf
    return least if least != torch.inf else torch.nan


def describe(values: Values) -> str:
    """The numbers in words, for a line of text.

    >>> describe({"split": "train", "loss": 4.6052, "perplexity": 100.004, "learning_rate": 20.0, "sparsity": 0.8})
    'train: loss 4.605, perplexity 100.00, learning rate 20, sparsity 80.00%'
    """
    labels = [value for value in values.values() if isinstance(value, str)]
    numbers = [
        FORMATS.get(name, f"{name.replace('_', ' ')} {{:{'.2f' if name.endswith('BLEU') else '.4g'}}}").format(value)
        for name, value in values.items()
        if not isinstance(value, str)
    ]
    return ": ".join([*labels, ", ".join(numbers)])


class CsvLog:
    """One CSV file, flushed after each row. With ``resume_step`` it goes on after that step: later rows, and a torn last one, are cut.

    The first columns are epoch, step and what a row is of; a row that is there already for the same step is not written a second
    time. Of what is no one of ``labels``, where they are given, the rows are cut. Raises ``CheckpointError`` where the file that is to go on has
    other columns.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], resume_step: int | None = None, labels: Collection[str] | None = None) -> None:
        self.columns = columns
        self._label = columns[2]
        kept = [] if resume_step is None else list(self._rows_until(path, resume_step))
        kept = [row for row in kept if labels is None or row[self._label] in labels]
        self._there: set[tuple[str, str, object]] = {
            (row["epoch"], row["step"], row[self._label]) for row in kept if int(row["step"]) == resume_step
        }
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(kept)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, columns)

    def write(self, values: Values, *, epoch: int, step: int) -> None:
        """Write one row; columns without a value stay empty. Raises ``ValueError`` for a value without a column."""
        place = str(epoch), str(step), values.get(self._label)
        if place in self._there:
            return
        self._there = {place, *(there for there in self._there if there[:2] == place[:2])}
        self._writer.writerow({"epoch": epoch, "step": step, **values})
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _rows_until(self, path: Path, step: int) -> Iterator[dict[str, str]]:
        """The whole rows of a file up to a step; a file that is missing or empty has none."""
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        header, *lines = text.split("\n")
        if header and text.count("\n") and header.rstrip("\r") != ",".join(self.columns):
            raise CheckpointError(f"{path} has other columns than {','.join(self.columns)}; move it away to go on with this run")
        for cells in csv.reader(lines[:-1]):
            with suppress(ValueError):  # a row that was torn is none
                row = dict(zip(self.columns, cells, strict=True))
                if int(row["step"]) <= step:
                    yield row


class TextLog:
    """A text file that grows: one line a message, each with the time."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def say(self, text: str) -> None:
        """Write a message; each of its lines gets the time."""
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        self._file.writelines(f"{now}  {line}\n" for line in text.splitlines())
        self._file.flush()

    def write(self, values: Values, *, epoch: int, step: int) -> None:
        """Write the numbers in words."""
        self.say(f"epoch {epoch}, step {step}, {describe(values)}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardLog:
    """TensorBoard event files; a tag is the number's name and what it is of: ``loss/train``, ``sparsity/rnn.weight_ih_l0``.

    With ``resume_step`` TensorBoard drops what an earlier run wrote after that step. Raises ``MissingExtraError`` without the
    package ``tensorboard``.
    """

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        require("tensorboard", "all")
        board = require("torch.utils.tensorboard", "all")
        self._writer = board.SummaryWriter(str(folder), purge_step=None if resume_step is None else resume_step + 1)

    def write(self, values: Values, *, epoch: int, step: int) -> None:
        """Write each number as a scalar; the epoch is one too."""
        label = next((value for value in values.values() if isinstance(value, str)), "run")
        for name, value in values.items():
            if not isinstance(value, str):
                self._writer.add_scalar(f"{name}/{label}", value, step)
        if "split" in values:
            self._writer.add_scalar(f"epoch/{label}", epoch, step)

    def gradients(self, parameters: Mapping[str, Named], *, step: int) -> None:
        """Write the norm and, where it is finite, the histogram of each gradient that there is."""
        for name, named in parameters.items():
            if (gradient := named.parameter.grad) is not None:
                norm = gradient.float().norm()
                self._writer.add_scalar(f"gradient_norm/{name}", norm.item(), step)
                if norm.isfinite():
                    self._writer.add_histogram(f"gradient/{name}", gradient.float(), step)

    def close(self) -> None:
        """Have everything written."""
        self._writer.close()


class RunLog:
    """All logs of one run folder; with ``resume_step`` they go on where that step ended, in ``metrics.csv`` with rows of these ``splits`` alone.

    Use it in a ``with``; what a logger raises, it raises.
    """

    def __init__(
        self,
        folder: Path,
        columns: tuple[str, ...] = METRICS,
        *,
        resume_step: int | None = None,
        tensorboard: bool = False,
        splits: Collection[str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._board = TensorBoardLog(folder / "tensorboard", resume_step) if tensorboard else None
        boards: list[Logger] = [self._board] if self._board else []
        self._text = TextLog(folder / "log.txt")
        self._metrics: list[Logger] = [CsvLog(folder / "metrics.csv", columns, resume_step, splits), self._text, *boards]
        self._sparsity: list[Logger] = [CsvLog(folder / "sparsity.csv", SPARSITY, resume_step), *boards]

    def metrics(self, split: str, values: Mapping[str, float], *, epoch: int, step: int) -> None:
        """Write how a split goes: the columns' numbers, or some of them."""
        for log in self._metrics:
            log.write({"split": split, **values}, epoch=epoch, step=step)

    def sparsity(self, rows: Iterable[TensorSparsity], *, epoch: int, step: int) -> None:
        """Write a row for each pruned tensor."""
        for row in rows:
            for log in self._sparsity:
                log.write(asdict(row), epoch=epoch, step=step)

    def gradients(self, parameters: Mapping[str, Named], *, step: int) -> None:
        """Write the gradients as they are now, if there is a TensorBoard."""
        if self._board:
            self._board.gradients(parameters, step=step)

    def say(self, text: str) -> None:
        """Write a message to the text log."""
        self._text.say(text)

    def close(self) -> None:
        """Close every log."""
        for log in dict.fromkeys([*self._metrics, *self._sparsity]):
            log.close()

    def __enter__(self) -> RunLog:
        """The log itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close every log."""
        self.close()

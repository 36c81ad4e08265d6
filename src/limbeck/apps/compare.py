"""Runs side by side, in every application: what their folders hold, their order, their names in a legend, and the files of a comparison."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from limbeck.apps.figures import Curve, save
from limbeck.errors import DataError
from limbeck.summaries.render import Table, percent, to_csv, to_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORD, CURVES = "run.json", "metrics.csv"


class Record(BaseModel):
    """What ``run.json`` of any application must hold for a comparison; it may hold more."""

    model_config = ConfigDict(frozen=True)

    type: str
    command: str
    weights: int = Field(gt=0)
    nonzeros: int = Field(ge=0)
    finished: bool
    thinnings: int = Field(default=0, ge=0)


AnyRecord = TypeVar("AnyRecord", bound=Record)


@dataclass(frozen=True)
class Epoch:
    """The state after one epoch: the model's sparsity (a fraction) and what the application measures."""

    epoch: int
    sparsity: float
    measure: float


@dataclass(frozen=True)
class Run(Generic[AnyRecord]):
    """A run folder, read."""

    folder: Path
    record: AnyRecord
    epochs: tuple[Epoch, ...]

    @property
    def sparsity(self) -> float:
        """The fraction of zero weights, from the two integers."""
        return (self.record.weights - self.record.nonzeros) / self.record.weights

    @property
    def dense(self) -> bool:
        """Whether the run stands for its dense model: it was not thinned, and prints as 0 % sparse."""
        return percent(self.sparsity) == "0%" and not self.record.thinnings


@dataclass(frozen=True)
class Comparison(Generic[AnyRecord]):
    """The runs in the table's order, the table, and the files that were written."""

    runs: tuple[Run[AnyRecord], ...]
    table: Table
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Reader(Generic[AnyRecord]):
    """How an application's run folders are read."""

    application: str
    record: type[AnyRecord]
    measure: str
    """The column of ``metrics.csv`` that is drawn epoch by epoch."""
    splits: tuple[str, ...] = ("validation",)
    """Of which split: the first of these that a run has."""

    @property
    def remedy(self) -> str:
        """What to do about a folder that is none."""
        return f"give a folder that 'limbeck {self.application} train --save DIR' wrote"

    def read_all(self, runs: Sequence[Path]) -> tuple[Run[AnyRecord], ...]:
        """Run folders, each once, in order; raises ``DataError`` where there is none, and as ``read`` does."""
        read = order([self.read(folder) for folder in {folder.resolve(): folder for folder in runs}.values()])
        if not read:
            raise DataError(f"there is no run to compare; {self.remedy}")
        return read

    def read(self, folder: Path) -> Run[AnyRecord]:
        """Read one run folder; a run that has not finished has no test, and a young one no epochs.

        Raises ``DataError`` that names the file, what is wrong with it, and the remedy.
        """
        path = folder / RECORD
        if not folder.is_dir():
            raise DataError(f"there is no folder '{folder}'; {self.remedy}")
        if not path.is_file() and (folder / CURVES).is_file():
            resumed = f"'limbeck {self.application} train --resume' finishes it"
            raise DataError(f"'{folder}' has no {RECORD} yet: its run is going on or was cut off; {resumed}")
        if not path.is_file():
            raise DataError(f"'{folder}' has no {RECORD}; {self.remedy}")
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            self._refuse_other(path, tree)
            record = self.record.model_validate(tree)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg'].lower()}" for fault in error.errors())
            raise DataError(f"'{path}' is not the record of a run: {faults}; {self.remedy}") from error
        except (ValueError, OSError) as error:
            raise DataError(f"'{path}' is damaged: {error}; train the run again, or leave it out") from error
        if record.nonzeros > record.weights:
            counts = f"{record.nonzeros} non-zeros of {record.weights} weights"
            raise DataError(f"'{path}' counts {counts}; train the run again, or leave it out")
        return Run(folder, record, self._epochs(folder / CURVES))

    def _refuse_other(self, path: Path, tree: object) -> None:
        kind = tree.get("application", self.application) if isinstance(tree, Mapping) else self.application
        if kind != self.application:
            raise DataError(f"'{path}' is of 'limbeck {kind}', not of 'limbeck {self.application}'; compare it there")

    def _epochs(self, path: Path) -> tuple[Epoch, ...]:
        """The rows of a split in ``metrics.csv``; the last one of an epoch counts, and a last line without an end (a write cut off) does not."""
        if not path.is_file():
            return ()
        found: dict[str, dict[int, Epoch]] = {split: {} for split in self.splits}
        line = 1
        try:
            text = path.read_text(encoding="utf-8")
            reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
            for row in reader:
                line = reader.line_num
                if row["split"] in found:
                    epoch = int(row["epoch"])
                    found[row["split"]][epoch] = Epoch(epoch, float(row["sparsity"]), float(row[self.measure]))
        except KeyError as error:
            raise DataError(f"'{path}' has no column {error}; {self.remedy}") from error
        except (ValueError, TypeError, OSError, csv.Error) as error:
            raise DataError(f"'{path}' is damaged near line {line}: {error}; train the run again, or leave it out") from error
        chosen = next((epochs for epochs in found.values() if epochs), {})
        return tuple(chosen[epoch] for epoch in sorted(chosen))


def order(runs: Sequence[Run[AnyRecord]]) -> tuple[Run[AnyRecord], ...]:
    """Dense runs first, by size; then the pruned ones by the size of their model and by sparsity."""
    return tuple(sorted(runs, key=lambda run: (not run.dense, run.record.weights, run.sparsity, run.record.type, run.folder.name)))


def short_name(run: Run[AnyRecord]) -> str:
    """What was done to a run's model, in a word: how sparse it is, or that it was thinned."""
    thinned = f"thinned to {run.record.weights:,}" if run.record.thinnings else ""
    return ", ".join(part for part in (thinned, percent(run.sparsity) if percent(run.sparsity) != "0%" or not thinned else "") if part)


def series_of(run: Run[AnyRecord]) -> str | None:
    """The line that a run's point lies on: its type, pruned or thinned; None for a dense one."""
    return None if run.dense else f"{run.record.type}, {'thinned' if run.record.thinnings else 'pruned'}"


def type_of(run: Run[AnyRecord]) -> str:
    """A run's type, with a word where it has not finished."""
    return run.record.type if run.record.finished else f"{run.record.type} (unfinished)"


def unfinished_note(runs: Sequence[Run[AnyRecord]]) -> tuple[str, ...]:
    """What "unfinished" means, where a run is."""
    unfinished = [run.folder.name for run in runs if not run.record.finished]
    return (f"Unfinished, with the figures so far: {', '.join(unfinished)}.",) if unfinished else ()


def curves(runs: Sequence[Run[AnyRecord]], value: Callable[[Epoch], float]) -> list[Curve]:
    """A curve a run that has epochs; what is not finite (a diverged run) is left out."""
    drawn = []
    for label, run in zip(_labels(runs), runs, strict=True):
        values = {epoch.epoch: value(epoch) for epoch in run.epochs if math.isfinite(value(epoch))}
        if values:
            drawn.append(Curve(label, list(values), list(values.values()), run.dense))
    return drawn


def _labels(runs: Sequence[Run[AnyRecord]]) -> list[str]:
    """Short names for a legend: type and sparsity, and the folder's name where that is not enough."""
    short = [run.record.type if run.dense else f"{run.record.type} {short_name(run)}" for run in runs]
    return [label if short.count(label) == 1 else f"{label} ({run.folder.name})" for label, run in zip(short, runs, strict=True)]


def write(out: Path, table: Table, figures: Mapping[str, Figure]) -> tuple[Path, ...]:
    """Write the table (``table.md``, ``table.csv``) and the figures, each as PNG and SVG, into a folder; gives the files."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(to_markdown(table) + "\n", encoding="utf-8")
    (out / "table.csv").write_text(to_csv(table), encoding="utf-8")
    pictures = [path for name, figure in figures.items() for path in save(figure, out / name)]
    return (out / "table.md", out / "table.csv", *pictures)

"""Runs side by side: the table of sizes and perplexities, and its pictures, from the folders that training leaves."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from limbeck.apps.figures import Curve, Point, epoch_figure, save, size_figure
from limbeck.errors import DataError, require
from limbeck.summaries.render import Column, Table, fixed, percent, thousands, to_csv, to_markdown

RECORD, CURVES = "run.json", "metrics.csv"
REMEDY = "give a folder that 'limbeck lm train --save DIR' wrote"


class Record(BaseModel):
    """What ``run.json`` must hold for a comparison; it may hold more. A perplexity is None until it is measured, and where a run diverged."""

    model_config = ConfigDict(frozen=True)

    type: str
    command: str
    weights: int = Field(gt=0)
    nonzeros: int = Field(ge=0)
    finished: bool
    validation_perplexity: float | None = None
    test_perplexity: float | None = None

    @field_validator("validation_perplexity", "test_perplexity")
    @classmethod
    def _finite(cls, perplexity: float | None) -> float | None:
        return perplexity if perplexity is not None and math.isfinite(perplexity) else None


@dataclass(frozen=True)
class Epoch:
    """The state after one epoch: the model's sparsity (a fraction) and the validation perplexity."""

    epoch: int
    sparsity: float
    perplexity: float


@dataclass(frozen=True)
class Run:
    """A run folder, read."""

    folder: Path
    record: Record
    epochs: tuple[Epoch, ...]

    @property
    def sparsity(self) -> float:
        """The fraction of zero weights, from the two integers."""
        return (self.record.weights - self.record.nonzeros) / self.record.weights

    @property
    def dense(self) -> bool:
        """Whether the run stands for its dense model: it prints as 0 % sparse."""
        return percent(self.sparsity) == "0%"


@dataclass(frozen=True)
class ComparisonRow:
    """A row of Table 1; the perplexities are None until the run has them, and where it diverged."""

    type: str
    sparsity: float
    nonzeros: int
    validation_perplexity: float | None
    test_perplexity: float | None
    command: str
    weights: int
    finished: bool
    folder: str


COLUMNS = (
    Column("Type", "type"),
    Column("Sparsity", "sparsity", percent),
    Column("NNZ", "nonzeros", thousands),
    Column("Validation", "validation_perplexity", fixed(2)),
    Column("Test", "test_perplexity", fixed(2)),
    Column("Command line", "command", fold=True),
)


@dataclass(frozen=True)
class Comparison:
    """The runs in the table's order, the table, and the files that were written."""

    runs: tuple[Run, ...]
    table: Table
    files: tuple[Path, ...]


def compare(runs: Sequence[Path], out: Path) -> Comparison:
    """Read run folders; write the table (``table.md``, ``table.csv``) and three figures, each as PNG and SVG, into ``out``.

    The figures are ``perplexity_size`` (perplexity against non-zeros), ``sparsity_epochs`` and ``perplexity_epochs``.

    Raises ``DataError`` for a folder that is no run or whose files are damaged and ``MissingExtraError`` without matplotlib; both before
    anything is written.
    """
    require("matplotlib", "all")
    read = order([read_run(folder) for folder in {folder.resolve(): folder for folder in runs}.values()])
    if not read:
        raise DataError(f"there is no run to compare; {REMEDY}")
    table = table_of(read)
    sparsities, perplexities = _curves(read, lambda epoch: 100 * epoch.sparsity), _curves(read, lambda epoch: epoch.perplexity)
    figures = {
        "perplexity_size": size_figure(*_points(read)),
        "sparsity_epochs": epoch_figure(sparsities, "sparsity (%)", "Sparsity of the model, epoch by epoch"),
        "perplexity_epochs": epoch_figure(perplexities, "validation perplexity", "Validation perplexity, epoch by epoch", log=True),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(to_markdown(table) + "\n", encoding="utf-8")
    (out / "table.csv").write_text(to_csv(table), encoding="utf-8")
    pictures = [path for name, figure in figures.items() for path in save(figure, out / name)]
    return Comparison(read, table, (out / "table.md", out / "table.csv", *pictures))


def read_run(folder: Path) -> Run:
    """Read one run folder; a run that has not finished has no test perplexity, and a young one no epochs.

    Raises ``DataError`` that names the file, what is wrong with it, and the remedy.
    """
    path = folder / RECORD
    if not folder.is_dir():
        raise DataError(f"there is no folder '{folder}'; {REMEDY}")
    if not path.is_file() and (folder / CURVES).is_file():
        raise DataError(f"'{folder}' has no {RECORD} yet: its run is going on or was cut off; 'limbeck lm train --resume' finishes it")
    if not path.is_file():
        raise DataError(f"'{folder}' has no {RECORD}; {REMEDY}")
    try:
        record = Record.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg'].lower()}" for fault in error.errors())
        raise DataError(f"'{path}' is not the record of a run: {faults}; {REMEDY}") from error
    except (ValueError, OSError) as error:
        raise DataError(f"'{path}' is damaged: {error}; train the run again, or leave it out") from error
    if record.nonzeros > record.weights:
        raise DataError(f"'{path}' counts {record.nonzeros} non-zeros of {record.weights} weights; train the run again, or leave it out")
    return Run(folder, record, _epochs(folder / CURVES))


def order(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Dense runs first, by size; then the pruned ones by the size of their dense model and by sparsity."""
    return tuple(sorted(runs, key=lambda run: (not run.dense, run.record.weights, run.sparsity, run.record.type, run.folder.name)))


def table_of(runs: Sequence[Run]) -> Table:
    """Table 1: a row a run; one that has not finished says so, and a note says what that means."""
    rows = tuple(_row(run) for run in runs)
    unfinished = [run.folder.name for run in runs if not run.record.finished]
    notes: tuple[str, ...] = (f"Unfinished, with the figures so far: {', '.join(unfinished)}.",) if unfinished else ()
    diverged = [run.folder.name for run in runs if run.record.finished and run.record.test_perplexity is None]
    if diverged:
        notes += (f"Diverged, without a finite perplexity: {', '.join(diverged)}.",)
    return Table("Perplexity and size (NNZ: non-zero weights, tied ones counted once)", COLUMNS, rows, notes=notes)


def _row(run: Run) -> ComparisonRow:
    record = run.record
    return ComparisonRow(
        type=record.type if record.finished else f"{record.type} (unfinished)",
        sparsity=run.sparsity,
        nonzeros=record.nonzeros,
        validation_perplexity=record.validation_perplexity,
        test_perplexity=record.test_perplexity,
        command=record.command,
        weights=record.weights,
        finished=record.finished,
        folder=str(run.folder),
    )


def _epochs(path: Path) -> tuple[Epoch, ...]:
    """The validation rows of ``metrics.csv``; the last one of an epoch counts, and a last line without an end (a write cut off) does not."""
    if not path.is_file():
        return ()
    found: dict[int, Epoch] = {}
    line = 1
    try:
        text = path.read_text(encoding="utf-8")
        reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        for row in reader:
            line = reader.line_num
            if row["split"] == "validation":
                epoch = int(row["epoch"])
                found[epoch] = Epoch(epoch, float(row["sparsity"]), float(row["perplexity"]))
    except KeyError as error:
        raise DataError(f"'{path}' has no column {error}; {REMEDY}") from error
    except (ValueError, TypeError, OSError, csv.Error) as error:
        raise DataError(f"'{path}' is damaged near line {line}: {error}; train the run again, or leave it out") from error
    return tuple(found[epoch] for epoch in sorted(found))


def _labels(runs: Sequence[Run]) -> list[str]:
    """Short names for a legend: type and sparsity, and the folder's name where that is not enough."""
    short = [run.record.type if run.dense else f"{run.record.type} {percent(run.sparsity)}" for run in runs]
    return [label if short.count(label) == 1 else f"{label} ({run.folder.name})" for label, run in zip(short, runs, strict=True)]


def _points(runs: Sequence[Run]) -> tuple[list[Point], str]:
    """A point a run, and what it shows: the test perplexity if every run was tested, else the validation perplexity; none for a diverged run."""
    tested = all(run.record.test_perplexity is not None or run.record.finished for run in runs)
    points = []
    for run in runs:
        perplexity = run.record.test_perplexity if tested else run.record.validation_perplexity
        if perplexity is not None and run.record.nonzeros:
            label, series = (run.record.type, None) if run.dense else (percent(run.sparsity), f"{run.record.type}, pruned")
            points.append(Point(label, run.record.nonzeros, perplexity, series, run.record.finished))
    return points, "test perplexity" if tested else "validation perplexity"


def _curves(runs: Sequence[Run], value: Callable[[Epoch], float]) -> list[Curve]:
    """A curve a run that has epochs; what is not finite (a diverged run) is left out."""
    curves = []
    for label, run in zip(_labels(runs), runs, strict=True):
        values = {epoch.epoch: value(epoch) for epoch in run.epochs if math.isfinite(value(epoch))}
        if values:
            curves.append(Curve(label, list(values), list(values.values()), run.dense))
    return curves

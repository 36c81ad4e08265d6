"""Language-model runs side by side: the table of sizes and perplexities, and its pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import field_validator

from limbeck.apps import compare as shared
from limbeck.apps.compare import Comparison, Reader, Run, curves, series_of, short_name, type_of, unfinished_note, write
from limbeck.apps.figures import Point, epoch_figure, size_figure
from limbeck.errors import require
from limbeck.summaries.render import Column, Table, fixed, percent, thousands


class Record(shared.Record):
    """A perplexity is None until it is measured, and where a run diverged."""

    validation_perplexity: float | None = None
    test_perplexity: float | None = None

    @field_validator("validation_perplexity", "test_perplexity")
    @classmethod
    def _finite(cls, perplexity: float | None) -> float | None:
        return perplexity if perplexity is not None and math.isfinite(perplexity) else None


READER = Reader("lm", Record, "perplexity")


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


def compare(runs: Sequence[Path], out: Path) -> Comparison[Record]:
    """Read run folders; write the table (``table.md``, ``table.csv``) and three figures, each as PNG and SVG, into ``out``.

    The figures are ``perplexity_size`` (perplexity against non-zeros), ``sparsity_epochs`` and ``perplexity_epochs``.

    Raises ``DataError`` for a folder that is no run or whose files are damaged and ``MissingExtraError`` without matplotlib; both before
    anything is written.
    """
    require("matplotlib", "all")
    read = READER.read_all(runs)
    table = table_of(read)
    sparsities, perplexities = curves(read, lambda epoch: 100 * epoch.sparsity), curves(read, lambda epoch: epoch.measure)
    figures = {
        "perplexity_size": size_figure(*_points(read)),
        "sparsity_epochs": epoch_figure(sparsities, "sparsity (%)", "Sparsity of the model, epoch by epoch"),
        "perplexity_epochs": epoch_figure(perplexities, "validation perplexity", "Validation perplexity, epoch by epoch", log=True),
    }
    return Comparison(read, table, write(out, table, figures))


def table_of(runs: Sequence[Run[Record]]) -> Table:
    """Table 1: a row a run; one that has not finished says so, and a note says what that means."""
    notes = unfinished_note(runs)
    diverged = [run.folder.name for run in runs if run.record.finished and run.record.test_perplexity is None]
    if diverged:
        notes += (f"Diverged, without a finite perplexity: {', '.join(diverged)}.",)
    return Table("Perplexity and size (NNZ: non-zero weights, tied ones counted once)", COLUMNS, tuple(map(_row, runs)), notes=notes)


def _row(run: Run[Record]) -> ComparisonRow:
    record = run.record
    return ComparisonRow(
        type=type_of(run),
        sparsity=run.sparsity,
        nonzeros=record.nonzeros,
        validation_perplexity=record.validation_perplexity,
        test_perplexity=record.test_perplexity,
        command=record.command,
        weights=record.weights,
        finished=record.finished,
        folder=str(run.folder),
    )


def _points(runs: Sequence[Run[Record]]) -> tuple[list[Point], str]:
    """A point a run, and what it shows: the test perplexity if every run was tested, else the validation perplexity; none for a diverged run."""
    tested = all(run.record.test_perplexity is not None or run.record.finished for run in runs)
    points = []
    for run in runs:
        perplexity = run.record.test_perplexity if tested else run.record.validation_perplexity
        if perplexity is not None and run.record.nonzeros:
            label = run.record.type if run.dense else short_name(run)
            points.append(Point(label, run.record.nonzeros, perplexity, series_of(run), run.record.finished))
    return points, "test perplexity" if tested else "validation perplexity"

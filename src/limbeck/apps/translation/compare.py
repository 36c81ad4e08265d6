"""Translation runs side by side: the table of sparsity, sizes and BLEU, as NeurST's page has it, and its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field

from limbeck.apps import compare as shared
from limbeck.apps.compare import Comparison, Reader, Run, curves, series_of, short_name, type_of, unfinished_note, write
from limbeck.apps.figures import Axis, Point, epoch_figure, size_figure
from limbeck.errors import require
from limbeck.summaries.render import Column, Table, fixed, percent, thousands


class Tested(BaseModel):
    """BLEU of a test, in percent."""

    bleu: float
    tokenised_bleu: float


class Record(shared.Record):
    """What ``run.json`` of a translation says of its average; None until it is measured."""

    validation_bleu: float | None = None
    validation_tokenised_bleu: float | None = None
    target_sparsity: float | None = 0.0
    tests: dict[str, Tested] = Field(default_factory=dict)


READER = Reader("translate", Record, "bleu")


@dataclass(frozen=True)
class ComparisonRow:
    """A row; BLEU of what a run has not measured is None, or not there.

    ``target`` is the sparsity that was asked of the pruned weights, ``sparsity`` that of all weights of two dimensions or more.
    """

    name: str
    type: str
    target: float | None
    sparsity: float
    nonzeros: int
    validation: float | None
    validation_tokenised: float | None
    tests: dict[str, float]
    tests_tokenised: dict[str, float]
    command: str
    weights: int
    finished: bool
    folder: str


def compare(runs: Sequence[Path], out: Path) -> Comparison[Record]:
    """Read run folders; write the table (``table.md``, ``table.csv``) and two figures, each as PNG and SVG, into ``out``.

    The figures are ``bleu_size``, BLEU of the first test against non-zeros, and ``bleu_epochs``, that of the validation epoch by epoch.

    Raises ``DataError`` for a folder that is no run or whose files are damaged and ``MissingExtraError`` without matplotlib; both before
    anything is written.
    """
    require("matplotlib", "all")
    read = READER.read_all(runs)
    table = table_of(read)
    points, measure = _points(read)
    figures = {
        "bleu_size": size_figure(points, measure, Axis("BLEU against model size", higher=True, least=2.0)),
        "bleu_epochs": epoch_figure(
            curves(read, lambda epoch: epoch.measure), "validation BLEU", "BLEU of the validation, epoch by epoch", whole=False
        ),
    }
    return Comparison(read, table, write(out, table, figures))


def table_of(runs: Sequence[Run[Record]]) -> Table:
    """A row a run, and two columns for each test: BLEU of text as it is, and of Moses' tokens."""
    names = list(dict.fromkeys(name for run in runs for name in run.record.tests))
    columns = (
        Column("Run", "name"),
        Column("Type", "type"),
        Column("Target", "target", percent),
        Column("Sparsity", "sparsity", percent),
        Column("NNZ", "nonzeros", thousands),
        Column("dev", "validation", fixed(2)),
        *(Column(name, "tests", fixed(2), key=name) for name in names),
        Column("dev, tokenised", "validation_tokenised", fixed(2)),
        *(Column(f"{name}, tokenised", "tests_tokenised", fixed(2), key=name) for name in names),
        Column("Command line", "command", fold=True),
    )
    title = "BLEU and size (target: of the pruned weights; NNZ: non-zero weights, tied ones counted once; detokenised unless it is said)"
    return Table(title, columns, tuple(map(_row, runs)), notes=(*unfinished_note(runs), *_dense_notes(runs)))


def _row(run: Run[Record]) -> ComparisonRow:
    record = run.record
    return ComparisonRow(
        name=run.folder.name,
        type=type_of(run),
        target=record.target_sparsity,
        sparsity=run.sparsity,
        nonzeros=record.nonzeros,
        validation=record.validation_bleu,
        validation_tokenised=record.validation_tokenised_bleu,
        tests={name: found.bleu for name, found in record.tests.items()},
        tests_tokenised={name: found.tokenised_bleu for name, found in record.tests.items()},
        command=record.command,
        weights=record.weights,
        finished=record.finished,
        folder=str(run.folder),
    )


def _dense_notes(runs: Sequence[Run[Record]]) -> tuple[str, ...]:
    """What pruning cost at most, on the first test that all of a dense run's type have."""
    dense = next((run for run in runs if run.dense and run.record.tests), None)
    if dense is None:
        return ()
    name = next(iter(dense.record.tests))
    losses = [
        (dense.record.tests[name].bleu - run.record.tests[name].bleu, run.folder.name)
        for run in runs
        if not run.dense and run.record.type == dense.record.type and name in run.record.tests
    ]
    if not losses:
        return ()
    most, worst = max(losses)
    if round(most, 2) <= 0:
        return (f"Pruning costs no BLEU on {name}: {worst} comes nearest to {dense.folder.name}, {abs(most):.2f} above it.",)
    return (f"Pruning costs {most:.2f} BLEU on {name} at most ({worst}), against {dense.folder.name}.",)


def _points(runs: Sequence[Run[Record]]) -> tuple[list[Point], str]:
    """A point a run, and what it shows: BLEU of the first test that every run has, else of the validation."""
    names = [name for name in (runs[0].record.tests if runs else ()) if all(name in run.record.tests for run in runs)]
    points = []
    for run in runs:
        bleu = run.record.tests[names[0]].bleu if names else run.record.validation_bleu
        if bleu is not None and run.record.nonzeros:
            label = run.record.type if run.dense else short_name(run)
            points.append(Point(label, run.record.nonzeros, bleu, series_of(run), run.record.finished))
    return points, f"BLEU of {names[0]}" if names else "BLEU of the validation"

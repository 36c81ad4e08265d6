"""Runs of image classifiers side by side: one table of sizes, accuracy, times and files, and its pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from limbeck.apps import compare as shared
from limbeck.apps.compare import Comparison, Reader, Run, curves, series_of, short_name, type_of, unfinished_note, write
from limbeck.apps.figures import Axis, Point, epoch_figure, size_figure
from limbeck.apps.images.measured import LATENCY_BATCHES, Measured, sizes, time_in_turns
from limbeck.apps.images.session import load_trained
from limbeck.apps.loop import device_name
from limbeck.errors import require
from limbeck.summaries.render import Column, Table, fixed, percent, thousands


class Record(shared.Record):
    """Percentages are None until they are measured."""

    data: str
    validation_top1: float | None = None
    test_top1: float | None = None
    test_top5: float | None = None

    @property
    def top1(self) -> float | None:
        """Of the test, or, before it, of the validation."""
        return self.validation_top1 if self.test_top1 is None else self.test_top1


READER = Reader("images", Record, "top1", ("validation", "test"))


@dataclass(frozen=True)
class ComparisonRow:
    """A row of the table. Top-1 and top-5 are percentages, ``difference`` is in points of top-1, times are milliseconds a batch."""

    name: str
    type: str
    sparsity: float
    weights: int
    nonzeros: int
    kept: float | None
    """Non-zero weights, as a fraction of the weights of the dense run."""
    parameters: int
    macs: int | None
    top1: float | None
    difference: float | None
    """Against the dense run of the same model on the same images; None where there is none."""
    top5: float | None
    latency_1: float | None
    latency_64: float | None
    spread: float | None
    """The largest distance of a quartile from its median, as a fraction."""
    bytes: int
    deflated: int
    command: str
    finished: bool
    folder: str


COLUMNS = (
    Column("Run", "name"),
    Column("Type", "type"),
    Column("Sparsity", "sparsity", percent),
    Column("Weights", "weights", thousands),
    Column("NNZ", "nonzeros", thousands),
    Column("Kept", "kept", percent),
    Column("MACs", "macs", thousands),
    Column("Top-1", "top1", fixed(2)),
    Column("vs dense", "difference", lambda points: f"{points:+.2f}"),
    Column("Top-5", "top5", fixed(2)),
    Column("ms, batch 1", "latency_1", fixed(2)),
    Column("ms, batch 64", "latency_64", fixed(2)),
    Column("Bytes", "bytes", thousands),
    Column("Deflated", "deflated", thousands),
    Column("Command line", "command", fold=True),
)


def compare(runs: Sequence[Path], out: Path, device: torch.device, latency: bool = True) -> Comparison[Record]:
    """Read run folders and their best networks, time these in turns, and write a table and pictures into ``out``.

    The pictures, each as PNG and SVG, are ``top1_size`` (top-1 against non-zeros), ``top1_macs`` and, where times were measured, ``top1_latency``
    (of a batch of 64), then ``sparsity_epochs`` and ``top1_epochs``.

    Raises ``DataError`` for a folder that is no run or whose files are damaged and ``MissingExtraError`` without matplotlib; both before
    anything is written.
    """
    require("matplotlib", "all")
    read = READER.read_all(runs)
    rows = tuple(_rows(read, device, LATENCY_BATCHES if latency else ()))
    title = "Accuracy and cost (NNZ: non-zero weights; kept: NNZ of the dense run's weights; MACs of one image)"
    table = Table(title, COLUMNS, rows, notes=tuple(_notes(rows, read, device)))
    draw: dict[str, tuple[str, Callable[[ComparisonRow], float | None]]] = {
        "top1_size": ("non-zero weights", lambda row: row.nonzeros),
        "top1_macs": ("MACs of an image", lambda row: row.macs),
        "top1_latency": ("milliseconds of a batch of 64", lambda row: row.latency_64),
    }
    figures = {
        name: size_figure(points, "top-1 (%)", Axis(f"Top-1 against {size}", size, higher=True, least=2.0))
        for name, (size, value) in draw.items()
        if (points := list(_points(read, rows, value)))
    }
    sparsities, accuracies = curves(read, lambda epoch: 100 * epoch.sparsity), curves(read, lambda epoch: epoch.measure)
    figures["sparsity_epochs"] = epoch_figure(sparsities, "sparsity (%)", "Sparsity of the model, epoch by epoch")
    figures["top1_epochs"] = epoch_figure(accuracies, "top-1 (%)", "Top-1, epoch by epoch", whole=False)
    return Comparison(read, table, write(out, table, figures))


def _rows(runs: Sequence[Run[Record]], device: torch.device, batches: Sequence[int]) -> Iterator[ComparisonRow]:
    names = [run.folder.name for run in runs]
    networks = {str(run.folder): load_trained(run.folder, device) for run in runs}
    timed = time_in_turns(networks, device, batches)
    for run in runs:
        name = str(run.folder)
        saved = networks[name]
        measured = sizes(saved.model, saved.shape, device, {batch: found[name] for batch, found in timed.items()})
        yield _row(run, run.folder.name if names.count(run.folder.name) == 1 else name, measured, twin(run, runs))


def twin(run: Run[Record], runs: Sequence[Run[Record]]) -> Run[Record] | None:
    """The dense run of the same model on the same images, the best of several; None where there is none."""
    alike = [other for other in runs if other.dense and (other.record.type, other.record.data) == (run.record.type, run.record.data)]
    tested = [other for other in alike if other.record.top1 is not None]
    return max(tested, key=lambda other: other.record.top1 or 0.0, default=None)


def _row(run: Run[Record], name: str, measured: Measured, dense: Run[Record] | None) -> ComparisonRow:
    record = run.record
    theirs = None if dense is None or dense is run else dense.record.top1
    times = measured.latency
    return ComparisonRow(
        name=name,
        type=type_of(run),
        sparsity=measured.sparsity,
        weights=measured.weights,
        nonzeros=measured.nonzeros,
        kept=None if dense is None else measured.nonzeros / dense.record.weights,
        parameters=measured.parameters,
        macs=measured.macs,
        top1=record.top1,
        difference=None if record.top1 is None or theirs is None else record.top1 - theirs,
        top5=record.test_top5,
        latency_1=times[1].median if 1 in times else None,
        latency_64=times[64].median if 64 in times else None,
        spread=max((time.spread for time in times.values()), default=None),
        bytes=measured.bytes,
        deflated=measured.deflated,
        command=record.command,
        finished=record.finished,
        folder=str(run.folder),
    )


def _notes(rows: Sequence[ComparisonRow], runs: Sequence[Run[Record]], device: torch.device) -> Iterator[str]:
    yield from unfinished_note(runs)
    validated = [run.folder.name for run in runs if run.record.test_top1 is None and run.record.top1 is not None]
    if validated:
        yield f"Top-1 of the validation, for want of a test: {', '.join(validated)}."
    spreads = [row.spread for row in rows if row.spread is not None]
    if spreads:
        yield f"Times are medians, the networks taken in turns; half of the times lie within {max(spreads):.1%} of them: {device_name(device)}."
    yield "Bytes: the tensors as a safetensors file; deflated: the same as zip or gzip shrink it."


def _points(runs: Sequence[Run[Record]], rows: Sequence[ComparisonRow], size: Callable[[ComparisonRow], float | None]) -> Iterator[Point]:
    """A point a run that has both size and accuracy."""
    for run, row in zip(runs, rows, strict=True):
        place = size(row)
        if place and row.top1 is not None:
            label = row.name if run.dense else f"{row.name}: {short_name(run)}"
            yield Point(label, place, row.top1, series_of(run), run.record.finished)

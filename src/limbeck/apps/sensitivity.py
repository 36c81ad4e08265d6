"""A sensitivity analysis as a job: a folder with its table, which a second call goes on with, its settings, and its picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.apps import figures
from limbeck.apps.loop import write_json
from limbeck.apps.progress import Progress
from limbeck.apps.sensitivity_figure import sensitivity_figure
from limbeck.errors import DataError
from limbeck.sensitivity import Evaluate, Group, Row, append_rows, read_rows, sensitivity
from limbeck.sensitivity.scan import Follow
from limbeck.summaries.render import Column, Table, fixed

TABLE, SETTINGS, PICTURE = "sensitivity.csv", "sensitivity.json", "sensitivity"
POINT = 1.0
"""A loss of accuracy, in percent, up to which a level counts as harmless in the overview."""


@dataclass(frozen=True)
class Analysis:
    """What is measured: each of ``names`` at each of ``levels``; ``settings`` are what two tables must share to be one."""

    names: Sequence[str]
    levels: Sequence[float]
    group: Group
    settings: Mapping[str, Any]

    def run(self, model: nn.Module, evaluate: Evaluate, folder: Path, progress: Progress, follow: Follow = dict) -> list[Row]:
        """Measure what the folder's table lacks, point by point; the rows of these names and levels, in their order.

        Raises ``DataError`` when the folder holds an analysis with other settings.
        """
        self._claim(folder)
        table = folder / TABLE
        wanted = [(name, level) for name in self.names for level in self.levels]
        known = [row for row in read_rows(table) if (row.parameter, row.sparsity) in set(wanted)]
        progress.begin("sensitivity", total=len(wanted), done=len(known))
        for row in sensitivity(model, self.names, self.levels, self.group, evaluate, known, follow):
            append_rows(table, [row])
            known.append(row)
            progress.advance()
            if row.sparsity == self.levels[-1]:
                progress.show(asdict(row))
        places = {point: place for place, point in enumerate(wanted)}
        return sorted(known, key=lambda row: places[row.parameter, row.sparsity])

    def _claim(self, folder: Path) -> None:
        settings = {"group": self.group, **self.settings}
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / SETTINGS
        if path.exists():
            held = json.loads(path.read_text(encoding="utf-8"))
            other = [f"{key} {held.get(key)}, not {value}" for key, value in settings.items() if held.get(key) != value]
            if other:
                raise DataError(f"{folder} holds an analysis with {'; '.join(other)}; give the same to go on with it, or another --out")
        write_json(path, settings)


def draw(rows: Sequence[Row], title: str, folder: Path) -> tuple[Path, Path]:
    """Write the picture, as PNG and SVG."""
    return figures.save(sensitivity_figure(rows, title), folder / PICTURE)


@dataclass(frozen=True)
class OverviewRow:
    """One parameter in the overview."""

    parameter: str
    harmless: float
    """The largest fraction of its units up to which none costs more than a point of accuracy."""
    highest: float
    """The largest fraction that was pruned."""
    top1: float
    """There."""


OVERVIEW = (
    Column("Parameter", "parameter"),
    Column("Harmless up to (%)", "harmless", fixed(1), scale=100),
    Column("Pruned at most (%)", "highest", fixed(1), scale=100),
    Column("Top-1 there (%)", "top1", fixed(2)),
)


def overview(rows: Sequence[Row]) -> Table:
    """How far each parameter can be pruned on its own.

    >>> overview([Row("fc.weight", level, top1, 99.0, 0.3, level) for level, top1 in ((0.0, 90.0), (0.5, 89.5), (0.9, 60.0))]).cells
    [['fc.weight', '50.0', '90.0', '60.00']]
    """
    dense = next((row.top1 for row in rows if row.sparsity == 0), None)
    found = []
    for name in dict.fromkeys(row.parameter for row in rows):
        own = sorted((row for row in rows if row.parameter == name), key=lambda row: row.sparsity)
        harmless = 0.0
        for row in own:
            if dense is None or not row.top1 >= dense - POINT:
                break
            harmless = row.pruned
        found.append(OverviewRow(name, harmless, own[-1].pruned, own[-1].top1))
    note = (
        ""
        if dense is None
        else f"the dense model has a top-1 of {dense:.2f} %; harmless: {POINT:g} point below it at most, without retraining"
    )
    return Table("Sensitivity, one parameter pruned at a time", OVERVIEW, tuple(found), notes=(note,) if note else ())

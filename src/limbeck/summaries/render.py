"""Rows in, text out: one table as rich, plain text, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as RichTable

NOTHING = "-"
_FOLDED_WIDTH = 30


def fixed(digits: int) -> Callable[[float], str]:
    """A number with so many decimals.

    >>> fixed(2)(87.491)
    '87.49'
    """
    return lambda number: f"{number:.{digits}f}"


def thousands(number: int) -> str:
    """An integer with separators.

    >>> thousands(7295600)
    '7,295,600'
    """
    return f"{number:,}"


def percent(fraction: float) -> str:
    """A fraction in percent with one decimal where it needs one; only all is 100 %.

    >>> percent(0.0), percent(0.80391), percent(0.9), percent(0.99999)
    ('0%', '80.4%', '90%', '>99.9%')
    """
    rounded = round(100 * fraction, 1)
    return ">99.9%" if rounded >= 100 > 100 * fraction else f"{rounded:g}%"


@dataclass(frozen=True)
class Column:
    """A heading, the field of a row that stands under it, how people read it, and whether it may be folded in a narrow terminal.

    ``key`` chooses an entry of a field that is a mapping, which may lack it.
    """

    title: str
    field: str
    show: Callable[[Any], str] | None = None
    scale: int = 1
    fold: bool = False
    key: str | None = None

    def value(self, row: object) -> Any:
        """The number or the text for machines."""
        held = getattr(row, self.field)
        held = held if self.key is None else held.get(self.key)
        return held if held is None or self.scale == 1 else round(held * self.scale, 10)

    def text(self, row: object) -> str:
        """The text for people."""
        value = self.value(row)
        return NOTHING if value is None else self.show(value) if self.show else str(value)


@dataclass(frozen=True)
class Table:
    """Rows (frozen dataclasses) under columns, with a last row that sums them up and notes below."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Any, ...]
    total: Any = None
    notes: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[Any, ...]:
        """All rows, the total last."""
        return self.rows if self.total is None else (*self.rows, self.total)

    @property
    def cells(self) -> list[list[str]]:
        """The texts of all lines."""
        return [[column.text(row) for column in self.columns] for row in self.lines]


Report = Table | str


class _Tied(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...


def tied_notes(rows: Sequence[_Tied]) -> tuple[str, ...]:
    """A line for each row that stands for several names."""
    return tuple(f"{row.name} is tied with {', '.join(row.aliases)}: one tensor, counted once" for row in rows if row.aliases)


def to_text(report: Report) -> str:
    """A table as wide as it needs, for files and pipes; a text stays what it is."""
    if isinstance(report, str):
        return report
    heads = [column.title for column in report.columns]
    widths = [max(map(len, texts)) for texts in zip(heads, *report.cells, strict=True)]
    rule = "  ".join("-" * width for width in widths)
    body = [_spread(report.columns, texts, widths) for texts in report.cells]
    if report.total is not None:
        body.insert(-1, rule)
    notes = ("", *report.notes) if report.notes else ()
    return "\n".join([report.title, "", _spread(report.columns, heads, widths), rule, *body, *notes])


def to_markdown(table: Table) -> str:
    r"""A Markdown table.

    >>> @dataclass(frozen=True)
    ... class Row:
    ...     name: str
    ...     count: int
    >>> print(to_markdown(Table("Words", (Column("Name", "name"), Column("Count", "count", thousands)), (Row("a|b", 1200),))))
    | Name | Count |
    |------|------:|
    | a\|b | 1,200 |
    """
    heads = [column.title for column in table.columns]
    cells = [[text.replace("\\", "\\\\").replace("|", "\\|") for text in texts] for texts in table.cells]
    widths = [max(3, *map(len, texts)) for texts in zip(heads, *cells, strict=True)]
    rule = "|".join("-" * (width + 1) + (":" if column.show else "-") for column, width in zip(table.columns, widths, strict=True))
    lines = [_spread(table.columns, texts, widths, " | ", full=True) for texts in (heads, *cells)]
    marked = [f"| {line} |" for line in lines]
    return "\n".join([marked[0], f"|{rule}|", *marked[1:], *(line for note in table.notes for line in ("", note))])


def to_csv(table: Table) -> str:
    """Comma-separated values: plain numbers in full, no separators; nothing where there is no value."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow([column.title for column in table.columns])
    writer.writerows([column.value(row) for column in table.columns] for row in table.lines)
    return target.getvalue()


def to_json(report: Report) -> str:
    """``{"rows": [{field: value}], "total": {...}, "notes": [...]}``; sparsities as fractions; what is not finite as null; a text as ``{"text": ...}``."""
    return json.dumps({"text": report} if isinstance(report, str) else as_tree(report), indent=2, allow_nan=False)


def save(report: Report, path: Path) -> None:
    """Write a report as its file's name says: ``.csv``, ``.json``, ``.md``, else plain text; a text is no CSV and no Markdown table, and stays text."""
    if path.suffix == ".json":
        written = to_json(report)
    elif isinstance(report, str) or path.suffix not in (".csv", ".md"):
        written = to_text(report)
    else:
        written = to_csv(report) if path.suffix == ".csv" else to_markdown(report)
    path.write_text(written.rstrip("\n") + "\n", encoding="utf-8")


def as_tree(table: Table) -> dict[str, Any]:
    """The table as plain dicts and lists, ready for JSON."""
    tree: dict[str, Any] = {"rows": [_record(row) for row in table.rows]}
    if table.total is not None:
        tree["total"] = _record(table.total)
    return {**tree, "notes": list(table.notes)}


def to_rich(table: Table) -> RichTable:
    """A table for the terminal; only the columns that may be folded are."""
    drawn = RichTable(title=escape(table.title), title_justify="left")
    cells = table.cells
    for index, column in enumerate(table.columns):
        widest = max(len(texts[index]) for texts in ([column.title for column in table.columns], *cells))
        least = min(widest, _FOLDED_WIDTH) if column.fold else widest
        drawn.add_column(escape(column.title), justify="right" if column.show else "left", min_width=least, overflow="fold")
    for index, texts in enumerate(cells):
        drawn.add_row(*map(escape, texts), end_section=table.total is not None and index == len(cells) - 2)
    return drawn


def show(report: Report, as_json: bool = False, console: Console | None = None) -> None:
    """Print a report: JSON where asked for, a drawn table on a terminal, plain text into a pipe."""
    console = console or Console()
    if as_json or isinstance(report, str) or not console.is_terminal:
        console.file.write((to_json(report) if as_json else to_text(report)) + "\n")
        return
    drawn, width = to_rich(report), console.width
    needed = Measurement.get(console, console.options.update(width=10_000), drawn).minimum
    console.width = max(width, needed)  # a table is never cut: one that is too wide for the terminal is wrapped by the terminal
    console.print(drawn)
    console.width = width
    for note in report.notes:
        console.print(note, markup=False, highlight=False)


def _spread(columns: Sequence[Column], texts: Sequence[str], widths: Sequence[int], between: str = "  ", full: bool = False) -> str:
    padded = [text.rjust(width) if column.show else text.ljust(width) for column, text, width in zip(columns, texts, widths, strict=True)]
    return between.join(padded) if full else between.join(padded).rstrip()


def _record(row: Any) -> dict[str, Any]:
    held = {field.name: getattr(row, field.name) for field in fields(row)}
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in held.items()}

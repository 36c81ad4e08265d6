"""The table of a sensitivity analysis: a row for each parameter at each level, and its CSV file, which grows point by point."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from limbeck.errors import DataError


@dataclass(frozen=True)
class Metrics:
    """What an evaluation gives: the accuracies in percent, the mean loss."""

    top1: float
    top5: float
    loss: float


@dataclass(frozen=True)
class Row:
    """One parameter pruned to a level, while all others are dense.

    ``sparsity`` is the level, a fraction of its units; ``pruned`` is the fraction that went, which is less where units are few: of 16 filters
    a level of 0.05 takes none.
    """

    parameter: str
    sparsity: float
    top1: float
    top5: float
    loss: float
    pruned: float

    @property
    def metrics(self) -> Metrics:
        """The numbers without where they were measured."""
        return Metrics(self.top1, self.top5, self.loss)


HEADER = tuple(field.name for field in fields(Row))


def parse_levels(text: str) -> tuple[float, ...]:
    """``from:to:step``, both ends included, or a list, as fractions in rising order.

    >>> parse_levels("0:0.3:0.1"), parse_levels("0.9,0.5")
    ((0.0, 0.1, 0.2, 0.3), (0.5, 0.9))

    Raises ``DataError`` for what is neither, and for levels outside of [0, 1).
    """
    try:
        parts = [float(part) for part in text.split(":" if ":" in text else ",")]
    except ValueError:
        parts = []
    if ":" in text and len(parts) == 3 and parts[2] > 0:
        begin, end, step = parts
        parts = [round(begin + step * index, 10) for index in range(int((end - begin) / step + 1e-9) + 1)] if end >= begin else []
    elif ":" in text:
        parts = []
    if not parts or not all(0 <= level < 1 for level in parts):
        raise DataError(
            f"'{text}' is no range of levels: give from:to:step as in 0:0.95:0.05, or a list as in 0.3,0.5,0.9, from 0 and below 1"
        )
    return tuple(sorted(set(parts)))


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file; none where there is no file.

    A last line without its end was cut off by an interruption and does not count. Raises ``DataError`` for a file that is no such table.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
    if lines and tuple(lines[0]) != HEADER:
        raise DataError(f"{path} is no table of a sensitivity analysis: its first line is not {','.join(HEADER)}; name another folder")
    return [_row(path, number, line) for number, line in enumerate(lines[1:], 2)]


def _row(path: Path, number: int, line: Sequence[str]) -> Row:
    try:
        parameter, *numbers = line
        sparsity, top1, top5, loss, pruned = map(float, numbers)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: '{','.join(line)}' is not {','.join(HEADER)}; take the line out") from error
    return Row(parameter, sparsity, top1, top5, loss, pruned)


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows below those of a CSV file, which begins with its header, and have them on the disk; what an interruption cut off goes.

    >>> import tempfile
    >>> table = Path(tempfile.mkdtemp()) / "sensitivity.csv"
    >>> append_rows(table, [Row("fc.weight", 0.5, 91.0, 99.5, 0.25, 0.5)])
    >>> print(table.read_text(), end="")
    parameter,sparsity,top1,top5,loss,pruned
    fc.weight,0.5,91.0,99.5,0.25,0.5
    """
    with path.open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)
        lines = [",".join(HEADER)] if file.tell() == 0 else []
        lines += [",".join(map(_cell, astuple(row))) for row in rows]
        file.write("".join(f"{line}\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else repr(value)

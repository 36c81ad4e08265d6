"""Faults and warnings of a schedule file: where each stands, what is wrong, what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from limbeck.errors import ScheduleError

Path = tuple[str | int, ...]
"""The way from the root of a file to one of its nodes: ``("policies", 3, "pruner")``."""


def spell(path: Path) -> str:
    """A path as it is printed; keys that are no plain words stand in brackets.

    >>> spell(("policies", 3, "pruner")), spell(("pruners", "fc", "levels", "0.weight"))
    ('policies[3].pruner', "pruners.fc.levels['0.weight']")
    """
    spelt = ""
    for key in path:
        if isinstance(key, int):
            spelt += f"[{key}]"
        elif re.fullmatch(r"[\w-]+", key):
            spelt += f".{key}" if spelt else key
        else:
            spelt += f"[{key!r}]"
    return spelt


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, or worth a warning; ``line`` counts from 1 and is None when the schedule did not come from a text.

    >>> str(Fault("no pruner named 'fine'; defined: rnn", ("policies", 3, "pruner"), 31))
    "line 31, policies[3].pruner: no pruner named 'fine'; defined: rnn"
    """

    message: str
    path: Path = ()
    line: int | None = None

    def __str__(self) -> str:
        where = ", ".join(([f"line {self.line}"] if self.line is not None else []) + ([spell(self.path)] if self.path else []))
        return f"{where}: {self.message}" if where else self.message


@dataclass
class Report:
    """All faults and warnings of one schedule, in the order of its lines.

    >>> report = Report("agp.yaml")
    >>> report.text()
    'agp.yaml: no faults'
    """

    source: str
    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the schedule may be built: no faults; warnings do not count."""
        return not self.faults

    def text(self) -> str:
        """The report as it is printed."""
        lines = self._block(self.faults, "fault") if self.faults else [f"{self.source}: no faults"]
        return "\n".join(lines + (self._block(self.warnings, "warning") if self.warnings else []))

    def warning_text(self) -> str:
        """The warnings alone, as they are printed."""
        return "\n".join(self._block(self.warnings, "warning"))

    def raise_if_faulty(self) -> None:
        """Raise ``ScheduleError`` with the whole text when there are faults."""
        if self.faults:
            raise ScheduleError(self.text(), map(str, _in_order(self.faults)))

    def to_json(self) -> dict[str, object]:
        """The report as plain data."""
        return {
            "file": self.source,
            "faults": [_as_row(fault) for fault in _in_order(self.faults)],
            "warnings": [_as_row(warning) for warning in _in_order(self.warnings)],
        }

    def _block(self, found: Sequence[Fault], word: str) -> list[str]:
        head = f"{self.source}: {len(found)} {word}{'s' if len(found) > 1 else ''}"
        return [head, *(f"  {fault}" for fault in _in_order(found))]


def _in_order(faults: Sequence[Fault]) -> list[Fault]:
    return sorted(faults, key=lambda fault: fault.line or 0)


def _as_row(fault: Fault) -> dict[str, object]:
    return {"line": fault.line, "path": spell(fault.path), "message": fault.message}

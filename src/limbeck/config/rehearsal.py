"""What a rehearsal found, parameter by parameter and in all; as a table and as plain data too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from limbeck.summaries.render import Column, Table, thousands


@dataclass(frozen=True)
class Cost:
    """The elements of the parameters of two dimensions or more, and the MACs of a forward pass."""

    weights: int
    macs: int


@dataclass(frozen=True)
class RehearsedRow:
    """One parameter: its shape, what thinning makes of that, and how many of its elements are not masked; None: depends on data."""

    name: str
    shape: tuple[int, ...]
    thinned: tuple[int, ...]
    nonzeros: int | None

    @property
    def weights(self) -> int:
        """How many elements there are after thinning."""
        return math.prod(self.thinned)

    @property
    def sparsity(self) -> float | None:
        """The fraction of these that is zero."""
        return None if self.nonzeros is None else 1 - self.nonzeros / self.weights if self.weights else 0.0

    @property
    def changed(self) -> bool:
        """Whether the schedule does anything to it."""
        return self.shape != self.thinned or self.nonzeros != self.weights


@dataclass(frozen=True)
class _Total:
    name: str
    shape: str
    thinned: str
    weights: int
    nonzeros: int | None
    sparsity: float | None


@dataclass(frozen=True)
class Rehearsal:
    """Every parameter of the model, tied ones once, and what the model costs before and after; None depends on data."""

    rows: tuple[RehearsedRow, ...]
    before: Cost
    after: Cost | None
    thinnings: int = 0
    data_dependent: tuple[str, ...] = ()
    """The policies that were left out, because what they do depends on data."""
    notes: tuple[str, ...] = ()
    """What thinning left, masks that disagree, and operations of which no MACs are counted."""

    @property
    def nonzeros(self) -> int | None:
        """The elements of the parameters of two dimensions or more that are neither thinned out nor zero."""
        counts = [row.nonzeros for row in self.rows if len(row.shape) >= 2]
        return None if None in counts or self.after is None else sum(count for count in counts if count is not None)

    @property
    def sparsity(self) -> float | None:
        """The fraction of zeros in the weights that are left after thinning."""
        if self.nonzeros is None or self.after is None:
            return None
        return 1 - self.nonzeros / self.after.weights if self.after.weights else 0.0

    @property
    def weights_kept(self) -> float | None:
        """The weights that are not zero, as a fraction of all that there were."""
        return None if self.nonzeros is None or not self.before.weights else self.nonzeros / self.before.weights

    @property
    def macs_kept(self) -> float | None:
        """The MACs after, as a fraction of those before; zeros that stay in a tensor are computed with."""
        return None if self.after is None or not self.before.macs else self.after.macs / self.before.macs

    def table(self) -> Table:
        """The weights that the schedule changes, all others in one line, and the total."""
        rows = [row for row in self.rows if len(row.shape) >= 2]
        shown = [row for row in rows if row.changed]
        others: list[Any] = [row for row in rows if not row.changed]
        if len(others) > 1:
            dense = sum(row.weights for row in others)
            others = [_Total(f"{len(others)} others", "", "", dense, dense, 0.0)]
        total = _Total("Total", "", "", sum(row.weights for row in rows), self.nonzeros, self.sparsity)
        return Table("Rehearsal on random weights", COLUMNS, (*shown, *others), total, tuple(self._lines()))

    def _lines(self) -> list[str]:
        weights, macs = self.before.weights, self.before.macs
        lines = [f"Weights kept: {_share(self.nonzeros, weights)}"]
        lines.append(f"Compute kept: {_share(None if self.after is None else self.after.macs, macs)} MACs")
        lines += [f"depends on data, and was left out: {policy}" for policy in self.data_dependent]
        return [*lines, *self.notes]

    def to_json(self) -> dict[str, Any]:
        """The rehearsal as plain data."""
        parameters = {
            row.name: {"shape": list(row.shape), "thinned": list(row.thinned), "nonzeros": row.nonzeros, "sparsity": row.sparsity}
            for row in self.rows
        }
        total = {
            "weights_before": self.before.weights,
            "weights_after": None if self.after is None else self.after.weights,
            "nonzeros": self.nonzeros,
            "sparsity": self.sparsity,
            "weights_kept": self.weights_kept,
            "macs_before": self.before.macs,
            "macs_after": None if self.after is None else self.after.macs,
            "macs_kept": self.macs_kept,
        }
        return {
            "parameters": parameters,
            "total": total,
            "thinnings": self.thinnings,
            "data_dependent": list(self.data_dependent),
            "notes": list(self.notes),
        }


def _share(part: int | None, whole: int) -> str:
    """A part of a whole in words.

    >>> _share(12_335_296, 25_502_912)
    '48.37 %, 12,335,296 of 25,502,912'
    """
    return f"depends on data, of {whole:,}" if part is None else f"{100 * part / whole if whole else 100:.2f} %, {part:,} of {whole:,}"


def _size(shape: tuple[int, ...] | str) -> str:
    return shape if isinstance(shape, str) else "x".join(map(str, shape))


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


COLUMNS = (
    Column("Parameter", "name"),
    Column("Shape", "shape", _size),
    Column("Thinned", "thinned", _size),
    Column("Weights", "weights", thousands),
    Column("Non-zero", "nonzeros", thousands),
    Column("Sparsity (%)", "sparsity", _percent),
)

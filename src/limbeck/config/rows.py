"""What a plan holds: every parameter with its timeline, what is pruned together, and the totals; as plain data too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.schedules import Unit


@dataclass(frozen=True)
class Firing:
    """One renewal of one parameter's mask; ``sparsity`` and ``nonzeros`` are None when they depend on data."""

    unit: Unit
    time: int
    sparsity: float | None
    nonzeros: int | None


@dataclass(frozen=True)
class Row:
    """One parameter: what happens to it, and its non-zeros in the end (None: depends on data).

    A mask that is not ``lasting`` is discarded after the firing, so that in the end the parameter is dense.
    """

    name: str
    shape: tuple[int, ...]
    aliases: tuple[str, ...] = ()
    timeline: tuple[Firing, ...] = ()
    lasting: bool = True

    @property
    def numel(self) -> int:
        """How many elements the parameter has."""
        return math.prod(self.shape)

    @property
    def nonzeros(self) -> int | None:
        """How many elements are kept after the last firing."""
        return self.timeline[-1].nonzeros if self.timeline and self.lasting else self.numel

    @property
    def data_dependent(self) -> bool:
        """Whether what is kept depends on data at any firing."""
        return any(firing.nonzeros is None for firing in self.timeline)


@dataclass(frozen=True)
class Pool:
    """Parameters that a policy prunes together: the data decides where, but the total is known."""

    names: tuple[str, ...]
    numel: int
    timeline: tuple[Firing, ...]
    lasting: bool = True
    """Whether the last firing stands for all of them in the end: no other policy renews one of them later."""

    @property
    def nonzeros(self) -> int | None:
        """How many elements are kept after the last firing."""
        return self.timeline[-1].nonzeros


@dataclass(frozen=True)
class Plan:
    """Every parameter of the model, tied ones once; the parameters that are pruned together; what is worth a warning."""

    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()
    pools: tuple[Pool, ...] = ()
    afterwards: tuple[str, ...] = ()
    """What the schedule has for the time after training."""

    @property
    def weights(self) -> int:
        """How many elements the parameters of two dimensions or more have."""
        return sum(row.numel for row in self._counted())

    @property
    def nonzeros(self) -> int | None:
        """How many of ``weights`` are kept in the end; None when that depends on data."""
        rows = {row.name: row for row in self._counted()}
        together = [pool for pool in self.pools if pool.lasting and rows.keys() >= set(pool.names)]
        single = rows.keys() - {name for pool in together for name in pool.names}
        kept = [rows[name].nonzeros for name in single] + [pool.nonzeros for pool in together]
        return None if None in kept else sum(count for count in kept if count is not None)

    @property
    def sparsity(self) -> float | None:
        """The fraction of ``weights`` that is dropped in the end; None when that depends on data."""
        return None if self.nonzeros is None or not self.weights else 1 - self.nonzeros / self.weights

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {
            "parameters": {row.name: _row_as_json(row) for row in self.rows},
            "pools": [_pool_as_json(pool) for pool in self.pools],
            "total": {"weights": self.weights, "nonzeros": self.nonzeros, "sparsity": self.sparsity},
            "warnings": list(self.warnings),
            "afterwards": list(self.afterwards),
        }

    def _counted(self) -> list[Row]:
        return [row for row in self.rows if len(row.shape) >= 2]


def _row_as_json(row: Row) -> dict[str, Any]:
    return {
        "shape": list(row.shape),
        "numel": row.numel,
        "aliases": list(row.aliases),
        "timeline": _timeline_as_json(row.timeline),
        "nonzeros": row.nonzeros,
        "data_dependent": row.data_dependent,
    }


def _pool_as_json(pool: Pool) -> dict[str, Any]:
    return {
        "parameters": list(pool.names),
        "numel": pool.numel,
        "timeline": _timeline_as_json(pool.timeline),
        "nonzeros": pool.nonzeros,
    }


def _timeline_as_json(timeline: Sequence[Firing]) -> list[dict[str, Any]]:
    return [{firing.unit: firing.time, "sparsity": firing.sparsity, "nonzeros": firing.nonzeros} for firing in timeline]

"""The 0.9 quantile of each tensor's absolute weights: the ``q`` of a ``BaiduRNNPruner``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from limbeck.names import named_parameters
from limbeck.stats import magnitude_quantile, weights
from limbeck.summaries.render import Column, Table, fixed, tied_notes

QUANTILE = 0.9


@dataclass(frozen=True)
class PercentileRow:
    """One weight tensor and its ``q``: the ``int(0.9 n)``-th smallest of its ``n`` absolute weights."""

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    q: float


COLUMNS = (Column("Name", "name"), Column("Shape", "shape"), Column("q", "q", fixed(5)))


def percentile_rows(model: nn.Module) -> list[PercentileRow]:
    """One row a parameter of two dimensions or more that has elements; tied parameters once.

    >>> layer = nn.Linear(5, 2)
    >>> _ = nn.init.constant_(layer.weight, -0.25)
    >>> percentile_rows(layer)
    [PercentileRow(name='weight', aliases=(), shape=(2, 5), q=0.25)]
    """
    return [
        PercentileRow(named.name, named.aliases, tuple(named.parameter.shape), magnitude_quantile(named.parameter, QUANTILE))
        for named in weights(named_parameters(model).values())
        if named.parameter.numel()
    ]


def percentile_table(model: nn.Module) -> Table:
    """The rows of ``percentile_rows``; measure them on a trained dense model before pruning it."""
    rows = percentile_rows(model)
    return Table("0.9 quantile of the absolute weights: the q of a BaiduRNNPruner", COLUMNS, tuple(rows), notes=tied_notes(rows))

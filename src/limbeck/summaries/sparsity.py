"""The weights-sparsity table: how many weights are zero, and in which shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from limbeck.names import Named, named_parameters
from limbeck.stats import moments, nonzero_groups, sparsity, weights
from limbeck.summaries.render import Column, Table, fixed, thousands, tied_notes
from limbeck.tile import CHANNELS, FILTERS, KERNELS, Tile


@dataclass(frozen=True)
class SparsityRow:
    """One weight tensor, or the total of all; the sparsities are fractions, None where a total means nothing.

    ``columns`` and ``rows`` are those of the stored matrix: ``rows`` of a ``Linear`` are its outputs, ``columns`` its inputs. They are 0 for a
    convolution; ``channels`` (inputs), ``kernels`` and ``filters`` are 0 for a matrix.
    """

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...] | None
    weights: int
    nonzeros: int
    columns: float | None
    rows: float | None
    channels: float | None
    kernels: float | None
    filters: float | None
    sparsity: float
    std: float | None
    mean: float | None
    abs_mean: float | None


COLUMNS = (
    Column("Name", "name"),
    Column("Shape", "shape"),
    Column("NNZ (dense)", "weights", thousands),
    Column("NNZ (sparse)", "nonzeros", thousands),
    Column("Cols (%)", "columns", fixed(5), scale=100),
    Column("Rows (%)", "rows", fixed(5), scale=100),
    Column("Ch (%)", "channels", fixed(5), scale=100),
    Column("2D (%)", "kernels", fixed(5), scale=100),
    Column("3D (%)", "filters", fixed(5), scale=100),
    Column("Fine (%)", "sparsity", fixed(5), scale=100),
    Column("Std", "std", fixed(5)),
    Column("Mean", "mean", fixed(5)),
    Column("Abs-Mean", "abs_mean", fixed(5)),
)


def sparsity_rows(model: nn.Module) -> list[SparsityRow]:
    """One row a parameter of two dimensions or more; tied parameters once, under the first name.

    >>> layer = nn.Linear(2, 2)
    >>> _ = layer.weight.data[:, 0].zero_()
    >>> [(row.name, row.nonzeros, row.columns, row.rows, row.sparsity) for row in sparsity_rows(layer)]
    [('weight', 2, 0.5, 0.0, 0.5)]
    """
    return [_row(named) for named in weights(named_parameters(model).values())]


def total(rows: Sequence[SparsityRow]) -> SparsityRow:
    """The sum of the rows: every weight counts the same, so large tensors weigh more."""
    count, nonzeros = sum(row.weights for row in rows), sum(row.nonzeros for row in rows)
    zeros = (count - nonzeros) / count if count else 0.0
    return SparsityRow("Total sparsity:", (), None, count, nonzeros, None, None, None, None, None, zeros, None, None, None)


def sparsity_table(model: nn.Module) -> Table:
    """The rows of ``sparsity_rows`` under the ancestor's thirteen headings, with the total and a line on what is tied."""
    rows = sparsity_rows(model)
    summed = total(rows)
    notes = (*tied_notes(rows), f"Total sparsity: {100 * summed.sparsity:.2f}")
    return Table("Parameters", COLUMNS, tuple(rows), total=summed, notes=notes)


def _row(named: Named) -> SparsityRow:
    tensor = named.parameter.detach()
    matrix = tensor.dim() == 2

    def zeros(tile: Tile, applies: bool) -> float:
        return sparsity(tensor, tile) if applies else 0.0

    count, nonzeros, measured = tensor.numel(), nonzero_groups(tensor), moments(tensor)
    return SparsityRow(
        name=named.name,
        aliases=named.aliases,
        shape=tuple(tensor.shape),
        weights=count,
        nonzeros=nonzeros,
        columns=zeros(CHANNELS, matrix),
        rows=zeros(FILTERS, matrix),
        channels=zeros(CHANNELS, not matrix),
        kernels=zeros(KERNELS, not matrix),
        filters=zeros(FILTERS, not matrix),
        sparsity=(count - nonzeros) / count if count else 0.0,
        std=measured.std,
        mean=measured.mean,
        abs_mean=measured.abs_mean,
    )

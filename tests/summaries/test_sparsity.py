"""The sparsity table: thirteen columns, rows as rows, tied tensors once, exact totals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.apps.lm.model import RNNModel
from limbeck.names import named_parameters
from limbeck.stats import weights
from limbeck.summaries import SUMMARIES
from limbeck.summaries.render import to_text
from limbeck.summaries.sparsity import sparsity_rows, sparsity_table, total


def language_model(size: int, tied: bool, vocabulary: int = 33_278) -> RNNModel:
    return RNNModel("LSTM", vocabulary, size, size, nlayers=2, dropout=0.0, tied=tied)


def test_the_columns_are_those_of_the_tutorial() -> None:
    """Distiller's language model tutorial prints these thirteen, after an index."""
    titles = [column.title for column in sparsity_table(nn.Linear(2, 2)).columns]
    assert titles == [
        *("Name", "Shape", "NNZ (dense)", "NNZ (sparse)", "Cols (%)", "Rows (%)", "Ch (%)", "2D (%)", "3D (%)", "Fine (%)"),
        *("Std", "Mean", "Abs-Mean"),
    ]


@pytest.mark.parametrize(
    ("size", "tied", "count"),
    [
        (200, True, 7_295_600),
        (650, True, 28_390_700),
        (1500, True, 85_917_000),
        (200, False, 13_951_200),
        (650, False, 50_021_400),
        (1500, False, 135_834_000),
    ],
)
def test_weights_of_the_tutorials_models(size: int, tied: bool, count: int) -> None:
    """28,390,700, 85,917,000 and 135,834,000 are printed in the tutorial; 33278 * s * (1 or 2) + 16 * s * s gives all six."""
    with torch.device("meta"):
        model = language_model(size, tied)
    assert sum(named.parameter.numel() for named in weights(named_parameters(model).values())) == count


def test_rows_are_rows_of_the_stored_matrix() -> None:
    """[3, 4]: row 0 is zero (1 of 3), columns 0 and 2 are (2 of 4), 9 of 12 elements are."""
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0, 0, 0], [0, 1, 0, -2], [0, 0, 0, 3]]))
    (row,) = sparsity_rows(layer)
    assert (row.name, row.shape, row.weights, row.nonzeros) == ("weight", (3, 4), 12, 3)
    assert (row.rows, row.columns, row.sparsity) == (1 / 3, 2 / 4, 9 / 12)
    assert (row.channels, row.kernels, row.filters) == (0, 0, 0)
    assert row.mean == pytest.approx(2 / 12)
    assert row.abs_mean == pytest.approx(6 / 12)
    assert row.std == pytest.approx(((14 - 12 * (2 / 12) ** 2) / 11) ** 0.5)


def test_structures_of_a_convolution() -> None:
    """[3 filters, 2 channels, 2, 2]: filter 0 and channel 1 are zero, so 4 of 6 kernels are; 18 of 24 elements are."""
    layer = nn.Conv2d(2, 3, 2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[1, 0] = torch.eye(2)
        layer.weight[2, 0] = 1.0
    (row,) = sparsity_rows(layer)
    assert (row.filters, row.channels, row.kernels, row.sparsity) == (1 / 3, 1 / 2, 4 / 6, 18 / 24)
    assert (row.rows, row.columns) == (0, 0)


def test_tied_tensors_count_once_and_say_so() -> None:
    table = sparsity_table(language_model(4, tied=True, vocabulary=10))
    assert [row.name for row in table.rows] == [
        "encoder.weight",
        *(f"rnn.weight_{kind}_l{layer}" for layer in (0, 1) for kind in ("ih", "hh")),
    ]
    assert table.rows[0].aliases == ("decoder.weight",)
    assert table.total.weights == 10 * 4 + 16 * 4 * 4
    assert table.notes[0] == "encoder.weight is tied with decoder.weight: one tensor, counted once"
    assert len(sparsity_rows(language_model(4, tied=False, vocabulary=10))) == 6


def test_the_total_weighs_every_weight_the_same() -> None:
    """90 of 100 and 0 of 300 zeros: 90 / 400 = 22.5 %, not the mean of 90 % and 0 %."""
    small, large = nn.Linear(10, 10, bias=False), nn.Linear(10, 30, bias=False)
    with torch.no_grad():
        small.weight.fill_(1.0)[1:] = 0.0
        large.weight.fill_(1.0)
    summed = total(sparsity_rows(nn.Sequential(small, large)))
    assert (summed.weights, summed.nonzeros, summed.sparsity) == (400, 310, 0.225)
    text = to_text(sparsity_table(nn.Sequential(small, large)))
    assert text.endswith("Total sparsity: 22.50")
    assert text.count("tied") == 0


def test_a_model_without_weights_has_an_empty_table() -> None:
    assert to_text(sparsity_table(nn.ReLU())).endswith("Total sparsity: 0.00")


def test_wrappers_do_not_show_in_names() -> None:
    assert sparsity_rows(nn.DataParallel(nn.Linear(2, 2)))[0].name == "weight"


def test_every_summary_reports_on_a_language_model() -> None:
    model = language_model(4, tied=True, vocabulary=10)
    assert set(SUMMARIES) == {"sparsity", "model", "modules", "percentile"}
    assert all("encoder" in to_text(summary(model)) for summary in SUMMARIES.values())
    assert SUMMARIES["model"](model) == str(model)

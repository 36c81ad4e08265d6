"""The q of a BaiduRNNPruner."""

from __future__ import annotations

import torch
from torch import nn

from limbeck.apps.lm.model import RNNModel
from limbeck.summaries.percentile import percentile_rows, percentile_table


def test_q_is_the_int_09_n_th_smallest_magnitude() -> None:
    """Magnitudes 1..15: int(.9 * 15) = int(13.5) = 13."""
    layer = nn.Linear(5, 3)
    with torch.no_grad():
        layer.weight.copy_(-torch.arange(15.0, 0.0, -1.0).reshape(3, 5))
    assert [(row.name, row.shape, row.q) for row in percentile_rows(layer)] == [("weight", (3, 5), 13.0)]


def test_tied_tensors_are_listed_once() -> None:
    table = percentile_table(RNNModel("GRU", 10, 4, 4, nlayers=1, dropout=0.0, tied=True))
    assert [row.name for row in table.rows] == ["encoder.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0"]
    assert table.notes == ("encoder.weight is tied with decoder.weight: one tensor, counted once",)

"""The module table."""

from __future__ import annotations

import torch
from torch import nn

from limbeck.apps.lm.model import RNNModel
from limbeck.summaries.modules import ModuleRow, module_rows, modules_table


def test_a_tied_language_model_counts_its_embedding_once() -> None:
    """10 * 4; two LSTM layers of 2 * (16 * 4 + 16) each; the decoder has only its bias left."""
    table = modules_table(RNNModel("LSTM", 10, 4, 4, nlayers=2, dropout=0.5, tied=True))
    assert table.rows == (
        ModuleRow("drop", "Dropout", 0),
        ModuleRow("encoder", "Embedding", 40),
        ModuleRow("rnn", "LSTM", 320),
        ModuleRow("decoder", "Linear", 10),
    )
    assert table.total.parameters == 370


def test_a_module_with_parameters_and_children_is_listed() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))
            self.inner = nn.Linear(3, 1)

    assert [(row.name, row.type, row.parameters) for row in module_rows(nn.DataParallel(Scaled()))] == [
        ("(model)", "Scaled", 3),
        ("inner", "Linear", 4),
    ]

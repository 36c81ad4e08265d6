"""The ancestor's LSTM of named parts and its arithmetic modules, by its names and call shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from limbeck.compat import distiller
from limbeck.compat.distiller.modules import DistillerLSTM, DistillerLSTMCell, EltwiseAdd, convert_model_to_distiller_lstm
from limbeck.errors import QuantizationError


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(10, 4)
        self.rnn: Any = nn.LSTM(4, 4, 2)
        self.decoder = nn.Linear(4, 10)

    def forward(self, words: torch.Tensor) -> Any:
        return self.decoder(self.rnn(self.encoder(words))[0])


def test_the_notebook_s_conversion_keeps_what_the_model_computes() -> None:
    model = LanguageModel()
    words = torch.randint(10, (5, 2))
    expected = model(words)
    converted = convert_model_to_distiller_lstm(model)
    assert converted is model
    torch.testing.assert_close(model(words), expected, rtol=0, atol=1e-6)
    assert {"rnn.cells.0.act_f", "rnn.cells.1.eltwisemult_cell_forget"} <= {name for name, _ in model.named_modules()}
    assert repr(DistillerLSTM.to_pytorch_impl(model.rnn)) == "LSTM(4, 4, num_layers=2)"


def test_constructors_take_the_ancestor_s_arguments_with_its_defaults() -> None:
    rnn = DistillerLSTM(3, 4, 2, True, True, bidirectional=True)
    assert (rnn.layout.dropout, rnn.batch_first, rnn.bidirectional) == (0.5, True, True)
    output, (h, c) = rnn(torch.zeros(5, 7, 3))
    assert (tuple(output.shape), tuple(h.shape), tuple(c.shape)) == ((5, 7, 8), (4, 5, 4), (4, 5, 4))
    h, c = DistillerLSTMCell(3, 4, bias=False)(torch.zeros(5, 3))
    assert (tuple(h.shape), tuple(c.shape)) == ((5, 4), (5, 4))


@pytest.mark.parametrize("make", [lambda: nn.LSTM(3, 4), lambda: nn.LSTMCell(3, 4)])
def test_modules_of_torch_go_there_and_back(make: Any) -> None:
    module = make()
    constructor = DistillerLSTM if isinstance(module, nn.LSTM) else DistillerLSTMCell
    converted: Any = constructor.from_pytorch_impl(module)
    x = torch.randn(5, 3)
    torch.testing.assert_close(converted(x), module(x), rtol=0, atol=1e-6)
    assert repr(constructor.to_pytorch_impl(convert_model_to_distiller_lstm(module))) == repr(module)


def test_the_other_kind_of_two_directions_is_refused() -> None:
    with pytest.raises(QuantizationError, match="bidirectional_type 1 is not here"):
        DistillerLSTM(3, 4, 2, bidirectional=True, bidirectional_type=1)
    assert DistillerLSTM(3, 4, 2, bidirectional_type=1).num_layers == 2


def test_names_stand_in_both_places_and_a_slip_is_told() -> None:
    assert distiller.EltwiseAdd is distiller.modules.EltwiseAdd is EltwiseAdd
    with pytest.raises(AttributeError, match="did you mean 'EltwiseMult'"):
        _ = distiller.modules.EltwiseMul

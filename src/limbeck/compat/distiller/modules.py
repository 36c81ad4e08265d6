"""The ancestor's modules: arithmetic as modules, and its LSTM of named parts.

>>> from limbeck.compat.distiller.modules import DistillerLSTM
>>> rnn = DistillerLSTM(input_size=3, hidden_size=4, num_layers=2)
>>> DistillerLSTM.to_pytorch_impl(rnn)
LSTM(3, 4, num_layers=2, dropout=0.5)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from limbeck.errors import QuantizationError, did_you_mean
from limbeck.quantization.cells import ModularLSTMCell
from limbeck.quantization.convert import from_torch, to_torch
from limbeck.quantization.eltwise import (
    BatchMatmul,
    Chunk,
    Concat,
    EltwiseAdd,
    EltwiseDiv,
    EltwiseMult,
    EltwiseSub,
    Matmul,
    Mean,
    Norm,
    Split,
    Stack,
)
from limbeck.quantization.models import RECURRENT, modular
from limbeck.quantization.recurrent import Layout, ModularRecurrent

__all__ = [
    "BatchMatmul",
    "Chunk",
    "Concat",
    "DistillerLSTM",
    "DistillerLSTMCell",
    "EltwiseAdd",
    "EltwiseDiv",
    "EltwiseMult",
    "EltwiseSub",
    "Matmul",
    "Mean",
    "Norm",
    "Split",
    "Stack",
    "convert_model_to_distiller_lstm",
]


@dataclass(frozen=True)
class Constructor:
    """A class of the ancestor's: called as its constructor, with the two conversions that it had as methods."""

    build: Callable[..., nn.Module]
    from_pytorch_impl: Callable[[nn.Module], nn.Module] = field(default=from_torch)
    to_pytorch_impl: Callable[[nn.Module], nn.Module] = field(default=to_torch)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """A module of named parts, with new weights."""
        return self.build(*arguments, **named)


def _lstm(
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bias: bool = True,
    batch_first: bool = False,
    dropout: float = 0.5,
    bidirectional: bool = False,
    bidirectional_type: int = 2,
) -> ModularRecurrent:
    """The ancestor's arguments; ``bidirectional_type`` 2 is what ``torch.nn.LSTM`` computes, each layer in both directions."""
    if bidirectional and bidirectional_type != 2:
        raise QuantizationError(
            f"bidirectional_type {bidirectional_type} is not here: layers join their directions, as torch.nn.LSTM's do; take 2, or two modules"
        )
    return ModularRecurrent(Layout("LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional))


DistillerLSTM = Constructor(_lstm)
"""``DistillerLSTM(input_size, hidden_size, num_layers, ...)``, ``.from_pytorch_impl(lstm)``, ``.to_pytorch_impl(modular)``."""
DistillerLSTMCell = Constructor(ModularLSTMCell)
"""``DistillerLSTMCell(input_size, hidden_size, bias=True)``, and the two conversions."""


def convert_model_to_distiller_lstm(model: nn.Module) -> nn.Module:
    """The model with every recurrent module replaced by one of named parts: LSTMs as the ancestor's, GRUs and RNNs too.

    >>> convert_model_to_distiller_lstm(nn.Sequential(nn.LSTM(3, 4)))[0].cells[0].act_f
    Sigmoid()
    """
    return from_torch(model) if isinstance(model, RECURRENT) else modular(model)


def __getattr__(name: str) -> Any:
    raise AttributeError(f"limbeck.compat.distiller.modules has no '{name}'{did_you_mean(name, __all__)}")

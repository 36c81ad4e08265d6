"""The word language model: embedding, recurrent layers, softmax layer."""

from __future__ import annotations

from typing import overload

from torch import Tensor, nn

from limbeck.apps.fused_loss import Scratch, linear_cross_entropy

CELLS = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")

Hidden = Tensor | tuple[Tensor, Tensor]


class RNNModel(nn.Module):
    """A recurrent word language model with the parameter names of PyTorch's own example.

    ``encoder.weight`` is ``[vocabulary, emsize]``, ``decoder.weight`` ``[vocabulary, nhid]``; with ``tied`` they are one parameter and
    ``emsize`` must equal ``nhid``. Input is ``[time, batch]`` of word numbers.

    >>> import torch
    >>> model = RNNModel("LSTM", vocabulary=10, emsize=4, nhid=4, nlayers=2, dropout=0.0, tied=True)
    >>> logits, hidden = model(torch.zeros(3, 2, dtype=torch.long), model.initial_hidden(2))
    >>> tuple(logits.shape)
    (3, 2, 10)
    """

    def __init__(self, cell: str, vocabulary: int, emsize: int, nhid: int, nlayers: int, dropout: float, tied: bool) -> None:
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"no recurrent cell named '{cell}'; choose one of {', '.join(CELLS)}")
        if tied and emsize != nhid:
            raise ValueError(f"tied weights need emsize equal to nhid, not {emsize} and {nhid}")
        self._scratch = Scratch()
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.Embedding(vocabulary, emsize)
        between = dropout if nlayers > 1 else 0.0
        self.rnn: nn.RNNBase
        if cell in ("LSTM", "GRU"):
            self.rnn = getattr(nn, cell)(emsize, nhid, nlayers, dropout=between)
        else:
            self.rnn = nn.RNN(emsize, nhid, nlayers, nonlinearity=cell.removeprefix("RNN_").lower(), dropout=between)
        self.decoder = nn.Linear(nhid, vocabulary)
        if tied:
            self.decoder.weight = self.encoder.weight
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)

    def features(self, words: Tensor, hidden: Hidden | None) -> tuple[Tensor, Hidden]:
        """Words ``[time, batch]`` to the softmax layer's input ``[time, batch, nhid]``, and the next hidden state; None begins at zero."""
        output, hidden = self.rnn(self.drop(self.encoder(words)), hidden)
        return self.drop(output), hidden

    @overload
    def forward(self, words: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]: ...

    @overload
    def forward(self, words: Tensor, hidden: None = None) -> Tensor: ...

    def forward(self, words: Tensor, hidden: Hidden | None = None) -> tuple[Tensor, Hidden] | Tensor:
        """Words ``[time, batch]`` to logits ``[time, batch, vocabulary]``, and the next hidden state.

        Without a hidden state one of zeros is begun with, and the next is not given: so no width is fixed by what comes in or goes out, and
        ``limbeck.thinning.thin(model, (words,))`` may take hidden units out.
        """
        output, following = self.features(words, hidden)
        logits = self.decoder(output)
        return logits if hidden is None else (logits, following)

    def loss(self, words: Tensor, target: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """Mean cross entropy (nats a word) of ``target`` ``[time * batch]``, and the next hidden state; the logits are not kept."""
        output, hidden = self.features(words, hidden)
        return linear_cross_entropy(output.flatten(0, 1), self.decoder.weight, self.decoder.bias, target, self._scratch), hidden

    def initial_hidden(self, batch: int) -> Hidden:
        """The zero state for ``batch`` sequences: ``[nlayers, batch, nhid]``, twice for an LSTM."""
        weight = self.encoder.weight
        zeros = weight.new_zeros(self.rnn.num_layers, batch, self.rnn.hidden_size)
        return (zeros, zeros.clone()) if self.rnn.mode == "LSTM" else zeros

    def fitting(self, hidden: Hidden) -> Hidden:
        """The state, or a zero one where a thinning has changed the width of the layers since."""
        first = hidden if isinstance(hidden, Tensor) else hidden[0]
        return hidden if first.shape[-1] == self.rnn.hidden_size else self.initial_hidden(first.shape[1])


def detach(hidden: Hidden) -> Hidden:
    """The same state, cut from the graph that made it: truncated backpropagation through time."""
    return hidden.detach() if isinstance(hidden, Tensor) else (hidden[0].detach(), hidden[1].detach())

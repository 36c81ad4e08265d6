"""The pre-norm encoder-decoder Transformer (Vaswani et al. 2017, arXiv 1706.03762), and NeurST's names of its parameters."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.apps.dropout import Dropout
from limbeck.apps.translation.hparams import Sizes
from limbeck.apps.translation.subwords import PAD

POSITIONS = 512
"""Positions that are computed once; a longer sentence's are computed when it comes."""


class KeysValues(NamedTuple):
    """What attention looks at: both ``[rows, heads, tokens, width / heads]``."""

    keys: Tensor
    values: Tensor


class State(NamedTuple):
    """What decoding carries from token to token: of every layer the target so far, and the source; ``open`` is True at real source tokens."""

    target: list[KeysValues]
    source: list[KeysValues]
    open: Tensor


def sinusoids(length: int, width: int) -> Tensor:
    """Positions as ``[length, width]``: sines in the first half, cosines in the second, of wavelengths from 2 pi to 20,000 pi.

    ``sin(position / 10000 ** (i / (half - 1)))``, as Tensor2Tensor, fairseq and NeurST have it; the last of an odd width is 0.

    >>> sinusoids(2, 5).mul(1e4).round().long()
    tensor([[    0,     0, 10000, 10000,     0],
            [ 8415,     1,  5403, 10000,     0]])
    """
    half = width // 2
    rates = torch.exp(torch.arange(half) * (-math.log(10_000) / max(1, half - 1)))
    angles = torch.arange(length)[:, None] * rates
    return F.pad(torch.cat((angles.sin(), angles.cos()), 1), (0, width % 2))


class Attention(nn.Module):
    """Attention with several heads, whose projections are packed: ``qkv`` where a sequence looks at itself, else ``q`` and ``kv``."""

    def __init__(self, width: int, heads: int, dropout: float, crossed: bool = False) -> None:
        super().__init__()
        self.head_width, self.dropout = width // heads, dropout  # heads are not counted here, so that thinning may take some out
        if crossed:
            self.q = nn.Linear(width, width)
            self.kv = nn.Linear(width, 2 * width)
        else:
            self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    @property
    def heads(self) -> int:
        """How many there are."""
        return int(self.output.in_features // self.head_width)

    def split(self, packed: Tensor, parts: int) -> tuple[Tensor, ...]:
        """``[rows, tokens, parts * width]`` to ``parts`` of ``[rows, heads, tokens, width / heads]``; the number of heads is the tensor's."""
        rows, tokens, _ = packed.shape
        return tuple(part.view(rows, tokens, -1, self.head_width).transpose(1, 2) for part in packed.chunk(parts, -1))

    def attend(self, query: Tensor, seen: KeysValues, mask: Tensor | None, causal: bool = False) -> Tensor:
        """``[rows, tokens, width]`` of queries ``[rows, heads, tokens, width / heads]``; ``mask`` is added to the scores."""
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, seen.keys, seen.values, mask, dropout, causal)
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]  # a module's call is Any


class FeedForward(nn.Module):
    """``conv2(relu(conv1(x)))``; NeurST's names, whose convolutions have a width of one token."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Linear(width, hidden)
        self.conv2 = nn.Linear(hidden, width)
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``[.., width]`` to ``[.., width]``."""
        return self.conv2(self.drop(self.conv1(x).relu()))  # type: ignore[no-any-return]  # as above


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each behind a norm and added to what it was given."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.self_attention_norm = nn.LayerNorm(sizes.width)
        self.self_attention = Attention(sizes.width, sizes.heads, sizes.attention_dropout)
        self.ffn_norm = nn.LayerNorm(sizes.width)
        self.ffn = FeedForward(sizes.width, sizes.ffn, sizes.ffn_dropout)
        self.drop = Dropout(sizes.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``[rows, tokens, width]`` to the same."""
        query, *seen = self.self_attention.split(self.self_attention.qkv(self.self_attention_norm(x)), 3)
        x = self.drop.add(x, self.self_attention.attend(query, KeysValues(*seen), mask))
        return self.drop.add(x, self.ffn(self.ffn_norm(x)))


class DecoderLayer(nn.Module):
    """Self-attention over earlier tokens, attention over the source, feed-forward."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.self_attention_norm = nn.LayerNorm(sizes.width)
        self.self_attention = Attention(sizes.width, sizes.heads, sizes.attention_dropout)
        self.cross_attention_norm = nn.LayerNorm(sizes.width)
        self.cross_attention = Attention(sizes.width, sizes.heads, sizes.attention_dropout, crossed=True)
        self.ffn_norm = nn.LayerNorm(sizes.width)
        self.ffn = FeedForward(sizes.width, sizes.ffn, sizes.ffn_dropout)
        self.drop = Dropout(sizes.dropout)

    def look(self, memory: Tensor) -> KeysValues:
        """Keys and values of the encoder's output ``[rows, tokens, width]``."""
        return KeysValues(*self.cross_attention.split(self.cross_attention.kv(memory), 2))

    def forward(self, x: Tensor, source: KeysValues, mask: Tensor, before: KeysValues | None = None) -> tuple[Tensor, KeysValues]:
        """``[rows, tokens, width]`` to the same, and the keys and values of all target tokens.

        With those of the tokens ``before``, ``x`` is the one token that follows, and several ``x`` of one source share its keys and values:
        ``[rows, heads, ..]`` of ``source`` for ``rows * n`` of ``x``.
        """
        query, *own = self.self_attention.split(self.self_attention.qkv(self.self_attention_norm(x)), 3)
        seen = KeysValues(*own)
        if before is not None:
            seen = KeysValues(*(torch.cat(pair, 2) for pair in zip(before, own, strict=True)))
        x = self.drop.add(x, self.self_attention.attend(query, seen, None, causal=before is None))
        normed = self.cross_attention_norm(x)
        (query,) = self.cross_attention.split(self.cross_attention.q(normed.view(len(source.keys), -1, x.shape[-1])), 1)
        x = self.drop.add(x, self.cross_attention.attend(query, source, mask).view_as(x))
        return self.drop.add(x, self.ffn(self.ffn_norm(x))), seen


class Stack(nn.Module):
    """Layers, and the norm behind the last."""

    def __init__(self, layers: list[nn.Module], width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)


class Transformer(nn.Module):
    """A translation model of ``sizes``: token numbers ``[batch, source]`` and ``[batch, target]``, padded with 0, to logits.

    >>> model = Transformer(Sizes(width=8, heads=2, ffn=16), source_vocabulary=20, target_vocabulary=20)
    >>> source, target_in = torch.tensor([[5, 6, 3], [7, 3, 0]]), torch.tensor([[2, 8], [2, 9]])
    >>> tuple(model(source, target_in).shape)
    (2, 2, 20)

    Shared embeddings are one parameter with several names, ``source_embedding.weight`` the first. Raises ``ValueError`` where embeddings are to be
    shared between vocabularies of unlike size.
    """

    def __init__(self, sizes: Sizes, source_vocabulary: int, target_vocabulary: int) -> None:
        super().__init__()
        if sizes.share_embeddings and source_vocabulary != target_vocabulary:
            raise ValueError(
                f"one embedding cannot serve vocabularies of {source_vocabulary} and {target_vocabulary}; "
                "let both languages have one vocabulary, or share_embeddings be false"
            )
        self.sizes = sizes
        self.source_embedding = nn.Embedding(source_vocabulary, sizes.width)
        self.target_embedding = nn.Embedding(target_vocabulary, sizes.width)
        self.encoder = Stack([EncoderLayer(sizes) for _ in range(sizes.encoder_layers)], sizes.width)
        self.decoder = Stack([DecoderLayer(sizes) for _ in range(sizes.decoder_layers)], sizes.width)
        self.softmax = nn.Linear(sizes.width, target_vocabulary, bias=False)
        self.drop = Dropout(sizes.dropout)
        if sizes.share_embeddings:
            self.target_embedding.weight = self.source_embedding.weight
        if sizes.tie_softmax:
            self.softmax.weight = self.target_embedding.weight
        self.register_buffer("positions", sinusoids(POSITIONS, sizes.width), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier's uniform for matrices, zero for biases, a deviation of ``width ** -0.5`` for embeddings and softmax."""
        for module in self.modules():
            if isinstance(module, nn.Linear) and module is not self.softmax:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for weight in dict.fromkeys((self.source_embedding.weight, self.target_embedding.weight, self.softmax.weight)):
            nn.init.normal_(weight, std=self.sizes.width**-0.5)

    def embed(self, embedding: nn.Embedding, tokens: Tensor, begin: int = 0) -> Tensor:
        """Tokens ``[rows, tokens]`` from position ``begin`` on to ``[rows, tokens, width]``."""
        end = begin + tokens.shape[1]
        table: Tensor = self.positions  # type: ignore[assignment]  # a buffer
        if end > len(table):
            table = sinusoids(end, table.shape[1]).to(table)
        x = torch.add(table[begin:end], embedding(tokens), alpha=embedding.embedding_dim**0.5)
        return self.drop(x)  # type: ignore[no-any-return]  # as above

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Source ``[batch, source]`` to ``[batch, source, width]``, and the mask that attention adds: ``[batch, 1, 1, source]``, -inf at padding."""
        x = self.embed(self.source_embedding, source)
        mask = torch.zeros_like(source, dtype=x.dtype).masked_fill(source == PAD, -math.inf)[:, None, None]
        for layer in self.encoder.layers:
            x = layer(x, mask)
        return self.encoder.norm(x), mask

    def hidden(self, source: Tensor, target_in: Tensor) -> Tensor:
        """The softmax layer's input ``[batch, target, width]``."""
        memory, mask = self.encode(source)
        x = self.embed(self.target_embedding, target_in)
        for layer in self.decoder.layers:
            assert isinstance(layer, DecoderLayer)
            x, _ = layer(x, layer.look(memory), mask)
        return self.decoder.norm(x)  # type: ignore[no-any-return]  # as above

    def forward(self, source: Tensor, target_in: Tensor) -> Tensor:
        """Logits ``[batch, target, vocabulary]`` of the token that follows each of ``target_in``."""
        return self.softmax(self.hidden(source, target_in))  # type: ignore[no-any-return]  # as above

    def start(self, source: Tensor) -> State:
        """What decoding begins with, for source sentences ``[batch, source]``."""
        memory, mask = self.encode(source)
        layers = [layer for layer in self.decoder.layers if isinstance(layer, DecoderLayer)]
        looks = [layer.look(memory) for layer in layers]
        empty = [
            look.keys.new_empty(len(source), layer.self_attention.heads, 0, look.keys.shape[3])
            for layer, look in zip(layers, looks, strict=True)
        ]
        return State([KeysValues(none, none) for none in empty], looks, mask)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """The logits ``[rows, vocabulary]`` after one more token of each row ``[rows]``, and the state then; rows may be a multiple of the sentences."""
        position = state.target[0].keys.shape[2]
        x = self.embed(self.target_embedding, tokens[:, None], position)
        target = []
        for layer, source, before in zip(self.decoder.layers, state.source, state.target, strict=True):
            x, seen = layer(x, source, state.open, before)
            target.append(seen)
        return self.softmax(self.decoder.norm(x))[:, 0], state._replace(target=target)


def build_model(sizes: Sizes, source_size: int, target_size: int) -> Transformer:
    """A fresh ``Transformer`` for vocabularies of so many tokens."""
    return Transformer(sizes, source_size, target_size)


NEURST_PARTS = (
    (r"^(?:source_embedding)\.", "input_symbol_modality_posenc_wrapper/input_symbol_modality/emb."),
    (r"^(?:target_embedding)\.", "target_symbol_modality_posenc_wrapper/target_symbol_modality/shared."),
    (r"^softmax\.", "target_symbol_modality_posenc_wrapper/target_symbol_modality/softmax."),
    (r"^(en|de)coder\.norm\.", r"\1coder.output_ln."),
    (r"^encoder\.", "TransformerEncoder."),
    (r"^decoder\.", "TransformerDecoder."),
    (r"\.layers\.(\d+)\.", r".layer_\1."),
    (r"cross_attention", "encdec_attention"),
    (r"(self_attention|encdec_attention|ffn)_norm\.", r"\1_prepost_wrapper.ln."),
    (r"(layer_\d+\.)(self_attention|encdec_attention|ffn)\.", r"\1\2_prepost_wrapper.\2."),
    (r"\.(qkv|q|kv|output)\.(?=weight|bias)", r".\1_transform."),
    (r"(ln\.)weight$", r"\1gamma"),
    (r"(ln\.)bias$", r"\1beta"),
    (r"(emb|shared|softmax)\.weight$", r"\1.weights"),
    (r"\.weight$", ".kernel"),
)
"""What NeurST calls each part of a name, one after the other."""


def neurst_name(parameter: str) -> str:
    """The name of NeurST's variable for a parameter of ``Transformer``, so that NeurST's patterns mean here what they mean there.

    >>> neurst_name("encoder.layers.0.self_attention.qkv.weight")
    'SequenceToSequence/TransformerEncoder/layer_0/self_attention_prepost_wrapper/self_attention/qkv_transform/kernel'
    >>> neurst_name("decoder.layers.5.cross_attention_norm.weight")
    'SequenceToSequence/TransformerDecoder/layer_5/encdec_attention_prepost_wrapper/ln/gamma'
    >>> neurst_name("decoder.norm.bias"), neurst_name("source_embedding.weight").rpartition("posenc_wrapper/")[2]
    ('SequenceToSequence/TransformerDecoder/output_ln/beta', 'input_symbol_modality/emb/weights')

    A kernel is the transposed ``weight``.
    """
    for part, other in NEURST_PARTS:
        parameter = re.sub(part, other, parameter)
    return f"SequenceToSequence/{parameter.replace('.', '/')}"

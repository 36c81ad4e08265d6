"""The sizes of a translation model, and the usual ones by their names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Every number that a ``Transformer`` is built from, besides its vocabularies.

    ``dropout`` falls on embeddings and on what every sublayer adds, ``attention_dropout`` on attention weights, ``ffn_dropout`` on the hidden
    units of the feed-forward layers. ``share_embeddings`` gives both languages one embedding, ``tie_softmax`` the softmax layer that of the target.

    >>> Sizes(width=6, heads=3).ffn
    256

    Raises ``ValueError`` for sizes that fit no model.
    """

    width: int = 128
    heads: int = 4
    encoder_layers: int = 4
    decoder_layers: int = 4
    ffn: int = 256
    dropout: float = 0.3
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0
    share_embeddings: bool = True
    tie_softmax: bool = True

    def __post_init__(self) -> None:
        for name in ("width", "heads", "encoder_layers", "decoder_layers", "ffn"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is a number from 1 on, not {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} cannot be split over {self.heads} heads; let the number of heads divide it")
        for name in ("dropout", "attention_dropout", "ffn_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a probability from 0 to below 1, not {getattr(self, name)}")


SIZES: dict[str, Sizes] = {
    "transformer_toy": Sizes(width=64, heads=2, encoder_layers=2, decoder_layers=2, ffn=128, dropout=0.1),
    "transformer_tiny": Sizes(),
    "transformer_small": Sizes(width=256, encoder_layers=3, decoder_layers=3, ffn=1024),
    "transformer_base": Sizes(512, 8, 6, 6, 2048, 0.1, 0.1, 0.1),
    "transformer_big": Sizes(1024, 16, 6, 6, 4096, 0.3, 0.1, 0.1),
}
"""``transformer_tiny`` is the model for Multi30k of Wu et al. 2021 ("Good for misconceived reasons", arXiv 2105.14462); base and big are those of
Vaswani et al. 2017 (arXiv 1706.03762), with dropout on attention weights and hidden units besides, as Tensor2Tensor and NeurST have it;
small lies between, for corpora of some 100,000 pairs; toy learns the embedded numbers in a minute."""

"""Every option of a training run, as one value that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.apps.options import known

SIZES = {200: "Small", 650: "Medium", 1500: "Large"}

FIXED = ("model", "emsize", "nhid", "nlayers", "tied", "batch_size", "bptt", "lr", "momentum", "weight_decay", "decay", "seed")
"""What a resumed run cannot change: the shapes of its tensors, and what its optimizer, learning rate and generators carry on from the checkpoint."""


@dataclass(frozen=True)
class TrainOptions:
    """What ``limbeck lm train`` was asked for; the defaults are the ancestor's, but for ``data`` and ``cooldown``."""

    data: str = "docs"
    model: str = "LSTM"
    emsize: int = 200
    nhid: int = 200
    nlayers: int = 2
    dropout: float = 0.2
    tied: bool = False
    lr: float = 20.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip: float = 0.25
    epochs: int = 40
    batch_size: int = 20
    bptt: int = 35
    decay: float | None = None
    cooldown: float = 2 / 3
    seed: int = 1111
    cuda: bool = False
    device: str | None = None
    amp: bool = False
    compile: bool = False
    compress: str | None = None
    log_interval: int = 200
    log_gradients: bool = False
    save: str | None = None
    save_every: int = 0
    command: str = "limbeck lm train"

    @property
    def type(self) -> str:
        """The size's name in the ancestor's tables, or cell and sizes."""
        known = SIZES.get(self.nhid) if self.model == "LSTM" and self.emsize == self.nhid and self.nlayers == 2 else None
        return known or f"{self.model} {self.emsize}" + (f"/{self.nhid}" if self.nhid != self.emsize else "")

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> TrainOptions:
        """The options of a saved run; those of another version that this one does not know are left out."""
        return cls(**known(cls, saved))

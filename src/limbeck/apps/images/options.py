"""Every option of a training of an image classifier, as one value that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.apps.options import known

FIXED = ("model", "batch_size", "lr", "momentum", "weight_decay", "label_smoothing", "validation_split", "seed", "weights")
"""What a resumed run cannot change: the shapes of its tensors, and what optimizer, learning rate and the order of the images carry on."""


@dataclass(frozen=True)
class TrainOptions:
    """What ``limbeck images train`` was asked for."""

    data: str = "digits"
    model: str = "resnet20_cifar"
    epochs: int = 30
    batch_size: int = 128
    lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    validation_split: float = 0.0
    seed: int = 1111
    cuda: bool = False
    device: str | None = None
    amp: bool = False
    compile: bool = False
    channels_last: bool = False
    compress: str | None = None
    weights: str | None = None
    log_interval: int = 100
    log_gradients: bool = False
    save: str | None = None
    save_every: int = 0
    command: str = "limbeck images train"

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> TrainOptions:
        """The options of a saved run; those of another version that this one does not know are left out."""
        return cls(**known(cls, saved))

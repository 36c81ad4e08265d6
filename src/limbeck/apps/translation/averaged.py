"""What a run knows of the average that it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Averaged:
    """The average that is kept: BLEU of its own translations of the validation set, its snapshots' steps, how many weights their masks keep."""

    bleu: float
    tokenised: float
    steps: tuple[int, ...]
    kept: int
    bleus: tuple[float, ...] = ()
    """What each snapshot reached by itself, in the order of the steps."""
    signatures: tuple[str, ...] = ()
    """How BLEU was computed, and how of Moses' tokens."""

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> Averaged:
        """What a checkpoint holds of it."""
        lists = {name: tuple(saved.get(name, ())) for name in ("steps", "bleus", "signatures")}  # early versions saved the first one alone
        return cls(**{**saved, **lists})

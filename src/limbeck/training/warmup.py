"""The learning rates of Transformers: up in a line, then down with the inverse square root of the step.

Both count ``t = step + initial_step + 1``, so that the first step has a learning rate too: ``step`` from the begin of their window, and ``initial_step``
those that were trained before, in another run. Sources: Vaswani et al. 2017, "Attention Is All You Need", section 5.3, and NeurST's ``noam``.
"""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def inverse_square_root(t: int, warmup: int) -> float:
    """``min(1, t / warmup) * sqrt(warmup / max(t, warmup))``: 1 at its highest, which is at ``t = warmup``.

    >>> [inverse_square_root(t, 100) for t in (1, 50, 100, 400)]
    [0.01, 0.5, 1.0, 0.5]
    """
    return min(1.0, t / warmup) * math.sqrt(warmup / max(t, warmup))


def noam(t: int, d_model: int, warmup: int) -> float:
    """``d_model ** -0.5 * min(1, t / warmup) / sqrt(max(t, warmup))``.

    >>> [round(noam(t, 512, 4000) * 1e4, 4) for t in (1, 4000, 16000)]
    [0.0017, 6.9877, 3.4939]
    """
    return min(1.0, t / warmup) / math.sqrt(d_model * max(t, warmup))


class NoamLR(LRScheduler):
    """``factor * noam(t, d_model, warmup_steps)``, whatever the optimizer's learning rate is; parameter groups differ as they did before.

    A group whose learning rate was twice that of the first one has twice the learning rate of the first one. Raises ``ValueError`` for a width or a warmup
    below 1, and for steps before the first.
    """

    def __init__(
        self, optimizer: Optimizer, d_model: int, warmup_steps: int = 4000, factor: float = 1.0, initial_step: int = 0, last_epoch: int = -1
    ) -> None:
        _check(warmup_steps, initial_step)
        if d_model < 1:
            raise ValueError(f"d_model is the width of the model, 1 or more, not {d_model}")
        self.d_model, self.warmup_steps, self.factor, self.initial_step = d_model, warmup_steps, factor, initial_step
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:  # type: ignore[override]  # torch's own annotation admits tensors too
        """The learning rate of each parameter group."""
        rate = self.factor * noam(self.last_epoch + self.initial_step + 1, self.d_model, self.warmup_steps)
        first = float(self.base_lrs[0])
        return [rate * (float(base) / first if first else 1.0) for base in self.base_lrs]


class InverseSquareRootLR(LRScheduler):
    """``base * inverse_square_root(t, warmup_steps)``: the optimizer's own learning rate is the highest, reached at the end of the warmup.

    With ``base = factor * (d_model * warmup_steps) ** -0.5`` it is ``NoamLR``. Raises ``ValueError`` for a warmup below 1, and for steps before
    the first.
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int = 4000, initial_step: int = 0, last_epoch: int = -1) -> None:
        _check(warmup_steps, initial_step)
        self.warmup_steps, self.initial_step = warmup_steps, initial_step
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:  # type: ignore[override]  # as above
        """The learning rate of each parameter group."""
        share = inverse_square_root(self.last_epoch + self.initial_step + 1, self.warmup_steps)
        return [float(base) * share for base in self.base_lrs]


def _check(warmup_steps: int, initial_step: int) -> None:
    if warmup_steps < 1:
        raise ValueError(f"warmup_steps is a number of steps, 1 or more, not {warmup_steps}")
    if initial_step < 0:
        raise ValueError(f"initial_step {initial_step} is before the first step; steps count from 0")

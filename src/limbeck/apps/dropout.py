"""Dropout on a processor at about the price of an addition: torch's own draws a number for each element, one by one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LEVELS = 1 << 16


class Dropout(nn.Module):
    """In training, elements become zero with probability ``p``, and the others are divided by what is left; else nothing changes.

    On a CPU in float32 four elements share a number of 64 bits, so that the probability is the nearest multiple of 1/65536; the division takes
    that one, and the mean stays exact. Elsewhere, and in what is compiled or exported, torch's function runs.

    >>> drop = Dropout(0.5)
    >>> set(drop(torch.ones(8)).tolist()) <= {0.0, 2.0}, drop.add(torch.ones(1), torch.ones(1)).item() in (1.0, 3.0)
    (True, True)
    >>> drop.eval()(torch.ones(2))
    tensor([1., 1.])
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """``x`` with elements dropped."""
        if not self.training or not self.p:
            return x
        if not _is_ours(x):
            return F.dropout(x, self.p)
        dropped: Tensor = _Dropped.apply(x, None, self.p)  # type: ignore[no-untyped-call]  # torch does not annotate it
        return dropped

    def add(self, residual: Tensor, x: Tensor) -> Tensor:
        """``residual + dropout(x)``, in one pass over both."""
        if not self.training or not self.p or not _is_ours(x):
            return residual + self.forward(x)
        total: Tensor = _Dropped.apply(x, residual, self.p)  # type: ignore[no-untyped-call]  # torch does not annotate it
        return total

    def extra_repr(self) -> str:
        """The probability, as torch shows it."""
        return f"p={self.p}"


def _is_ours(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling()


def _noise(x: Tensor) -> Tensor:
    """Whole numbers from -32768 to 32767, each as likely, in the shape of ``x``."""
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    return bits.view(torch.int16)[: x.numel()].view(x.shape)


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, probability: float) -> Tensor:
        level = min(round(probability * LEVELS), LEVELS - 1)
        ctx.scale = LEVELS / (LEVELS - level)
        ctx.adds = residual is not None
        keep = torch.empty(x.shape)
        torch.ge(_noise(x), level - LEVELS // 2, out=keep)
        ctx.save_for_backward(keep)
        return (x * keep).mul_(ctx.scale) if residual is None else torch.addcmul(residual, x, keep, value=ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (keep,) = ctx.saved_tensors
        return (upstream * keep).mul_(ctx.scale), upstream if ctx.adds else None, None

"""Zeroing what a mask drops, in place and at the speed of memory."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1 << 18  # elements: what torch makes of the mask for the product stays in the cache, and all threads have work
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def apply_mask_(weight: Tensor, keep: Tensor) -> None:
    """Set every element of ``weight`` that ``keep``, bool of the same shape, drops to exactly 0.0; leave the others as they are, bit for bit.

    The bit patterns are multiplied by 0 or 1 as integers: NaN and infinities become zeros too, and no zero comes out negative.
    Autograd sees an in-place change, as it does of an optimizer's step.

    >>> weight = torch.tensor([1.5, -2.0, float("nan")])
    >>> apply_mask_(weight, torch.tensor([True, False, False]))
    >>> weight
    tensor([1.5000, 0.0000, 0.0000])
    """
    bits = weight.detach().view(BITS[weight.element_size()])
    if weight.device.type != "cpu" or not weight.is_contiguous():
        bits.mul_(keep)
        return
    for part, kept in zip(torch.split(bits.view(-1), CHUNK), torch.split(keep.reshape(-1), CHUNK), strict=True):
        part.mul_(kept)

"""Zeroing what a mask drops, in place and at the speed of memory."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

CHUNK = 1 << 18  # elements: what torch makes of the mask for the product stays in the cache, and all threads have work
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def apply_mask_(weight: Tensor, keep: Tensor) -> None:
    """Set every element of ``weight`` that ``keep``, bool of the same shape, drops to exactly 0.0; leave the others as they are, bit for bit.

    The bit patterns are multiplied by 0 or 1 as integers: NaN and infinities become zeros too, and no zero comes out negative.
    Autograd sees an in-place change, as it does of an optimizer's step.

    >>> weight = torch.tensor([1.5, -2.0, float("nan")])
    >>> apply_mask_(weight, torch.tensor([True, False, False]))
    >>> weight
    tensor([1.5000, 0.0000, 0.0000])
    """
    Application([(weight, keep)])()


class Application:
    """Masks made ready to be applied in each step: views of the weights' bits and of the masks, in chunks, multiplied in one call.

    >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> apply = Application([(weight, torch.tensor([True, False]))])
    >>> apply()
    >>> weight.data, apply.stands()
    (tensor([3., 0.]), True)
    >>> weight.data = torch.tensor([5.0, 6.0])
    >>> apply.stands()
    False
    """

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        self._places: list[tuple[Tensor, int]] = []
        self._bits: list[Tensor] = []
        self._kept: list[Tensor] = []
        for weight, keep in pairs:
            self._places.append((weight, weight.data_ptr()))
            bits = weight.detach().view(BITS[weight.element_size()])
            if weight.device.type != "cpu" or not weight.is_contiguous():
                self._bits.append(bits)
                self._kept.append(keep)
            else:
                self._bits += torch.split(bits.view(-1), CHUNK)
                self._kept += torch.split(keep.reshape(-1), CHUNK)

    def __call__(self) -> None:
        """Zero what is not kept."""
        if self._bits:
            torch._foreach_mul_(self._bits, self._kept)

    def stands(self) -> bool:
        """Whether the weights lie where they lay: ``model.to(...)``, for one, moves them. The views keep the old place from being taken."""
        return all(weight.data_ptr() == place for weight, place in self._places)

"""Layers in whole numbers, written down a second time: int64 in NumPy, one multiplication in float64 at the end. Nothing of the library is used.

Steps follow the table of the ancestor: symmetric ``2 * m / (2 ** n - 1)``, restricted ``m / (2 ** (n - 1) - 1)``, asymmetric
``(high - low) / (2 ** n - 1)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Scale:
    """A step, float32 as a layer holds it, and the lowest and highest count from the zero point."""

    step: NDArray[np.float32]
    below: Any
    above: Any

    @classmethod
    def of(cls, low: Any, high: Any, bits: int, mode: str) -> Scale:
        low, high = (np.asarray(bound, dtype=np.float32) for bound in (low, high))
        bottom, top = np.minimum(low, 0), np.maximum(high, 0)
        half = 2 ** (bits - 1)
        if mode.startswith("symmetric"):
            first, last = (1 - half if "restricted" in mode else -half), half - 1
            width, steps = np.maximum(-bottom, top), np.float32((last - first) / 2)
        else:
            first, last = (0, 2 * half - 1) if "unsigned" in mode else (-half, half - 1)
            width, steps = top - bottom, np.float32(last - first)
        step = np.where(width > 0, width / steps, np.float32(1)).astype(np.float32)
        zero = np.zeros_like(step) if mode.startswith("symmetric") else np.clip(first - np.rint(bottom / step), first, last)
        return cls(step, (first - zero).astype(np.int64), (last - zero).astype(np.int64))

    def counts(self, x: Tensor | NDArray[np.float32]) -> Counts:
        values = x.detach().numpy() if isinstance(x, Tensor) else x
        along = (-1, *[1] * (values.ndim - 1)) if self.step.ndim else ()
        inverse = (np.float32(1) / self.step).reshape(along)
        return np.clip(np.rint(values * inverse).astype(np.int64), self.below.reshape(along), self.above.reshape(along))


def requantized(sums: Counts, step: Any, out: Scale, rectified: bool = False) -> NDArray[np.float64]:
    """The output's counts, before they are rounded, of sums of 32 bits."""
    exact = np.clip(sums, -(2**31), 2**31 - 1) * (np.asarray(step, dtype=np.float64) / out.step.astype(np.float64))
    return np.clip(exact, 0 if rectified else out.below, out.above)


def assert_counts(found: Tensor, exact: NDArray[np.float64], out: Scale) -> None:
    """What a layer gave is on the output's scale, and is the nearest count to the exact number; float32 may decide a near tie either way."""
    counts = found.double().numpy() / out.step.astype(np.float64)
    np.testing.assert_allclose(counts, np.rint(counts), rtol=0, atol=1e-2 if np.abs(out.above).max() > 2**10 else 1e-4)
    tie = np.abs(np.abs(exact - np.trunc(exact)) - 0.5) < 1e-6 * np.maximum(1, np.abs(exact)) * 4
    off = np.abs(np.rint(counts) - np.rint(exact))
    assert off.max(initial=0) <= 1
    assert not (off[~tie]).any(), (np.rint(counts)[(off > 0) & ~tie], exact[(off > 0) & ~tie])


def stats_tree(**tensors: tuple[Tensor, ...]) -> dict[str, Any]:
    """Statistics in the ancestor's layout: by layer its inputs, and its output last."""

    def seen(x: Tensor) -> dict[str, float]:
        return {"min": float(x.min()), "max": float(x.max())}

    return {
        name.replace("__", "."): {"inputs": {place: seen(x) for place, x in enumerate(each[:-1])}, "output": seen(each[-1])}
        for name, each in tensors.items()
    }


MODES = ("symmetric", "symmetric_restricted", "asymmetric_signed", "asymmetric_unsigned")

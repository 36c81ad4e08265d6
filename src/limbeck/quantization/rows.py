"""What was quantized and how, as rows: one for each weight, bias, input and output that has numbers of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.quantization.affine import QParams, fake_quantize
from limbeck.quantization.histogram import weighted
from limbeck.quantization.stats import TensorStats


@dataclass(frozen=True)
class Row:
    """One tensor of one layer."""

    layer: str
    tensor: str
    """``weight``, ``bias``, ``output`` or ``inputs.0``."""
    kind: str
    """``int8``, ``fp16``, by the number of bits."""
    bits: int
    mode: str = ""
    """Empty for floats."""
    scale: float | None = None
    """The step between neighbours; with several groups the geometric mean of theirs, None where it is measured on the fly."""
    zero_point: int | None = None
    """With several groups None, unless it is one for all."""
    groups: int = 1
    """How many scales there are."""
    clipping: str = ""
    low: float | None = None
    """The lowest number that is represented."""
    high: float | None = None
    snr_db: float | None = None
    """Signal-to-noise ratio against fp32, ``10 * log10(sum(x ** 2) / sum((x - q) ** 2))``; infinite where nothing is lost."""
    snr_of: str = ""
    """``weights`` for the exact one, ``histogram`` for one that is estimated from statistics, ``evaluation`` for a measured one."""
    values: int | None = None
    """How many weights there are."""
    zeros_before: int | None = None
    """How many of them were zero."""
    zeros_after: int | None = None
    """How many are: those, and what is nearer to zero than to the next step."""
    shared_by: tuple[str, ...] = ()
    """The inputs that hold this tensor, and so its integers."""


def decibels(signal: float, noise: float) -> float:
    """The ratio of two sums of squares.

    >>> decibels(100.0, 1.0), decibels(1.0, 0.0), decibels(1.0, math.inf)
    (20.0, inf, -inf)
    """
    if noise <= 0:
        return math.inf
    ratio = signal / noise
    return -math.inf if ratio <= 0 else 10 * math.log10(ratio)


def exact_snr(before: Tensor, after: Tensor) -> float:
    """Of a tensor and what became of it, in decibels.

    >>> exact_snr(torch.tensor([3.0, 1.0]), torch.tensor([3.0, 2.0]))
    10.0
    """
    signal = before.double()
    return decibels(float(signal.square().sum()), float((signal - after.double()).square_().sum()))


def estimated_snr(stats: TensorStats, params: QParams) -> float | None:
    """Of what statistics have seen, in decibels, from the middles of a histogram's bins; None without a histogram.

    Within a bin values are taken to be spread evenly, which adds a twelfth of its squared width to signal and noise: the result is no better than
    what the bins can tell.
    """
    if stats.histogram is None:
        return None
    values, counts = (each[0].double() for each in weighted([stats.histogram]))
    off = fake_quantize(values, params) - values
    spread = float(counts.sum()) * stats.histogram.width**2 / 12
    return decibels(float((counts * values.square()).sum()) + spread, float((counts * off.square()).sum()) + spread)


def zeros(tensor: Tensor) -> int:
    """How many elements are zero."""
    return int(tensor.numel() - torch.count_nonzero(tensor))

"""The ancestor's module of this name: its post-training quantizer; to take one of those for training is an error that says so."""

from __future__ import annotations

from limbeck.compat.distiller._later import QUANTIZERS, not_here
from limbeck.quantization import PostTrainLinearQuantizer

NAMES = (
    "DorefaQuantizer",
    "NCFQuantAwareTrainQuantizer",
    "PACTQuantizer",
    "QuantAwareTrainRangeLinearQuantizer",
    "QuantizationPolicy",
    "Quantizer",
    "WRPNQuantizer",
)
"""What it held besides."""

__all__ = ["PostTrainLinearQuantizer"]

__getattr__ = not_here(__name__, NAMES, QUANTIZERS)

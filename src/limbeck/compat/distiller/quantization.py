"""The ancestor's module of this name is not here yet: to take one of its names is an error that says so."""

from __future__ import annotations

from limbeck.compat.distiller._later import QUANTIZERS, not_here

NAMES = (
    "DorefaQuantizer",
    "NCFQuantAwareTrainQuantizer",
    "PACTQuantizer",
    "PostTrainLinearQuantizer",
    "QuantAwareTrainRangeLinearQuantizer",
    "QuantizationPolicy",
    "Quantizer",
    "WRPNQuantizer",
)
"""What it held."""

__getattr__ = not_here(__name__, NAMES, QUANTIZERS)

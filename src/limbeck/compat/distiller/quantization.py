"""The ancestor's module of this name is not here yet: to take one of its names is an error that says so."""

from __future__ import annotations

from typing import NoReturn

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


def __getattr__(name: str) -> NoReturn:
    if name in NAMES:
        raise ImportError(f"there is no '{name}': this version of Limbeck has no quantizers; weights keep their type")
    raise AttributeError(f"limbeck.compat.distiller.quantization has no '{name}': this version of Limbeck has no quantizers")

"""The regularizers of the schedule file as the ancestor constructed them: ``L1Regularizer(name, model, reg_regims)``.

>>> from torch import nn
>>> from limbeck.compat.distiller import regularization
>>> regularization.L1Regularizer("my_reg", nn.Linear(2, 2), {"weight": 2e-6}).strengths
{'weight': 2e-06}
"""

from __future__ import annotations

from typing import Any

from limbeck.compat.distiller.components import constructors
from limbeck.errors import did_you_mean
from limbeck.regularization import REGULARIZERS as BUILDERS

REGULARIZERS = constructors(BUILDERS, first=("name", "model"))
"""Constructors by class name."""


def __getattr__(name: str) -> Any:
    if name not in REGULARIZERS:
        raise AttributeError(f"no regularizer is named '{name}'{did_you_mean(name, REGULARIZERS)}")
    return REGULARIZERS[name]


def __dir__() -> list[str]:
    return sorted([*globals(), *REGULARIZERS])

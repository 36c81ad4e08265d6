"""The pruners of the schedule file as the ancestor constructed them: ``SensitivityPruner(name, sensitivities)``.

>>> from limbeck.compat.distiller import pruning
>>> pruning.SensitivityPruner("my_pruner", {"features.module.0.weight": 0.25}).targets
{'features.module.0.weight': 0.25}
"""

from __future__ import annotations

from typing import Any

from limbeck.compat.distiller.components import constructors
from limbeck.errors import did_you_mean
from limbeck.pruning.methods import PRUNERS as BUILDERS

PRUNERS = constructors(BUILDERS, first=("name",))
"""Constructors by class name."""


def __getattr__(name: str) -> Any:
    if name not in PRUNERS:
        raise AttributeError(f"no pruner is named '{name}'{did_you_mean(name, PRUNERS)}")
    return PRUNERS[name]


def __dir__() -> list[str]:
    return sorted([*globals(), *PRUNERS])

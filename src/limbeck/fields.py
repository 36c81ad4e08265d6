"""The types that builders of the schedule file share; their bounds are part of the file's schema."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field

T = TypeVar("T")
TARGETS = "targets"
"""Marks an argument that holds names of parameters, as a list or as the keys of a mapping: a check against a model looks them up."""


@dataclass(frozen=True, eq=False)
class ByName:
    """Marks an argument that is a function: a file gives its name in ``table``, or, where plugins are allowed, ``package.module:function``."""

    kind: str
    table: Mapping[str, Callable[..., Any]]


@dataclass(frozen=True, eq=False)
class Described:
    """Marks an argument that is a number or a function of the moment, which a file describes: ``{ramp: cosine, start: 0, stop: 1}``.

    ``table`` holds the builders by name; what each of them takes is the schema of the other keys.
    """

    kind: str
    table: Mapping[str, Callable[..., Any]]


def pair(example: str) -> BeforeValidator:
    """What says how a pair is written where something else stands: ``example`` is ``[strength, group], as in [0.001, Rows]``."""

    def check(value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) == 2:
            return value
        raise ValueError(f"Input should be {example}")

    return BeforeValidator(check)


def _one_name_is_a_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _no_percent(value: Any) -> Any:
    """A fraction, and no percentage: a text with a sign, or a number that can hardly be meant otherwise."""
    if isinstance(value, str) and (share := re.fullmatch(r"([0-9]+(?:\.[0-9]*)?)\s*%", value)):
        raise ValueError(f"Input should be a number; write {float(share[1]) / 100:g}")
    if isinstance(value, int | float) and PERCENT[0] <= value <= PERCENT[1]:
        raise ValueError(f"Input should be less than or equal to 1; for {value:g} % write {value / 100:g}")
    return value


PERCENT = (5, 100)
"""Numbers that are probably percentages where a fraction is asked for."""
Fraction = BeforeValidator(_no_percent)
Sparsity = Annotated[float, Field(ge=0, le=1, description="fraction of zeros, from 0 to 1"), Fraction]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Names = Annotated[
    list[str],
    BeforeValidator(_one_name_is_a_list, json_schema_input_type=str | list[str]),
    Field(min_length=1, description="parameter names, globs or 're:REGEX'; one name may stand without brackets"),
    TARGETS,
]
PerTarget = Annotated[Mapping[str, T], Field(min_length=1, description="parameter name, glob or 're:REGEX' to its value"), TARGETS]
Thresholds = PerTarget[NonNegative]
Levels = PerTarget[Sparsity]

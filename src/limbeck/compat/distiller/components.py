"""Pruners and regularizers as the ancestor constructed them: ``L1Regularizer(name, model, reg_regims, ...)``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from limbeck.config.components import Builder
from limbeck.config.signature import signature
from limbeck.errors import ScheduleError


def constructors(classes: Mapping[str, Builder], first: tuple[str, ...]) -> dict[str, Callable[..., Any]]:
    """A constructor for each class of a section of the schedule file.

    By place it takes the arguments ``first``, which a file gives in another way, and then those of the builder, whose order is the ancestor's.
    What it is given is checked as in a file: it raises ``ScheduleError`` with all that is wrong.
    """
    return {name: _constructor(name, builder, first) for name, builder in classes.items()}


def _constructor(class_name: str, builder: Builder, first: tuple[str, ...]) -> Callable[..., Any]:
    order = (*first, *inspect.signature(builder).parameters)

    def construct(*arguments: Any, **named: Any) -> Any:
        if len(arguments) > len(order):
            raise ScheduleError(f"{class_name} takes at most {len(order)} arguments by place: {', '.join(order)}")
        placed = dict(zip(order, arguments, strict=False))
        if twice := sorted(placed.keys() & named.keys()):
            raise ScheduleError(f"{class_name} is given '{twice[0]}' twice, by place and by name")
        given = {name: value for name, value in {**placed, **named}.items() if name not in first}
        accepted = signature(builder, class_name)
        functions = {name: value for name, value in given.items() if name in accepted.functions}
        valid, problems = accepted.check({name: value for name, value in given.items() if name not in functions})
        if problems:
            messages = [problem.message for problem in problems]
            raise ScheduleError("; ".join(messages), messages)
        return builder(**valid, **functions)

    construct.__name__ = construct.__qualname__ = class_name
    construct.__doc__ = f"{(builder.__doc__ or class_name).strip()}\n\nBy place: {', '.join(order)}."
    return construct

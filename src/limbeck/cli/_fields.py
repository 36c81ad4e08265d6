"""Options of a command that are the fields of a dataclass: their names, types, bounds, defaults and descriptions stand there alone."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from annotated_types import Ge, Gt, Lt
from typing_extensions import Doc

UNDERSCORES = {"token_normalize_func": lambda token: token.replace("-", "_")}
"""For ``context_settings``: ``--train-steps`` is ``--train_steps``."""


def with_fields(
    command: Callable[..., None], options: type, panels: Mapping[str, str], flags: Mapping[str, tuple[str, ...]]
) -> Callable[..., None]:
    """The command, which takes them as keywords, with an option for every described field of a dataclass, before its own.

    ``panels`` names the field that begins each part of the help, and ``flags`` how an option is spelt, where that is not its name.
    """
    own = inspect.signature(command, eval_str=True)
    rest = [parameter for parameter in own.parameters.values() if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    hints = get_type_hints(options, include_extras=True)
    made: list[inspect.Parameter] = []
    panel = ""
    for field in dataclasses.fields(options):
        panel = panels.get(field.name, panel)
        kind, metadata = _parts(hints[field.name])
        if (text := next((part.documentation for part in metadata if isinstance(part, Doc)), None)) is None:
            continue
        spelt = flags.get(field.name) or _flags(field.name, kind, field.default)
        least = next((part.ge for part in metadata if isinstance(part, Ge)), None)
        choice = typer.Option(*spelt, help=text + _open_bounds(metadata), rich_help_panel=panel, min=least)  # type: ignore[arg-type]  # a number
        made.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=Annotated[kind, choice])
        )

    def run(**chosen: Any) -> None:
        command(**chosen)

    every = [*(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in rest), *made]
    run.__doc__, run.__name__ = command.__doc__, command.__name__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in every}
    setattr(run, "__signature__", inspect.Signature(every))  # noqa: B010  # functions have no such attribute for mypy
    return run


def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The bare type of an annotation, and what it is annotated with, from the outside in."""
    if get_origin(hint) is not Annotated:
        return hint, ()
    kind, *metadata = get_args(hint)
    return kind, tuple(metadata)


def _open_bounds(metadata: Sequence[object]) -> str:
    """Bounds that a value must not reach, which the type of an option on the command line does not say.

    >>> _open_bounds((Ge(0), Lt(1))), _open_bounds((Gt(0),))
    (' Below 1.', ' Above 0.')
    """
    above = [f" Above {part.gt}." for part in metadata if isinstance(part, Gt)]
    return "".join((*above, *(f" Below {part.lt}." for part in metadata if isinstance(part, Lt))))


def _flags(name: str, kind: Any, default: Any) -> tuple[str, ...]:
    """A flag that is on, or that may be on, can be turned off."""
    switch = kind is bool or bool in get_args(kind)
    return (f"--{name}/--no_{name}",) if switch and default is not False else (f"--{name}",)

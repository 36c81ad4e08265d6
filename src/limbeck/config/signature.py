"""The builder's signature is the schema: what a class of the schedule file accepts, and what is wrong with its arguments."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from limbeck.config.report import Path
from limbeck.errors import did_you_mean
from limbeck.fields import Levels, Names, Thresholds

EMPTY = "is empty; name at least one parameter, as in 'fc.weight' or '*.weight'"
CONTAINERS = ("Callable", "Iterable", "Mapping", "Sequence")


@dataclass(frozen=True)
class Problem:
    """What is wrong with the arguments: where the fault belongs, and the node whose line shows it; both paths start at the arguments."""

    message: str
    path: Path = ()
    at: Path = ()


@dataclass(frozen=True)
class Signature:
    """The arguments that a builder takes from a file."""

    title: str
    model: type[BaseModel]
    functions: frozenset[str]
    """Arguments that take a Python function, which a file cannot hold."""
    names: frozenset[str] = frozenset()
    """Arguments that hold names of parameters, as a list or as the keys of a mapping."""

    def check(self, arguments: Mapping[str, object]) -> tuple[dict[str, object], list[Problem]]:
        """The arguments, coerced to the builder's types, and all that is wrong with them.

        >>> def ramp(start: float, stop: float = 1.0) -> None: ...
        >>> signature(ramp, "Ramp").check({"start": 1, "stpo": 2})[1]
        [Problem(message="Ramp has no 'stpo'; did you mean 'stop'?", path=(), at=('stpo',))]
        """
        try:
            valid = self.model.model_validate(dict(arguments))
        except ValidationError as error:
            return {}, self._problems(error, arguments)
        aliases = {field: str(info.alias) for field, info in self.model.model_fields.items()}
        given = {aliases[field]: getattr(valid, field) for field in aliases if field in valid.model_fields_set}
        return {**given, **(valid.model_extra or {})}, []

    def targets(self, arguments: Mapping[str, object]) -> list[str]:
        """The names of parameters that stand in the arguments, whatever else is wrong with these."""
        found: list[object] = []
        for name in self.names & set(arguments):
            value = arguments[name]
            found += list(value) if isinstance(value, list | Mapping) else [value]
        return [name for name in found if isinstance(name, str)]

    def json_schema(self) -> dict[str, Any]:
        """The JSON Schema of the arguments."""
        schema = self.model.model_json_schema(by_alias=True)
        for schema_of_one in schema.get("properties", {}).values():
            schema_of_one.pop("title", None)
        return schema

    def _problems(self, error: ValidationError, arguments: Mapping[str, object]) -> list[Problem]:
        names = [str(info.alias) for info in self.model.model_fields.values()]
        problems: list[Problem] = []
        missing: list[str] = []
        messages: dict[Path, list[str]] = {}
        for fault in error.errors(include_url=False, include_context=False):
            if fault["type"] == "missing" and len(fault["loc"]) == 1:
                missing.append(str(fault["loc"][0]))
            elif fault["type"] == "extra_forbidden":
                problems.append(self._stranger(str(fault["loc"][0]), [name for name in names if name not in arguments]))
            else:
                text = EMPTY if fault["type"] == "too_short" and fault["loc"][0] in self.names else _say(fault["msg"], fault["input"])
                messages.setdefault(_existing(fault["loc"], arguments), []).append(text)
        suggested = [name for name in missing if any(f"did you mean '{name}'" in problem.message for problem in problems)]
        problems += [Problem(f"{self.title} needs '{name}'") for name in missing if name not in suggested]
        return problems + [Problem(_either(found), path, path) for path, found in messages.items()]

    def _stranger(self, name: str, names: Sequence[str]) -> Problem:
        if name in self.functions:
            return Problem(f"{self.title} takes a Python function as '{name}', which a schedule file cannot hold; leave it out", at=(name,))
        remedy = did_you_mean(name, names)
        known = ", ".join(str(info.alias) for info in self.model.model_fields.values())
        return Problem(f"{self.title} has no '{name}'" + (remedy or f"; it has {known or 'no arguments'}"), at=(name,))


@functools.cache
def signature(builder: Callable[..., object], title: str, without: frozenset[str] = frozenset()) -> Signature:
    """What ``builder`` takes from a file: all its arguments but those in ``without``, which the program gives."""
    annotations = _annotations(builder)
    fields: dict[str, Any] = {}
    functions: set[str] = set()
    names: set[str] = set()
    extra: typing.Literal["allow", "forbid"] = "forbid"
    for parameter in _parameters(builder):
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = "allow"
        if parameter.name in without or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        annotation = annotations.get(parameter.name, Any)
        if _takes_function(annotation):
            functions.add(parameter.name)
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        if annotation in (Names, Thresholds, Levels):
            names.add(parameter.name)
        fields[f"field_{len(fields)}"] = (_concrete(annotation), Field(default, alias=parameter.name))
    config = ConfigDict(extra=extra, allow_inf_nan=False, title=title, arbitrary_types_allowed=True)
    return Signature(title, create_model(title, __config__=config, **fields), frozenset(functions), frozenset(names))


def _parameters(builder: Callable[..., object]) -> list[inspect.Parameter]:
    """The builder's parameters; a builtin that does not tell its own takes anything."""
    try:
        return list(inspect.signature(builder).parameters.values())
    except ValueError:
        return [inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)]


def _annotations(builder: Callable[..., object]) -> dict[str, Any]:
    """The builder's annotations, evaluated; torch imports some of the names in its own only for type checkers."""
    while isinstance(builder, functools.partial):
        builder = builder.func
    function = builder.__init__ if inspect.isclass(builder) else inspect.unwrap(builder)
    try:
        return typing.get_type_hints(function, localns={name: getattr(collections.abc, name) for name in CONTAINERS}, include_extras=True)
    except (NameError, TypeError):
        return {}


def _takes_function(annotation: object) -> bool:
    if typing.get_origin(annotation) is collections.abc.Callable or annotation is collections.abc.Callable:
        return True
    return any(_takes_function(part) for part in typing.get_args(annotation) if not isinstance(part, str | list))


def _concrete(annotation: object) -> object:
    """Iterables and sequences as lists: pydantic would hand over a lazy iterator."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (collections.abc.Iterable, collections.abc.Sequence):
        return list[_concrete(parts[0])]  # type: ignore[misc]  # built at run time
    if origin in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, (_concrete(part) for part in parts))
    return annotation


def _existing(location: tuple[int | str, ...], arguments: object) -> Path:
    """The part of a pydantic location that is a path in the data; the rest names members of a union."""
    path: Path = ()
    for key in location:
        if isinstance(arguments, Mapping) and key in arguments:
            arguments = arguments[str(key)]
        elif isinstance(arguments, list) and isinstance(key, int) and key < len(arguments):
            arguments = arguments[key]
        else:
            break
        path = (*path, key)
    return path


def show(value: object) -> str:
    """A value as messages print it.

    >>> show(1.5), show("fc"), show([1, 2]), show(None)
    ('1.5', "'fc'", 'a list', 'nothing')
    """
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list) else repr(value)


def _say(message: str, value: object) -> str:
    message = message.removeprefix("Value error, ").replace("a valid dictionary", "a mapping")
    return message.replace("Input should", f"{show(value)} should", 1)


def _either(messages: Sequence[str]) -> str:
    """The messages of a union's members as one: ``'x' should be a valid number or a valid list``."""
    first, *others = dict.fromkeys(messages)
    stem = first.partition(" should be ")[0] + " should be "
    return first + "".join(" or " + other.removeprefix(stem) for other in others)

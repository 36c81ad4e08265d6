"""The builder's signature is the schema: what a class of the schedule file accepts, and what is wrong with its arguments."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import operator
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, WrapValidator, create_model

from limbeck.config.report import Path
from limbeck.errors import did_you_mean
from limbeck.fields import TARGETS, ByName, Described, Sparsity

EMPTY = "is empty; name at least one parameter, as in 'fc.weight' or '*.weight'"
PLUGIN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""A function of the user's: ``package.module:function``."""

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
    by_name: Mapping[str, ByName] = field(default_factory=dict)
    """Arguments that are functions, for which a file gives a name."""
    described: Mapping[str, Described] = field(default_factory=dict)
    """Arguments that are numbers, or functions that a file describes."""

    def check(self, arguments: Mapping[str, object]) -> tuple[dict[str, object], list[Problem]]:
        """The arguments, coerced to the builder's types, and all that is wrong with them.

        >>> def ramp(start: float, stop: float = 1.0) -> None: ...
        >>> signature(ramp, "Ramp").check({"start": 1, "stpo": 2})[1]
        [Problem(message="Ramp has no 'stpo'; did you mean 'stop'?", path=(), at=('stpo',))]
        """
        read, problems = self._read(arguments)
        try:
            valid = self.model.model_validate(read)
        except ValidationError as error:
            unread = {problem.path[0] for problem in problems if problem.path}
            return {}, problems + self._problems(error, arguments, unread)
        aliases = {field: str(info.alias) for field, info in self.model.model_fields.items()}
        given = {aliases[field]: getattr(valid, field) for field in aliases if field in valid.model_fields_set}
        return {**given, **(valid.model_extra or {})}, problems

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
        for name, schema_of_one in schema.get("properties", {}).items():
            schema_of_one.pop("title", None)
            if name in self.described:
                number = {key: schema_of_one.pop(key) for key in ("type", "minimum", "maximum") if key in schema_of_one}
                schema_of_one["anyOf"] = [number, *_described_schemas(self.described[name])]
        return schema

    def _read(self, arguments: Mapping[str, object]) -> tuple[dict[str, object], list[Problem]]:
        """The arguments with functions in place of their names and descriptions; those that name nothing are left out."""
        read, problems = dict(arguments), list[Problem]()
        for name, named in self.by_name.items():
            value = read.get(name)
            if isinstance(value, str):
                if value in named.table:
                    read[name] = named.table[value]
                else:
                    problems.append(Problem(_unknown(named.kind, named.table, value), (name,), (name,)))
                    del read[name]
        for name, described in self.described.items():
            value = read.get(name)
            if isinstance(value, Mapping):
                read[name], wrong = _described(described, value)
                problems += [Problem(problem.message, (name, *problem.path), (name, *problem.at)) for problem in wrong]
                if wrong:
                    del read[name]
        return read, problems

    def _problems(self, error: ValidationError, arguments: Mapping[str, object], unread: Set[int | str]) -> list[Problem]:
        names = [str(info.alias) for info in self.model.model_fields.values()]
        problems: list[Problem] = []
        missing: list[str] = []
        messages: dict[Path, list[str]] = {}
        for fault in error.errors(include_url=False, include_context=False):
            if fault["type"] == "missing" and len(fault["loc"]) == 1:
                missing += [str(fault["loc"][0])] if fault["loc"][0] not in unread else []
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
    marks: dict[str, ByName | Described | None] = {}
    extra: typing.Literal["allow", "forbid"] = "forbid"
    for parameter in _parameters(builder):
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = "allow"
        if parameter.name in without or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        annotation = annotations.get(parameter.name, Any)
        marks[parameter.name] = mark = _mark(annotation)
        if mark is None and _takes_function(annotation):
            functions.add(parameter.name)
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        if isinstance(mark, ByName):
            default = next((name for name, function in mark.table.items() if function is default), default)
        if _holds_names(annotation):
            names.add(parameter.name)
        concrete = _concrete(annotation) if mark is None else _value(mark)
        fields[f"field_{len(fields)}"] = (concrete, Field(default, alias=parameter.name))
    config = ConfigDict(extra=extra, allow_inf_nan=False, title=title, arbitrary_types_allowed=True)
    model = create_model(title, __config__=config, **fields)
    by_name = {name: mark for name, mark in marks.items() if isinstance(mark, ByName)}
    described = {name: mark for name, mark in marks.items() if isinstance(mark, Described)}
    return Signature(title, model, frozenset(functions), frozenset(names), by_name, described)


def _marks(annotation: object) -> Iterator[object]:
    """What an annotation, or one member of its union, is annotated with."""
    yield from getattr(annotation, "__metadata__", ())
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _marks(member)


def _mark(annotation: object) -> ByName | Described | None:
    """What marks an argument as a function that a file names or describes."""
    return next((mark for mark in _marks(annotation) if isinstance(mark, ByName | Described)), None)


def _holds_names(annotation: object) -> bool:
    return any(isinstance(mark, str) and mark == TARGETS for mark in _marks(annotation))


def _value(mark: ByName | Described) -> object:
    """What pydantic checks of a marked argument, once names and descriptions have become functions: these pass, as None does."""

    def passing(value: Any, check: Callable[[Any], Any]) -> Any:
        return value if callable(value) or value is None else check(value)

    if isinstance(mark, Described):
        return Annotated[Sparsity, WrapValidator(passing)]
    either = {"anyOf": [{"enum": sorted(mark.table)}, {"type": "string", "pattern": f"^{PLUGIN.pattern}$"}]}
    return Annotated[str, WrapValidator(passing), WithJsonSchema(either)]


def _unknown(kind: str, table: Mapping[str, object], name: object) -> str:
    remedy = did_you_mean(name, table) if isinstance(name, str) else ""
    return f"no {kind} is named {show(name)}" + (remedy or f"; choose one of {', '.join(sorted(table))}")


def _described(mark: Described, tree: Mapping[str, object]) -> tuple[object, list[Problem]]:
    """The function that ``{ramp: cosine, ...}`` describes, or None and what is wrong with it."""
    name, arguments = tree.get(mark.kind), {key: value for key, value in tree.items() if key != mark.kind}
    if name is None:
        example = f"as in {{{mark.kind}: linear, start: 0.0, stop: 0.8}}"
        return None, [Problem(f"is a mapping without '{mark.kind}'; name one of {', '.join(sorted(mark.table))}, {example}")]
    if not isinstance(name, str) or name not in mark.table:
        return None, [Problem(_unknown(mark.kind, mark.table, name), (), (mark.kind,))]
    builder = mark.table[name]
    given, problems = signature(builder, f"the {mark.kind} '{name}'").check(arguments)
    if problems:
        return None, problems
    try:
        return builder(**given), []
    except ValueError as error:
        return None, [Problem(str(error))]


def _described_schemas(mark: Described) -> list[dict[str, Any]]:
    """One JSON Schema for each name in the table."""
    schemas = [signature(builder, name).json_schema() for name, builder in sorted(mark.table.items())]
    for schema, name in zip(schemas, sorted(mark.table), strict=True):
        schema["properties"] = {mark.kind: {"const": name}, **schema.get("properties", {})}
        schema["required"] = [mark.kind, *schema.get("required", [])]
    return schemas


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

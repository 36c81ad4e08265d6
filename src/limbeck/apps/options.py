"""Options of a run that goes on: the saved ones, with those replaced that are given anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, fields, replace
from typing import Any, ClassVar, Protocol, TypeVar

from limbeck.errors import CheckpointError


class Dataclass(Protocol):
    """Options as a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


AnyOptions = TypeVar("AnyOptions", bound=Dataclass)


def known(options: type[Dataclass], saved: Mapping[str, Any]) -> dict[str, Any]:
    """The saved options that this version has; those of another version are left out."""
    names = {field.name for field in fields(options)}
    return {name: value for name, value in saved.items() if name in names}


def continued(options: AnyOptions, saved: Mapping[str, Any], given: set[str], fixed: Sequence[str]) -> AnyOptions:
    """The options of a saved run, with those replaced that were ``given`` anew.

    Raises ``CheckpointError`` when one of ``fixed`` is given another value.
    """
    base = replace(options, **{name: value for name, value in known(type(options), saved).items() if name not in given})
    for name in fixed:
        if name in saved and getattr(base, name) != saved[name]:
            option, given_anew = name.replace("_", "-"), getattr(base, name)
            before = f"without --{option}, not with" if saved[name] is None else f"with --{option} {saved[name]}, not"
            raise CheckpointError(f"the run was saved {before} {given_anew}; leave --{option} out to resume it")
    return base

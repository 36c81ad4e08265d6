"""Parameter names: one canonical form, tied weights under one name, and targets that must match."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from typing import TypeVar

from torch import nn

from limbeck.errors import TargetError, did_you_mean

T = TypeVar("T")

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
REGEX = "re:"


def canonical(name: str) -> str:
    """A parameter's name without the parts that wrappers (DataParallel, DDP, ``torch.compile``, FSDP) put into it.

    >>> canonical("module.layer1.0.conv1.weight"), canonical("features.module.0.weight"), canonical("_orig_mod.fc.bias")
    ('layer1.0.conv1.weight', 'features.0.weight', 'fc.bias')
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


@dataclass(frozen=True)
class Named:
    """A parameter with its canonical first name and the other names under which tied modules hold it."""

    name: str
    parameter: nn.Parameter
    aliases: tuple[str, ...] = ()


def named_parameters(model: nn.Module) -> dict[str, Named]:
    """Every parameter once, under its canonical first name, with its aliases; in the model's own order.

    >>> encoder, decoder = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    >>> decoder.weight = encoder.weight
    >>> found = named_parameters(nn.ModuleDict({"encoder": encoder, "decoder": decoder}))
    >>> list(found), found["encoder.weight"].aliases
    (['encoder.weight'], ('decoder.weight',))

    Raises ``TargetError`` when two parameters share a canonical name.
    """
    names: dict[int, list[str]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(canonical(name))
        parameters[id(parameter)] = parameter
    found: dict[str, Named] = {}
    for key, (name, *aliases) in names.items():
        if name in found:
            raise TargetError(f"two parameters have the name '{name}' once wrapper names are taken out; rename one of the modules")
        found[name] = Named(name, parameters[key], tuple(dict.fromkeys(alias for alias in aliases if alias != name)))
    return found


def matches(target: str, name: str) -> bool:
    """Whether a target, an exact name, a glob or ``re:REGEX``, names this canonical parameter name.

    >>> matches("layer*.conv?.weight", "layer1.conv2.weight"), matches("re:rnn.*_l[01]", "rnn.weight_ih_l0"), matches("fc", "fc.weight")
    (True, True, False)

    Raises ``TargetError`` for a regular expression that does not compile.
    """
    return _compiled(target).fullmatch(name) is not None


def _compiled(target: str) -> re.Pattern[str]:
    if not target.startswith(REGEX):
        return re.compile(translate(canonical(target)))
    try:
        return re.compile(target.removeprefix(REGEX))
    except re.error as error:
        raise TargetError(f"'{target}' is not a regular expression: {error}") from error


def resolve(targets: Mapping[str, T], parameters: Mapping[str, Named]) -> dict[str, T]:
    """Which parameter gets which value: an exact name beats a pattern, among patterns the first wins, an alias names the tied parameter.

    >>> layers = named_parameters(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    >>> resolve({"*.weight": 0.5, "1.weight": 0.9}, layers)
    {'0.weight': 0.5, '1.weight': 0.9}

    Raises ``TargetError``, naming the closest names, when a target matches nothing, and when two exact names give one parameter two values.
    """
    owners: dict[str, str] = {}  # every spelling of every parameter; formed when a target is not simply a first name
    exact: dict[str, T] = {}
    patterned: dict[str, T] = {}
    for target, value in targets.items():
        spelling = canonical(target)
        if spelling not in parameters and not owners:
            owners = {other: named.name for named in parameters.values() for other in (named.name, *named.aliases)}
        owner = spelling if spelling in parameters else owners.get(spelling)
        if owner is not None:
            if exact.setdefault(owner, value) != value:
                raise TargetError(
                    f"'{target}' is another name of '{owner}', which is given {exact[owner]} already, not {value}; name it once"
                )
            continue
        pattern = _compiled(target)
        found = [owner for name, owner in owners.items() if pattern.fullmatch(name)]
        if not found:
            raise TargetError(unmatched(target, owners))
        for owner in found:
            patterned.setdefault(owner, value)
    resolved = {**patterned, **exact}
    return resolved if len(resolved) == 1 else {name: resolved[name] for name in parameters if name in resolved}


def unmatched(target: str, names: Iterable[str]) -> str:
    """The message for a target that matches nothing."""
    kind = "parameter is named" if not any(mark in target for mark in "*?[") and not target.startswith(REGEX) else "parameter matches"
    return f"no {kind} '{target}'{did_you_mean(canonical(target), names)}"

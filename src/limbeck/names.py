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
NOT = "not:"
MATRICES = "matrices:"
GLOBAL_FLAGS = re.compile(r"\(\?[aiLmsux]+\)")
WORD = re.compile(r"[A-Za-z_]\w+")
ESCAPE = re.compile(r"\\\w")


def canonical(name: str) -> str:
    """A parameter's name without the parts that wrappers (DataParallel, DDP, ``torch.compile``, FSDP) put into it.

    >>> canonical("module.layer1.0.conv1.weight"), canonical("features.module.0.weight"), canonical("_orig_mod.fc.bias")
    ('layer1.0.conv1.weight', 'features.0.weight', 'fc.bias')
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``.

    >>> layer = nn.Linear(2, 2)
    >>> unwrap(nn.DataParallel(layer)) is layer
    True
    """
    inner = getattr(model, "_orig_mod", None)
    if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = model.module
    return unwrap(inner) if isinstance(inner, nn.Module) else model


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

    Raises ``TargetError`` when two parameters share a canonical name, ``TypeError`` for anything but a model.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"a model is a torch.nn.Module, not {type(model).__name__}; a schedule comes first, and the model second")
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

    ``not:`` before a target turns it round; ``matrices:`` asks for two dimensions or more, of which a name alone tells nothing.

    >>> matches("layer*.conv?.weight", "layer1.conv2.weight"), matches("re:rnn.*_l[01]", "rnn.weight_ih_l0"), matches("fc", "fc.weight")
    (True, True, False)
    >>> matches("not:*.bias", "fc.weight"), matches("not:*.bias", "fc.bias")
    (True, False)

    Raises ``TargetError`` for a regular expression that does not compile.
    """
    if target.startswith(MATRICES):
        return matches(target.removeprefix(MATRICES), name)
    if target.startswith(NOT):
        return not matches(target.removeprefix(NOT), name)
    return _compiled(target).fullmatch(name) is not None


def searched(pattern: str) -> str:
    """The target that matches wherever ``re.search(pattern, name)`` finds something: targets match a whole name.

    >>> searched("(ln/gamma)|(ln/beta)"), searched("(?i)norm")
    ('re:.*(?:(ln/gamma)|(ln/beta)).*', 're:(?i).*(?:norm).*')
    """
    flags = GLOBAL_FLAGS.match(pattern)
    head = flags[0] if flags else ""
    return f"{REGEX}{head}.*(?:{pattern.removeprefix(head)}).*"


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

    ``matrices:TARGET`` takes, of what TARGET matches, the parameters of two dimensions or more: no biases, no gains. ``not:TARGET`` takes all that
    TARGET does not match, and of a tied parameter no name may. They go together:

    >>> list(resolve({"matrices:not:0.*": 0.5}, layers))
    ['1.weight']

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
        for owner in _found(target, parameters, owners):
            patterned.setdefault(owner, value)
    resolved = {**patterned, **exact}
    return resolved if len(resolved) == 1 else {name: resolved[name] for name in parameters if name in resolved}


def _found(target: str, parameters: Mapping[str, Named], spellings: Iterable[str]) -> list[str]:
    """The parameters that a pattern matches; ``spellings`` are all names that a message may suggest."""
    if target.startswith(MATRICES):
        every = _found(inner := target.removeprefix(MATRICES), parameters, spellings)
        found = [name for name in every if parameters[name].parameter.dim() >= 2]
        if not found:
            raise TargetError(f"'{inner}' matches only biases and gains, as '{every[0]}'; take '{MATRICES}' away to mean them")
        return found
    if target.startswith(NOT):
        excluded = set(_found(target.removeprefix(NOT), parameters, spellings))
        found = [name for name in parameters if name not in excluded]
    else:
        pattern = _compiled(target)
        found = [named.name for named in parameters.values() if any(map(pattern.fullmatch, (named.name, *named.aliases)))]
    if not found:
        raise TargetError(unmatched(target, spellings))
    return found


def unmatched(target: str, names: Iterable[str]) -> str:
    """The message for a target that matches nothing."""
    names = list(names)
    if not any(mark in target for mark in "*?[") and not target.startswith((REGEX, NOT)):
        return f"no parameter is named '{target}'{did_you_mean(canonical(target), names)}"
    return f"no parameter matches '{target}'{did_you_mean(canonical(target), names) or closest(target, names)}"


def closest(pattern: str, names: Iterable[str]) -> str:
    """What is close, among the parts of names, to a word of a pattern that is in no name; an empty string when nothing is.

    >>> closest("conv_1", ["encoder.conv1.weight"]), closest("ln/gama", ["Encoder/ln/gamma"])
    ("; did you mean 'conv1'?", "; did you mean 'gamma'?")
    """
    names = list(names)
    if "/" in pattern and names and not any("/" in name for name in names):
        return f"; the parts of names are joined by dots, as in '{names[0]}'"
    parts = list(dict.fromkeys(part for name in names for part in re.split(r"[./]", name)))
    words = WORD.findall(ESCAPE.sub(" ", pattern.removeprefix(NOT).removeprefix(REGEX)))
    remedies = (did_you_mean(word, parts) for word in words if not any(word in part for part in parts))
    return next((remedy for remedy in remedies if remedy), "")

"""The policies of a schedule file: which instance is applied, and when."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from limbeck.config.components import SECTIONS
from limbeck.config.load import Document
from limbeck.config.report import Fault, Path
from limbeck.config.signature import Signature, show, signature
from limbeck.errors import did_you_mean
from limbeck.schedules import Unit, Window

KINDS = {section.kind: section for section in SECTIONS}
ENDS: dict[Unit, tuple[str, str]] = {"epoch": ("starting_epoch", "ending_epoch"), "step": ("starting_step", "ending_step")}
LISTS: dict[Unit, str] = {"epoch": "epochs", "step": "steps"}
KEYS = (*KINDS, *ENDS["epoch"], *ENDS["step"], "frequency", *LISTS.values())


@dataclass(frozen=True)
class Policy:
    """One policy without faults of its own: its place in the list, the instance it applies, when, and with which arguments."""

    index: int
    kind: str
    instance: str
    window: Window
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where it stands in the file."""
        return ("policies", self.index)


def check_policies(document: Document, tree: object, declared: Mapping[str, Sequence[str]], faults: list[Fault]) -> list[Policy]:
    """The policies that have no faults, in file order; what is wrong with the others goes to ``faults``."""
    if not isinstance(tree, list):
        faults.append(document.fault(f"must be a list, each item with a '-', not {show(tree)}", ("policies",)))
        return []
    found = [_Check(document, faults, declared, ("policies", index)).policy(index, body) for index, body in enumerate(tree)]
    policies = [policy for policy in found if policy is not None]
    _check_rates(document, policies, faults)
    return policies


@cache
def accepted(kind: str) -> Signature:
    """What the ``args`` of a policy of this kind may hold: the arguments of its action, but for the instance."""
    action = KINDS[kind].action
    return signature(
        action, f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} policy", frozenset(list(inspect.signature(action).parameters)[:1])
    )


def _begun(key: str, known: Sequence[str]) -> str:
    """A remedy for a key that is only the beginning of others: ``freq``, ``start``."""
    whole = [f"'{name}'" for name in known if len(key) > 2 and name.startswith(key)]
    return f"; did you mean {' or '.join(whole)}?" if whole else ""


def span(window: Window) -> str:
    """A window in words: ``epochs 2 to 9``.

    >>> span(Window(2, 9))
    'epochs 2 to 9'
    """
    return f"{window.unit}s {window.begin} to {window.end}"


def _check_rates(document: Document, policies: Sequence[Policy], faults: list[Fault]) -> None:
    """Two policies must not set the learning rate at the same time; whether an epoch and a step are the same time, only a run tells."""
    rates = [policy for policy in policies if policy.kind == "lr_scheduler"]
    for index, later in enumerate(rates):
        meeting = [earlier for earlier in rates[:index] if later.window.overlaps(earlier.window)]
        faults += [document.fault(both_set_the_rate(later, earlier), later.path) for earlier in meeting]


def both_set_the_rate(later: Policy, earlier: Policy) -> str:
    """What to say of two policies that set the learning rate at the same time."""
    one, other = span(later.window), span(earlier.window)
    return (
        f"'{later.instance}' sets the learning rate in {one}, and policies[{earlier.index}] sets it in {other}; "
        "let one end where the other begins"
    )


@dataclass(frozen=True)
class _Check:
    """Checks one policy, which stands at ``path``."""

    document: Document
    faults: list[Fault]
    declared: Mapping[str, Sequence[str]]
    path: Path

    def policy(self, index: int, body: object) -> Policy | None:
        """The policy, or None after a fault."""
        if not isinstance(body, Mapping):
            what = f"must be a mapping, not {show(body)}"
            self.fault("is empty; give it an instance and a window, or take its '-' out" if body is None else what)
            return None
        before = len(self.faults)
        meant = self.strangers("a policy", body, KEYS)
        kinds = [kind for kind in KINDS if kind in body]
        window = self.window(body, meant)
        use = self.use(kinds[0], body[kinds[0]]) if len(kinds) == 1 else None
        if len(kinds) > 1:
            self.fault(f"applies {' and '.join(kinds)} at once; give each a policy of its own")
        elif not kinds and not meant & set(KINDS):
            self.fault(f"applies nothing; it needs one of {', '.join(KINDS)}")
        if window is None or use is None or len(self.faults) > before:
            return None
        return Policy(index, kinds[0], use[0], window, use[1])

    def strangers(self, what: str, body: Mapping[str, object], known: Sequence[str], path: Path = ()) -> set[str]:
        """Note keys that are not known; gives the keys that were probably meant."""
        meant: set[str] = set()
        for key in body:
            if key not in known:
                remedy = did_you_mean(str(key), known) or _begun(str(key), known)
                meant |= {close for close in known if f"'{close}'" in remedy}
                self.fault(f"{what} has no '{key}'" + (remedy or f"; it has {', '.join(known)}"), path, (*path, key))
        return meant

    def use(self, kind: str, tree: object) -> tuple[str, Mapping[str, Any]] | None:
        """The instance and the arguments that ``kind: {instance_name, args}`` names, or None after a fault."""
        if not isinstance(tree, Mapping):
            what = f"must be a mapping with 'instance_name', not {show(tree)}"
            self.fault("is empty; it needs 'instance_name'" if tree is None else what, (kind,))
            return None
        meant = self.strangers(f"the policy's {kind}", tree, ("instance_name", "args"), (kind,))
        name, arguments = tree.get("instance_name"), tree.get("args")
        if name is None:
            if "instance_name" not in meant:
                self.fault("needs 'instance_name'", (kind,))
            return None
        if str(name) not in self.declared[kind]:
            defined = ", ".join(self.declared[kind])
            known = did_you_mean(str(name), self.declared[kind]) or (f"; defined: {defined}" if defined else "; none is defined")
            self.fault(f"no {kind} named '{name}'{known}", (kind,), (kind, "instance_name"))
            return None
        return str(name), self.arguments(kind, {} if arguments is None else arguments)

    def arguments(self, kind: str, tree: object) -> Mapping[str, Any]:
        """The policy's own arguments, checked against what the action of its kind accepts."""
        path: Path = (kind, "args")
        if not isinstance(tree, Mapping):
            self.fault(f"must be a mapping, not {show(tree)}", path)
            return {}
        if not tree:
            return {}
        valid, problems = accepted(kind).check(tree)
        for problem in problems:
            self.fault(problem.message, (*path, *problem.path), (*path, *problem.at))
        return valid

    def window(self, body: Mapping[str, object], meant: set[str]) -> Window | None:
        """When the policy fires, or None after a fault; keys in ``meant`` are not called missing."""
        given: dict[Unit, list[str]] = {unit: [key for key in ends if key in body] for unit, ends in ENDS.items()}
        ends = [*given["epoch"], *given["step"]]
        for unit, listing in LISTS.items():
            if listing in body:
                others = [key for key in (*LISTS.values(), *ends, "frequency") if key != listing and key in body]
                if others:
                    both = f"'{listing}' and '{others[0]}'"
                    self.fault(f"has both {both}; give the list alone, or {', '.join(ENDS[unit])} and frequency")
                    return None
                return self.listed(body[listing], listing, unit)
        if given["epoch"] and given["step"]:
            both = f"'{given['epoch'][0]}' and '{given['step'][0]}'"
            self.fault(f"mixes epochs and steps: it has {both}; give both ends in epochs, or both in steps")
            return None
        if not ends:
            if not meant & set(KEYS[len(KINDS) :]):
                self.fault("has no window; give starting_epoch and ending_epoch, or starting_step and ending_step, or epochs, or steps")
            return None
        unit = "epoch" if given["epoch"] else "step"
        missing = [key for key in ENDS[unit] if key not in body and key not in meant]
        if missing:
            self.fault(f"has '{ends[0]}' and needs '{missing[0]}' too")
        begin, end, every = (self.whole(body[key], (key,)) if key in body else None for key in (*ENDS[unit], "frequency"))
        if begin is None or end is None or (every is None and "frequency" in body):
            return None
        return self.made(lambda: Window(begin, end, 1 if every is None else every, unit))

    def listed(self, times: object, key: str, unit: Unit) -> Window | None:
        """The window of a list of epochs, or of steps."""
        if not isinstance(times, list) or not times:
            self.fault(f"must be a list of {key}, as in [0, 2, 4], not {'an empty list' if times == [] else show(times)}", (key,))
            return None
        values = [self.whole(time, (key, index)) for index, time in enumerate(times)]
        if None in values:
            return None
        return self.made(lambda: Window(unit=unit, only=tuple(value for value in values if value is not None)))

    def whole(self, value: object, path: Path) -> int | None:
        """A whole number, or None after a fault."""
        if isinstance(value, bool) or not isinstance(value, int):
            self.fault(f"{show(value)} should be a whole number", path)
            return None
        return value

    def made(self, make: Callable[[], Window]) -> Window | None:
        """The window, or None when it can never fire."""
        try:
            return make()
        except ValueError as error:
            self.fault(str(error))
            return None

    def fault(self, message: str, below: Path = (), at: Path | None = None) -> None:
        """Note a fault at a path below the policy."""
        self.faults.append(self.document.fault(message, (*self.path, *below), None if at is None else (*self.path, *at)))

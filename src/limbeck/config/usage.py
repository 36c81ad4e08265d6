"""What is wrong with a policy's use of its instance: its arguments, its window, the amounts at its first firing, and ramps that are cut short."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from limbeck.config.components import Section
from limbeck.config.lint import place, resolvable, unmatched_targets
from limbeck.config.load import Document
from limbeck.config.policies import Policy
from limbeck.config.report import Fault
from limbeck.errors import LimbeckError
from limbeck.names import Named
from limbeck.pruning import Prune
from limbeck.schedules import at


def used(policy: Policy, section: Section, made: object) -> Any:
    """The policy's action; raises what the action refuses."""
    return section.action(made, **policy.arguments)


def faults_of_use(
    document: Document, policy: Policy, section: Section, made: object, parameters: Mapping[str, Named] | None
) -> Iterator[Fault]:
    """All faults of a policy; where its instance has some of its own (``made`` is None), all that do not depend on it."""
    if section.afterwards:
        message = f"'{policy.instance}' comes after training: {section.afterwards}; take the policy out"
        yield from [] if made is None else [document.fault(message, (*policy.path, policy.kind))]
        return
    arguments = (*policy.path, policy.kind, "args")
    instance = section.blank if made is None else made
    if instance is None:
        return
    try:
        action = used(policy, section, instance)
    except (LimbeckError, ValueError) as error:
        yield document.fault(str(error), arguments)
        return
    try:
        getattr(action, "fits", lambda window: None)(policy.window)
    except (LimbeckError, ValueError) as error:
        yield document.fault(str(error), policy.path)
    if isinstance(action, Prune):
        levels = policy.arguments.get("levels", {})
        for target, message in unmatched_targets(levels, parameters) if levels else ():
            yield document.fault(message, place(target, policy.arguments, arguments) or arguments)
        if made is None:
            return
        for message in _amounts(policy, action):
            yield document.fault(f"{policy.kind} '{policy.instance}': {message}", policy.path)
        if levels and parameters is not None:
            resolved = resolvable(levels, parameters)
            shapes = {name: tuple(parameters[name].parameter.shape) for name in resolved}
            yield from (document.fault(message, (*arguments, "levels")) for message in action.pruner.misfits(resolved, shapes))


def ramps_cut_short(document: Document, policy: Policy, section: Section, made: object) -> Iterator[Fault]:
    """Warnings of ramps that end after the last firing of the policy's window, and so never arrive; the policy has no faults."""
    action, last = used(policy, section, made), policy.window.last
    targets = action.pruner.targets.values() if isinstance(action, Prune) else ()
    ramps = [getattr(target, "amount", target) for target in targets]
    for arrives in dict.fromkeys(ramp.arrives(policy.window.begin) for ramp in ramps if hasattr(ramp, "arrives")):
        if arrives is not None and last is not None and arrives > last:
            unit = policy.window.unit
            yield document.fault(
                f"{policy.kind} '{policy.instance}': its ramp arrives at {unit} {arrives}, after this window's last firing at {unit} {last}; "
                "let the window be longer, or the ramp shorter",
                policy.path,
            )


def _amounts(policy: Policy, action: Prune) -> Iterator[str]:
    """Amounts that mean nothing in the window, or that differ where targets are pruned together."""
    moment, pruner = next(policy.window.firings()), action.pruner
    try:
        amounts = {target: at(amount, moment) for target, amount in pruner.targets.items()}
    except ValueError as error:
        yield str(error)
        return
    if (pruner.pool is None or pruner.tie is not None) and len(set(amounts.values())) > 1:
        what = "a pool of all tensors" if pruner.tie is None else "one verdict for all tensors"
        yield f"{what} needs one amount for all of them, not {amounts}"

"""What is probably not meant in a schedule without being a fault of any single line of it: learning rates and pruners that meet, patterns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from limbeck.config.load import Document
from limbeck.config.policies import Policy, span
from limbeck.config.report import Fault, Path
from limbeck.names import Named, canonical, matches, resolve
from limbeck.pruning import Prune
from limbeck.training.learning_rate import BY_EPOCH, BY_STEP
from limbeck.watch import Gradients

SHOWN = 3
"""Longer lists of names are cut off."""


def rate_in_wrong_unit(document: Document, policy: Policy, class_name: str) -> tuple[Fault | None, Fault | None]:
    """A fault, or a warning, of a learning rate whose class does not go with a window by epoch, or by step."""
    if class_name in BY_EPOCH and policy.window.unit == "step":
        message = f"{class_name} watches {BY_EPOCH[class_name]}, so it cannot move by step; give starting_epoch and ending_epoch"
        return document.fault(message, policy.path), None
    if class_name in BY_STEP and policy.window.unit == "epoch":
        message = f"{class_name} steps once an epoch in this window, and is made to move in every step; give starting_step and ending_step"
        return None, document.fault(message, policy.path)
    return None, None


def pruners_that_meet(
    document: Document, pruners: Sequence[tuple[Policy, Mapping[str, Any]]], parameters: Mapping[str, Named]
) -> Iterator[Fault]:
    """Policies whose windows overlap and whose pruners renew one tensor."""
    renewals: dict[tuple[str, str], list[Policy]] = {}
    unresolved = {policy.instance: targets for policy, targets in pruners} if len(pruners) > 1 else {}
    resolved = {instance: resolve(targets, parameters) for instance, targets in unresolved.items()}
    for policy, _ in pruners if resolved else []:
        for name in resolved[policy.instance]:
            renewals.setdefault((policy.window.unit, name), []).append(policy)
    shared: dict[tuple[int, int], list[str]] = {}
    for (_, name), policies in renewals.items():
        latest, *others = sorted(policies, key=lambda policy: policy.window.begin)
        for policy in others:
            if policy.window.overlaps(latest.window):
                shared.setdefault((max(policy.index, latest.index), min(policy.index, latest.index)), []).append(name)
            latest = max(latest, policy, key=lambda policy: math.inf if policy.window.end is None else policy.window.end)
    at = {policy.index: policy for policy, _ in pruners}
    for (later, earlier), names in sorted(shared.items()):
        yield document.fault(
            f"renews {_listed(names)} in {span(at[later].window)}, as policies[{earlier}] does in {span(at[earlier].window)}: "
            "where both fire the later one decides; let one end where the other begins",
            at[later].path,
        )


def hidden_gradients(document: Document, pruners: Sequence[tuple[Policy, Prune]], parameters: Mapping[str, Named]) -> Iterator[Fault]:
    """Policies that rank by gradients which an earlier one, with mask_gradients, has zeroed by then; a policy's own are read before."""
    masking = [(policy, resolve(action.pruner.targets, parameters)) for policy, action in pruners if policy.arguments.get("mask_gradients")]
    for later, action in pruners if masking else []:
        needs = action.pruner.needs
        if not any(isinstance(need, Gradients) for need in (needs if isinstance(needs, tuple | list) else [needs])):
            continue
        names = resolve(action.pruner.targets, parameters)
        for earlier, zeroed in masking:
            shared = [name for name in names if name in zeroed]
            if shared and earlier.index < later.index and earlier.window.overlaps(later.window):
                yield document.fault(
                    f"ranks {_listed(shared)} by gradients, of which mask_gradients in policies[{earlier.index}] hides those of what has fallen; "
                    f"leave mask_gradients out there, or let one end where the other begins",
                    later.path,
                )


def idle_patterns(targets: Mapping[str, Any], winners: Mapping[str, str], parameters: Mapping[str, Named]) -> Iterator[tuple[str, str]]:
    """Patterns that other targets leave no parameter, and so another value than theirs."""
    for target, value in targets.items():
        if winners and target not in winners.values():
            names = resolve({target: value}, parameters)
            if any(targets[winners[name]] != value for name in names):
                others = ", ".join(f"'{other}'" for other in dict.fromkeys(winners[name] for name in names))
                yield target, f"has no effect: all that it matches is taken by {others}; among patterns the first wins, so put it first"


def vectors_by_pattern(
    targets: Mapping[str, Any], winners: Mapping[str, str], parameters: Mapping[str, Named]
) -> Iterator[tuple[str, str]]:
    """Patterns by which a pruner gets hold of biases and gains, which hold few weights and matter much."""
    found: dict[str, list[str]] = {}
    for name, target in winners.items():
        named = parameters[name]
        if named.parameter.dim() < 2 and targets[target] != 0 and canonical(target) not in (name, *named.aliases):
            found.setdefault(target, []).append(name)
    for target, names in found.items():
        verb = "is a bias or a gain" if len(names) == 1 else "are biases or gains"
        yield target, f"prunes {_listed(names)} too, which {verb}; if that is not meant, give a narrower pattern or names"


def place(target: str, tree: object, path: Path) -> Path | None:
    """The path at which the arguments name a target."""
    if tree == target:
        return path
    children: list[tuple[str | int, object]] = []
    if isinstance(tree, Mapping):
        if target in tree:
            return (*path, target)
        children = list(tree.items())
    elif isinstance(tree, list):
        children = list(enumerate(tree))
    found = (place(target, child, (*path, key)) for key, child in children)
    return next((where for where in found if where is not None), None)


def winning(targets: Mapping[str, Any], parameters: Mapping[str, Named]) -> dict[str, str]:
    """Which target each parameter gets its value from; nothing where two names of one parameter stand side by side."""
    try:
        return resolve({target: target for target in targets}, parameters)
    except LookupError:
        return {}


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def resolvable(targets: Mapping[str, Any], parameters: Mapping[str, Named]) -> Mapping[str, Any]:
    """Which parameter gets which value; nothing where a target is wrong."""
    try:
        return resolve(targets, parameters)
    except LookupError:
        return {}


def unmatched_targets(targets: Mapping[str, Any], parameters: Mapping[str, Named] | None) -> Iterator[tuple[str, str]]:
    """The targets that are not well formed or, given a model, match nothing or contradict those before them, each with what to say of it."""
    if parameters is not None and resolvable(targets, parameters):
        return
    good: dict[str, Any] = {}
    for target, value in targets.items():
        try:
            matches(target, "") if parameters is None else resolve({**good, target: value}, parameters)
            good[target] = value
        except LookupError as error:
            yield target, str(error)

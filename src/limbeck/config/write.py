"""A schedule file written down: from policies by step to text that reads back as the same policies."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import yaml

from limbeck.errors import ScheduleError
from limbeck.pruning.translated import Step
from limbeck.schedules import Window

NAMES = {
    "ConstantSparsityPruner": "constant_sparsity",
    "KeepZerosPruner": "keep_zeros",
    "PolynomialDecayPruner": "polynomial_decay",
    "Pruner": "n_of_m",
}
"""What the instances are called."""


def schedule_text(steps: Sequence[Step], last_step: int | None, comments: Sequence[str] = ()) -> str:
    """The text of a schedule file with ``comments`` above it; a window without an end is cut off after ``last_step``.

    >>> from limbeck.pruning.translated import NeurST
    >>> options = NeurST("constant_sparsity", target_sparsity=0.5, keep_prune_property=False)
    >>> print(schedule_text(options.steps(), 1000, ["half"]))
    # half
    version: 1
    pruners:
      constant_sparsity:
        class: ConstantSparsityPruner
        target_sparsity: 0.5
        weights: ['matrices:*']
    policies:
    - pruner:
        instance_name: constant_sparsity
        args: {after_step: true}
      starting_step: 100
      ending_step: 1001
      frequency: 100

    Raises ``ScheduleError`` for such a window without a last step, and when nothing fires up to that.
    """
    steps = [
        _cut_off(step, last_step) for step in steps if step.window.end is not None or last_step is None or step.window.begin <= last_step
    ]
    if not steps:
        raise ScheduleError(f"a run of {last_step} steps never comes to a renewal of masks; let it be longer, or the first renewal earlier")
    arguments = [copy.deepcopy(dict(step.arguments)) for step in steps]  # a list that two of them share would be written as an alias
    pruners = {NAMES[step.class_name]: {"class": step.class_name, **given} for step, given in zip(steps, arguments, strict=True)}
    tree = {"version": 1, "pruners": pruners, "policies": [_policy(step) for step in steps]}
    body = yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=1000, allow_unicode=True)
    return "".join(f"# {line}\n" for line in comments) + body.rstrip("\n")


def _cut_off(step: Step, last_step: int | None) -> Step:
    """The policy with an end, which a file needs."""
    window = step.window
    if window.end is not None:
        return step
    if last_step is None:
        raise ScheduleError(
            "masks are renewed for ever, and a schedule file needs an end: give --train_steps, the updates of the whole run"
        )
    return replace(step, window=Window(window.begin, last_step + 1, window.every, window.unit))


def _policy(step: Step) -> dict[str, Any]:
    window, use = step.window, {"instance_name": NAMES[step.class_name]}
    policy: dict[str, Any] = {"pruner": {**use, "args": {"after_step": True}} if step.after_step else use}
    policy |= {"starting_step": window.begin, "ending_step": window.end}
    return {**policy, "frequency": window.every} if window.every > 1 else policy

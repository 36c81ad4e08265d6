"""A suggestion as a schedule file: the ramps of automated gradual pruning, with thinning at their end where whole structures go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import yaml

from limbeck.sensitivity.scan import Group
from limbeck.sensitivity.suggest import Suggestion

LINE = 148
START = 0.05
"""Where the ramps begin."""
PRUNER_CLASSES: Mapping[Group, tuple[str, dict[str, str]]] = {
    "element": ("AutomatedGradualPruner", {}),
    "filter": ("L1RankedStructureParameterPruner_AGP", {"group_type": "Filters"}),
    "channel": ("L1RankedStructureParameterPruner_AGP", {"group_type": "Channels"}),
}
REMOVERS: Mapping[Group, tuple[str, str]] = {
    "filter": ("FilterRemover", "remove_filters"),
    "channel": ("ChannelRemover", "remove_channels"),
}


def schedule_text(suggestion: Suggestion, ending_epoch: int, comments: Sequence[str] = ()) -> str:
    """The schedule file: ramps from epoch 0 up to, without, ``ending_epoch``, structures taken out at the last of their firings; comments above.

    >>> from limbeck.sensitivity import Budget, Metrics
    >>> kept = {"sparsity": 0.8, "parameters": 0.2, "macs": 0.2}
    >>> made = Suggestion("element", Budget("sparsity", 0.8), {"fc.weight": 0.8}, {}, kept, Metrics(90.0, 99.0, 0.3), 0.5, 85.0)
    >>> print(schedule_text(made, 10))
    # Predicted for sparsity=0.8, before any retraining, the rises of all parameters summed up: loss 0.3 -> 0.5, top-1 90.00 -> 85.00.
    # Zeros 80.00 %, parameters kept 20.00 %, MACs kept 20.00 % (of weights of two dimensions or more; zeros count as left out).
    <BLANKLINE>
    version: 1
    <BLANKLINE>
    pruners:
      element_80:
        class: AutomatedGradualPruner
        initial_sparsity: 0.05
        final_sparsity: 0.8
        weights: [fc.weight]
    <BLANKLINE>
    policies:
    - pruner: {instance_name: element_80}
      starting_epoch: 0
      ending_epoch: 10
      frequency: 1
    """
    group, by_level = suggestion.group, dict[float, list[str]]()
    for name, level in suggestion.levels.items():
        by_level.setdefault(level, []).append(name)
    kind, arguments = PRUNER_CLASSES[group]
    names = {level: f"{group}_{100 * level:g}".replace(".", "_") for level in sorted(by_level)}
    pruners = {
        names[level]: {
            "class": kind, "initial_sparsity": min(START, level), "final_sparsity": level, **arguments, "weights": by_level[level]
        }
        for level in names
    }  # fmt: skip
    policies: list[dict[str, Any]] = [
        {"pruner": {"instance_name": name}, "starting_epoch": 0, "ending_epoch": ending_epoch, "frequency": 1} for name in names.values()
    ]
    tree: dict[str, Any] = {"pruners": pruners}
    if group in REMOVERS:
        remover, function = REMOVERS[group]
        tree["extensions"] = {"thinner": {"class": remover, "thinning_func_str": function}}
        policies.append({"extension": {"instance_name": "thinner"}, "epochs": [ending_epoch - 1]})
    parts = [_dumped({key: value}) for key, value in {**tree, "policies": policies}.items()]
    lines = [*comments, *(part for line in _predicted(suggestion) for part in wrap(line, LINE, subsequent_indent="  "))]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines) + "\nversion: 1\n\n" + "\n".join(parts).rstrip("\n")


def _dumped(section: Mapping[str, Any]) -> str:
    return yaml.safe_dump(section, sort_keys=False, default_flow_style=None, width=LINE, allow_unicode=True)


def _predicted(made: Suggestion) -> list[str]:
    how = "zeros count as left out" if made.group == "element" else "after thinning"
    lines = [
        f"Predicted for {made.budget}, before any retraining, the rises of all parameters summed up: "
        f"loss {made.dense.loss:.4g} -> {made.loss:.4g}, top-1 {made.dense.top1:.2f} -> {made.top1:.2f}.",
        f"Zeros {made.kept['sparsity']:.2%}, parameters kept {made.kept['parameters']:.2%}, MACs kept {made.kept['macs']:.2%} "
        f"(of weights of two dimensions or more; {how}).".replace("%", " %"),
    ]
    reasons: dict[str, list[str]] = {}
    for name, reason in made.left.items():
        reasons.setdefault(reason, []).append(name)
    return lines + [f"Left dense, {reason}: {', '.join(names)}." for reason, names in reasons.items()]

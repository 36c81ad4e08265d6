"""The ``args`` of a pruner's policy, alone and together, for pruners of every kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from laws.rows import BY_STEP, PRUNER_ROWS, SOFT, Row
from limbeck.schedules import Window

FORWARD = {"mask_on_forward_only": True}
OPTIONS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("epoch", FORWARD),
    ("epoch", SOFT),
    ("epoch", {**FORWARD, **SOFT}),
    ("epoch", {"levels": 0.4}),
    ("epoch", {"keep_mask": True}),
    ("epoch", {**FORWARD, "keep_mask": True}),
    ("epoch", {**SOFT, "keep_mask": True, "mask_gradients": True}),
    ("epoch", {"mask_gradients": True, "mini_batch_pruning_frequency": 3}),
    ("epoch", {**FORWARD, "mini_batch_pruning_frequency": 1}),
    ("epoch", {**SOFT, "mini_batch_pruning_frequency": 2, "discard_masks_at_minibatch_end": True}),
    ("epoch", {"discard_masks_at_minibatch_end": True}),
    ("epoch", {"skip_first_minibatch": True}),
    ("epoch", {**SOFT, "skip_first_minibatch": True, "mini_batch_pruning_frequency": 1, "keep_mask": True}),
    ("epoch", {"fold_batchnorm": True}),
    ("epoch", {**SOFT, "fold_batchnorm": True, "mask_gradients": True}),
    ("step", {}),
    ("step", {**FORWARD, "mask_gradients": True}),
    ("step", {**SOFT, "keep_mask": True}),
    ("step", {**SOFT, "discard_masks_at_minibatch_end": True}),
    ("step", {"skip_first_minibatch": True, "fold_batchnorm": True}),
    ("step", {"after_step": True}),
    ("step", {"after_step": True, **SOFT}),
    ("step", {"after_step": True, **FORWARD, "keep_mask": True}),
)
"""Every argument, alone and together, with the unit of the windows that take it; ``levels`` is what each target is given."""


def with_options(row: Row, unit: str, options: Mapping[str, Any]) -> Row:
    """The row under other arguments of its policy, in a window that takes them."""
    window = row.window if row.window.unit == unit else BY_STEP if unit == "step" else Window(1, 4)
    if "levels" in options:
        options = {**options, "levels": dict.fromkeys(row.targets, options["levels"])}
    return replace(row, window=window, options=options)


def _of(name: str, note: str = "") -> Row:
    return next(row for row in PRUNER_ROWS if row.name == name and row.note == note)


KINDS_OF_PRUNERS = (
    _of("AutomatedGradualPruner"),
    _of("SplicingPruner"),
    _of("L1RankedStructureParameterPruner", "Leader"),
    _of("BernoulliFilterPruner"),
    _of("ActivationMeanRankedFilterPruner"),
    _of("MovementPruner"),
    _of("RigLPruner"),
    _of("WandaPruner", "2:4"),
)
"""One of each kind: by magnitude, with a memory, structures that are led, by chance, by activations, by gradients that add up, regrowing, by inputs."""
COMBINATIONS = [
    with_options(row, unit, options)
    for kind, row in enumerate(KINDS_OF_PRUNERS)
    for place, (unit, options) in enumerate(OPTIONS)
    if kind == 0 or (kind + place) % 3 == 0  # the first kind meets every argument, and every argument three kinds
]
every_combination = pytest.mark.parametrize("row", COMBINATIONS, ids=str)

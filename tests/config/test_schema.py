"""The JSON Schema agrees with the checker."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from limbeck.config.check import check
from limbeck.config.components import SECTIONS
from limbeck.config.load import load
from limbeck.config.schema import json_schema

SCHEDULES = sorted((Path(__file__).parents[2] / "schedules").rglob("*.yaml"))
PRUNER = "pruners: {p: {class: SparsityLevelParameterPruner, levels: {w: 0.5}}}\n"


@cache
def validator() -> Any:
    return jsonschema.Draft202012Validator(json_schema())


def valid(tree: object) -> bool:
    return bool(validator().is_valid(tree))


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("path", SCHEDULES, ids=lambda path: path.stem)
def test_every_shipped_schedule_is_valid_and_has_no_faults(path: Path) -> None:
    document = load(path)
    validator().validate(document.tree)
    report = check(document).report
    assert (report.faults, report.warnings) == ([], [])


def test_every_class_is_described_with_its_arguments() -> None:
    definitions: dict[str, Any] = json_schema()["$defs"]
    assert set(definitions) >= {name for section in SECTIONS for name in section.classes}
    assert set(definitions["ExponentialLR"]["properties"]) == {"class", "gamma"}
    assert definitions["ExponentialLR"]["required"] == ["class", "gamma"]
    assert definitions["AutomatedGradualPruner"]["properties"]["weights"]["anyOf"][1] == {"type": "array", "items": {"type": "string"}}


@pytest.mark.parametrize(
    ("arguments", "accepted"),
    [
        ("sparsity: 0.5", True),
        ("sparsity: 2", False),
        ("sparsity: {ramp: cosine, start: 0.1, stop: 0.5}", True),
        ("sparsity: {ramp: cosine, start: 0.1, stop: 1.5}", False),
        ("sparsity: {ramp: cosine, start: 0.1}", False),
        ("sparsity: {ramp: cosine, start: 0.1, stop: 0.5, power: 3}", False),
        ("sparsity: {ramp: polynomial, start: 0.1, stop: 0.5, power: 2}", True),
        ("sparsity: {ramp: piecewise, points: [[0, 0.5], [3, 0.0]], jump: true}", True),
        ("sparsity: {ramp: piecewise, points: [[0, 0.5], [3]]}", False),
        ("sparsity: {ramp: sideways}", False),
        ("sparsity: {start: 0.1, stop: 0.5}", False),
        ("n_of_m: '2:4'", True),
        ("n_of_m: 24", False),
        ("sparsity: 0.5, criterion: l2, granularity: blocks, block_shape: [1, 8], scope: row", True),
        ("sparsity: 0.5, criterion: l3", False),
        ("sparsity: 0.5, granularity: block", False),
        ("sparsity: 0.5, granularity: blocks, block_shape: [0]", False),
    ],
)
def test_schema_and_checker_agree_on_composed_pruners(arguments: str, accepted: bool) -> None:
    document = load(
        f"pruners: {{p: {{class: Pruner, weights: w, {arguments}}}}}\npolicies: [{{pruner: {{instance_name: p}}, epochs: [0]}}]\n"
    )
    assert valid(document.tree) == check(document).report.ok == accepted


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        (PRUNER + "policies: [{pruner: {instance_name: p}, epochs: [0]}]", True),
        (PRUNER + "policies: [{pruner: {instance_name: p}, starting_step: 0, ending_step: 3, frequency: 2}]", True),
        (PRUNER + "policies: [{pruner: {instance_name: p}, steps: [0, 7]}]", True),
        (PRUNER + "policies: [{pruner: {instance_name: p, args: {use_double_copies: true, levels: {w: 0.5}}}, steps: [0, 7]}]", True),
        (PRUNER + "policies: [{pruner: {instance_name: p, args: }, steps: [0, 7]}]", True),
        (PRUNER + "policies: [{pruner: {instance_name: p, args: {use_double_copy: true}}, steps: [0, 7]}]", False),
        (PRUNER + "policies: [{pruner: {instance_name: p, args: {levels: {w: 2}}}, steps: [0, 7]}]", False),
        (PRUNER + "policies: [{pruner: {instance_name: p}, steps: [0, 7], epochs: [1]}]", False),
        (PRUNER + "policies: [{pruner: {instance_name: p}, steps: [0, 7], frequency: 3}]", False),
        (
            "pruners: {p: {class: SparsityLevelParameterPruner, levels: {w: 1.5}}}\npolicies: [{pruner: {instance_name: p}, epochs: [0]}]",
            False,
        ),
        ("pruners: {p: {class: SparsityLevelParameterPruner}}\npolicies: [{pruner: {instance_name: p}, epochs: [0]}]", False),
        ("pruners: {p: {class: Nothing, levels: {w: 0.5}}}\npolicies: [{pruner: {instance_name: p}, epochs: [0]}]", False),
        (PRUNER + "policies: []", False),
        (PRUNER + "x: 1\npolicies: [{pruner: {instance_name: p}, epochs: [0]}]", False),
        (PRUNER + "version: 2\npolicies: [{pruner: {instance_name: p}, epochs: [0]}]", False),
        (PRUNER + "policies: [{pruner: {instance_name: p}}]", False),
        (PRUNER + "policies: [{pruner: {instance_name: p}, epochs: [0], frequency: 2}]", False),
        (PRUNER + "policies: [{pruner: {instance_name: p}, starting_epoch: 0, ending_step: 2}]", False),
        (PRUNER + "policies: [{pruner: {instance_name: p}, starting_epoch: 0, ending_epoch: 2, starting_step: 0}]", False),
        (PRUNER + "policies: [{pruner: {instance_name: p}, starting_epoch: 0}]", False),
        (PRUNER + "policies: [{pruner: {instance_name: p}, lr_scheduler: {instance_name: p}, epochs: [0]}]", False),
        (PRUNER + "policies: [{epochs: [0]}]", False),
        ("quantizers: {q: {class: PostTrainLinearQuantizer, mode: ASYMMETRIC_SIGNED, overrides: {fc: {bits_weights: null}}}}", True),
        ("quantizers: {q: {class: PostTrainLinearQuantizer, mode: {weights: symmetric}, clip_acts: AVG}}", True),
        (PRUNER + "quantizers: {q: {class: PostTrainLinearQuantizer}}\npolicies: [{pruner: {instance_name: p}, epochs: [0]}]", True),
        (PRUNER + "quantizers: {}\n", False),
        ("quantizers: {q: {class: PostTrainLinearQuantizer, bits_activations: 0}}", False),
        ("quantizers: {q: {class: PostTrainLinearQuantizer, mode: {inputs: symmetric}}}", False),
        ("quantizers: {q: {class: PostTrainLinearQuantizer, overrides: {fc: {bits: 4}}}}", False),
        ("quantizers: {q: {class: PostTrainLinearQuantizer}, r: {class: PostTrainLinearQuantizer}}", False),
        ("quantizers: {q: {class: PostTrainLinearQuantizer}}\npolicies: [{quantizer: {instance_name: q}, epochs: [0]}]", False),
        ("lr_schedulers: {l: {class: ReduceLROnPlateau, mode: max}}\npolicies: [{lr_scheduler: {instance_name: l}, epochs: [0]}]", True),
        ("lr_schedulers: {l: {class: ReduceLROnPlateau, mode: low}}\npolicies: [{lr_scheduler: {instance_name: l}, epochs: [0]}]", False),
    ],
)
def test_schema_and_checker_agree(text: str, accepted: bool) -> None:
    document = load(text + "\n")
    assert valid(document.tree) == check(document).report.ok == accepted

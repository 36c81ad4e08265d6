"""Which numbers each layer computes by: the ranges of tensors, and which tensor of a layer is on which range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from limbeck.quantization.build import Tensors
from limbeck.quantization.choice import Range, measured, named, of_input, output_range, weight_range, with_room
from limbeck.quantization.demands import has_integers, has_output, has_weight, inputs_of
from limbeck.quantization.fuse import Network
from limbeck.quantization.integers import Measured
from limbeck.quantization.kinds import Kind, Leaf
from limbeck.quantization.settings import Setting
from limbeck.quantization.stats import Stats
from limbeck.quantization.weighted import weight_tile
from limbeck.tile import TENSOR

Wire = str | Measured | None
"""The name of a range, one that is taken of each tensor as it comes, or None for floats."""


@dataclass
class Plan:
    """How a model will compute."""

    tensors: Mapping[str, Tensors]
    ranges: dict[str, Range] = field(default_factory=dict)
    wires: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By layer, the wires of its ``inputs``, its ``weight`` and its ``output``, and whether another's input is on the output's (``carries``)."""
    undecided: list[tuple[str, int]] = field(default_factory=list)
    """Inputs that come from no quantized layer, by layer and place; they have ranges of their own."""


def planned(
    layers: Mapping[str, Leaf], settings: Mapping[str, Setting], stats: Stats | None, network: Network, tensors: Mapping[str, Tensors]
) -> Plan:
    """The ranges of all layers that are to be quantized.

    Raises ``QuantizationError``, with the tensor's name, where none can be chosen.
    """
    plan = Plan(tensors)
    layers = {name: leaf for name, leaf in layers.items() if settings[name].fpq_module is None}
    for name, leaf in layers.items():
        plan.wires[name] = {"weight": _weight(plan, leaf, settings[name]), "output": _output(plan, leaf, settings[name], stats, network)}
    scales = _scales(plan, layers)
    for name, leaf in layers.items():
        plan.wires[name]["inputs"] = _inputs(plan, leaf, settings[name], stats, (network, scales))
        _make_room(plan, leaf, settings[name])
    read = {wire for wires in plan.wires.values() for wire in wires["inputs"] if wire is not None}
    for wires in plan.wires.values():
        wires["carries"] = wires["output"] in read
    return plan


def _weight(plan: Plan, leaf: Leaf, setting: Setting) -> Wire:
    weight = plan.tensors[leaf.name].weight
    if not has_weight(leaf, setting) or weight is None:
        return None
    with named(f"{leaf.name}.weight"):
        tile = weight_tile(leaf.module, setting)
    found = weight_range(leaf.name, weight, tile, setting)
    plan.ranges[found.name] = found
    return found.name


def _make_room(plan: Plan, leaf: Leaf, setting: Setting) -> None:
    """Let a layer's bias fit into the integers of its sums, whose steps are those of its input times those of its weight."""
    weight, inputs = plan.wires[leaf.name]["weight"], plan.wires[leaf.name]["inputs"]
    if leaf.kind is Kind.WEIGHTED and has_integers(leaf, setting) and inputs[0] in plan.ranges:
        plan.ranges[weight] = with_room(
            plan.ranges[weight], plan.tensors[leaf.name].bias, plan.ranges[inputs[0]].params, setting.bits_accum
        )


def _output(plan: Plan, leaf: Leaf, setting: Setting, stats: Stats | None, network: Network) -> Wire:
    if not has_output(leaf, setting):
        return None
    if stats is None:
        return measured(setting)
    name = network.joined.get(leaf.name, leaf.name)
    if name == leaf.name:
        seen = network.outputs.get(name) or stats[name].output
        assert seen is not None
        plan.ranges[f"{name}.output"] = output_range(f"{name}.output", seen, setting, network.bounds.get(name))
    return f"{name}.output"


def _scales(plan: Plan, layers: Mapping[str, Leaf]) -> dict[str, str]:
    """By layer, the range that what it computes is on; an embedding's is its weight's, where that is one."""
    found = {}
    for name, leaf in layers.items():
        wire = plan.wires[name]["weight" if leaf.kind is Kind.EMBEDDING else "output"]
        if isinstance(wire, str) and (leaf.kind is not Kind.EMBEDDING or plan.ranges[wire].tile == TENSOR):
            found[name] = wire
    return found


def _inputs(plan: Plan, leaf: Leaf, setting: Setting, stats: Stats | None, found: tuple[Network, Mapping[str, str]]) -> tuple[Wire, ...]:
    network, scales = found
    wires: dict[int, Wire] = {}
    for place in inputs_of(leaf, setting, stats):
        override, source = setting.input_overrides.get(place), network.sources.get((leaf.name, place), "")
        if override is not None and override.get("from_output"):
            wires[place] = plan.wires[leaf.name]["output"]
        elif stats is None:
            wires[place] = measured(of_input(setting, override))
        elif override is None and source in scales:
            wires[place] = scales[source]
        else:
            name = f"{leaf.name}.inputs.{place}"
            plan.ranges[name] = output_range(name, stats[leaf.name].inputs[place], of_input(setting, override))
            wires[place] = name
            if override is None:
                plan.undecided.append((leaf.name, place))
    return tuple(wires.get(place) for place in range(max(wires, default=-1) + 1))

"""Net-aware ranges: what is read off the graph before ranges are chosen.

- A layer that is read by a ReLU alone is rectified itself, and the ReLU passes on what it gets: no integer is spent on what the ReLU would cut.
- Behind a layer that only sigmoids read nothing matters beyond 6 on either side, behind tanhs beyond 4: they hardly change there. Where a layer is
  split, as the gates of an LSTM are, the readers of all parts count.
- Layers that are only read by one concatenation have the concatenation's range, so that nothing is rounded twice.
- An input that is another layer's output, moved or not, is on that layer's scale already, and has no range of its own. States that a model is given,
  and hands back, are on the scale of the layer that computes them.

Source: the pre-passes of ``distiller/quantization/range_linear.py``; Distiller passes scales along with tensors at run time, and loses them where a tensor is
split or moved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from torch import nn

from limbeck.graph import Node
from limbeck.quantization.histogram import Histogram
from limbeck.quantization.kinds import INTEGER, Kind, Leaf
from limbeck.quantization.paths import GIVEN, Paths
from limbeck.quantization.settings import Setting
from limbeck.quantization.stats import Stats, TensorStats

Bounds = tuple[float, float]
SATURATES: Mapping[str, Bounds] = {"relu": (0.0, math.inf), "sigmoid": (-6.0, 6.0), "tanh": (-4.0, 4.0)}
"""By operation, where an argument hardly makes a difference below, and above."""


@dataclass(frozen=True)
class Network:
    """What the graph says about the layers of a model."""

    outputs: Mapping[str, TensorStats] = field(default_factory=dict)
    """Statistics of outputs, as far as they are others than were collected."""
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    """What a range need not exceed."""
    rectified: frozenset[str] = frozenset()
    """Layers that do what the ReLU behind them did."""
    identities: frozenset[str] = frozenset()
    """Those ReLUs, where they are modules."""
    joined: Mapping[str, str] = field(default_factory=dict)
    """By layer, the one whose output's range it shares."""
    sources: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """By layer and input, the layer that it comes from."""


def clamped(stats: TensorStats, low: float, high: float) -> TensorStats:
    """Statistics of what is cut to a range; of mean and deviations what a histogram tells.

    >>> clamped(TensorStats(-2.0, 9.0, avg_min=-1.0, avg_max=8.0), 0.0, 6.0)
    TensorStats(min=0.0, max=6.0, avg_min=0.0, avg_max=6.0, mean=None, std=None, b=None, shape=None)
    """

    def cut(value: float | None) -> float | None:
        return None if value is None else min(max(value, low), high)

    least, most = min(max(stats.min, low), high), min(max(stats.max, low), high)
    stats = replace(stats, min=least, max=most, avg_min=cut(stats.avg_min), avg_max=cut(stats.avg_max))
    return stats if stats.histogram is None else _remeasured(stats, _clamped(stats.histogram, low, high))


def _clamped(histogram: Histogram, low: float, high: float) -> Histogram:
    """What lies outside is counted in the outermost bins inside."""
    last = histogram.first + len(histogram.counts) - 1
    bottom = math.floor(low / histogram.width) if math.isfinite(low) else histogram.first
    top = max(bottom, math.ceil(high / histogram.width) - 1) if math.isfinite(high) else max(bottom, last)
    places = np.clip(np.arange(histogram.first, last + 1), bottom, top)
    first = int(min(places[0], 0))
    counts = np.bincount(places - first, weights=histogram.counts).astype(np.int64)
    return Histogram(histogram.width, first, tuple(counts.tolist()))


def _remeasured(stats: TensorStats, histogram: Histogram) -> TensorStats:
    """With the mean and the deviations that the middles of a histogram's bins have."""
    counts, values = np.asarray(histogram.counts, dtype=np.float64), np.clip(histogram.centers, stats.min, stats.max)
    total = max(1.0, float(counts.sum()))
    mean = float(counts @ values) / total
    std = math.sqrt(float(counts @ (values - mean) ** 2) / max(1.0, total - 1))
    return replace(stats, mean=mean, std=std, b=float(counts @ np.abs(values - mean)) / total, histogram=histogram)


def aware(
    paths: Paths, leaves: Mapping[str, Leaf], settings: Mapping[str, Setting], stats: Stats, outputs: Mapping[str, TensorStats]
) -> Network:
    """What a graph says; ``outputs`` are the statistics of layers into which batch norms are folded."""
    outputs = dict(outputs)
    seen = {name: found for name in leaves if (found := outputs.get(name) or _output(stats, name)) is not None}
    bounds: dict[str, Bounds] = {}
    rectified: dict[str, list[Node]] = {}
    for name in leaves:
        ends = paths.ends(name) if _computes(leaves[name], settings[name]) and name in seen else []
        limits = [_limits(end) for end in ends]
        if not ends or None in limits:
            continue
        low, high = min(limit[0] for limit in limits if limit), max(limit[1] for limit in limits if limit)
        if low == 0:
            if not _agree(paths, settings, name, ends):
                continue
            rectified[name] = ends
        bounds[name] = low, high
        outputs[name] = _behind(paths, stats, ends) or clamped(seen[name], low, high)
    identities = _identities(paths, leaves, rectified)
    idle = frozenset(end.name for ends in rectified.values() for end in ends if not paths.owner(end))
    beyond = Paths(paths.graph, leaves, paths.passed | identities, idle)
    joined = _joined(beyond, leaves, settings, stats, {**seen, **outputs})
    sources = _sources(beyond, {name: settings[name] for name in leaves}, stats, (seen, joined))
    return Network(outputs, bounds, frozenset(rectified), identities, joined, sources)


def _limits(node: Node) -> Bounds | None:
    """Between what an activation's argument matters; a ReLU6 is a ``hardtanh`` of 0 and 6."""
    operation = node.operation.removesuffix("_")
    if operation != "hardtanh":
        return SATURATES.get(operation)
    given = [float(bound) for bound in node.args[1:3]]
    return given[0] if given else -1.0, given[1] if len(given) > 1 else 1.0


def _output(stats: Stats, name: str) -> TensorStats | None:
    return stats[name].output if name in stats else None


def _computes(leaf: Leaf, setting: Setting) -> bool:
    """Whether a layer has an output that is quantized and that an activation could be a part of."""
    activation = isinstance(leaf.module, nn.ReLU | nn.ReLU6 | nn.Sigmoid | nn.Tanh)
    return (leaf.kind in INTEGER or leaf.kind is Kind.OTHER) and not activation and _has_output(setting)


def _has_output(setting: Setting) -> bool:
    return setting.bits_activations is not None and setting.fpq_module is None


def _alike(one: Setting, other: Setting) -> bool:
    """Whether two layers ask the same of their outputs."""
    keys = ("bits_activations", "mode_activations", "clip_acts", "clip_n_stds", "fpq_module")
    return all(getattr(one, key) == getattr(other, key) for key in keys)


def _agree(paths: Paths, settings: Mapping[str, Setting], name: str, ends: list[Node]) -> bool:
    """Whether the rectifiers behind a layer, where they are modules, are quantized as it is, or not at all."""
    behind = [settings[owner] for end in ends if (owner := paths.owner(end))]
    return all(_alike(settings[name], each) or not each.quantizes for each in behind)


def _behind(paths: Paths, stats: Stats, ends: list[Node]) -> TensorStats | None:
    """The statistics of the one ReLU behind a layer, where it is a module that nothing else uses."""
    owner = paths.owner(ends[0])
    alone = len(ends) == 1 and bool(owner) and len(paths.nodes_of[owner]) == 1 and _limits(ends[0]) in ((0.0, math.inf), (0.0, 6.0))
    return _output(stats, owner) if alone else None


def _identities(paths: Paths, leaves: Mapping[str, Leaf], rectified: Mapping[str, list[Node]]) -> frozenset[str]:
    """The ReLU modules all of whose calls stand behind rectified layers."""
    reached = {end.name for ends in rectified.values() for end in ends}
    found = {paths.owner(end) for ends in rectified.values() for end in ends} - {""}
    return frozenset(
        name for name in found if isinstance(leaves[name].module, nn.ReLU) and {node.name for node in paths.nodes_of[name]} <= reached
    )


def _joined(
    paths: Paths, leaves: Mapping[str, Leaf], settings: Mapping[str, Setting], stats: Stats, seen: Mapping[str, TensorStats]
) -> dict[str, str]:
    """By layer that only one concatenation reads, the module that concatenates."""
    found = {}
    for name, leaf in leaves.items():
        if not (leaf.kind in INTEGER or leaf.kind is Kind.OTHER) or not _has_output(settings[name]) or name not in seen:
            continue
        ends = paths.ends(name)
        owner = paths.owner(ends[0]) if len(ends) == 1 else ""
        runs_once = bool(owner) and leaves[owner].kind is Kind.CONCAT and len(paths.nodes_of[owner]) == 1
        if runs_once and owner in stats and _alike(settings[name], settings[owner]) and name not in paths.passed:
            found[name] = owner
    return {name: _last(found, name) for name in found}


def _last(found: Mapping[str, str], name: str) -> str:
    while name in found:
        name = found[name]
    return name


def _sources(
    paths: Paths, settings: Mapping[str, Setting], stats: Stats, seen: tuple[Mapping[str, TensorStats], Mapping[str, str]]
) -> dict[tuple[str, int], str]:
    """By layer and input, the one quantized layer whose numbers it is given; they must lie in the range that was seen of that layer."""
    outputs, joined = seen
    found = {}
    for name, setting in settings.items():
        if name not in stats or not setting.quantizes:
            continue
        inputs = stats[name].inputs
        calls = paths.calls(name, len(inputs))
        for place, given in inputs.items():
            origins = [paths.origin_of(call[place]) for call in calls if place < len(call)]
            names = frozenset().union(*[each for each in origins if each != {GIVEN}])
            source = next(iter(names)) if len({joined.get(each, each) for each in names}) == 1 else ""
            if source in settings and source in outputs and _within(given, outputs[source]):
                found[name, place] = source
    return found


def _within(given: TensorStats, seen: TensorStats) -> bool:
    slack = 1e-6 * max(abs(seen.min), abs(seen.max))
    return seen.min - slack <= given.min and given.max <= seen.max + slack

"""What was quantized and how, for people: tables of tensors and of layers, and their picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limbeck.apps.figures import COLORS, INK, MUTED, dress, sheet
from limbeck.errors import require
from limbeck.quantization.rows import Row
from limbeck.summaries.render import Column, Table, fixed, thousands

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 3
"""The costliest layers that are named below the table."""
TALL = 0.24
"""Inches for a layer in the picture."""


def significant(number: float) -> str:
    """Four significant digits.

    >>> significant(0.00392158), significant(22.5), significant(0.0)
    ('0.003922', '22.5', '0')
    """
    return f"{number:.4g}"


def zeros(row: Row) -> str | None:
    """How many weights are zero: before, and after where these are more.

    >>> zeros(Row("fc", "weight", "int8", 8, values=100, zeros_before=80, zeros_after=85))
    '80 -> 85'
    """
    if row.zeros_before is None or row.zeros_after is None:
        return None
    after = thousands(row.zeros_after)
    return after if row.zeros_after == row.zeros_before else f"{thousands(row.zeros_before)} -> {after}"


@dataclass(frozen=True)
class TensorRow:
    """A line of the table of tensors."""

    layer: str
    tensor: str
    kind: str
    mode: str | None
    scale: float | None
    zero_point: int | None
    groups: int
    clipping: str | None
    low: float | None
    high: float | None
    snr_db: float | None
    zeros: str | None


TENSORS = (
    Column("Layer", "layer"),
    Column("Tensor", "tensor"),
    Column("Kind", "kind"),
    Column("Mode", "mode"),
    Column("Scale", "scale", significant),
    Column("Zero", "zero_point", str),
    Column("Scales", "groups", thousands),
    Column("Clipping", "clipping"),
    Column("Low", "low", significant),
    Column("High", "high", significant),
    Column("SNR (dB)", "snr_db", fixed(1)),
    Column("Zeros", "zeros", str),
)


def tensor_table(rows: Sequence[Row], title: str, notes: Sequence[str] = ()) -> Table:
    """Every tensor that is quantized: bits, mode, scale and zero point, clipping, range, signal-to-noise ratio, zeros."""
    lines = tuple(
        TensorRow(
            row.layer, row.tensor, row.kind, row.mode or None, row.scale, row.zero_point, row.groups, row.clipping or None, row.low, row.high,
            row.snr_db, zeros(row),
        )
        for row in rows
    )  # fmt: skip
    return Table(title, TENSORS, lines, notes=(*_notes(rows), *notes))


def _notes(rows: Sequence[Row]) -> list[str]:
    notes = []
    if any(row.groups > 1 and row.scale is not None for row in rows):
        notes.append("Of several scales the geometric mean is shown, and the zero point where it is one for all.")
    said = {
        "weights": "of weights, exactly",
        "evaluation": "of outputs, against FP32 in an evaluation, noise of earlier layers in it",
        "histogram": "of other tensors, estimated from the statistics' histograms",
    }
    ways = [words for way, words in said.items() if any(row.snr_of == way for row in rows)]
    if ways:
        notes.append(f"SNR, signal-to-noise ratio: {'; '.join(ways)}.")
    return [*notes, *zeros_kept(rows)]


def zeros_kept(rows: Sequence[Row]) -> list[str]:
    """Whether zeros stayed zeros, in a line.

    >>> zeros_kept([Row("fc", "weight", "int8", 8, values=100, zeros_before=80, zeros_after=85)])
    ['Zeros stay zeros: 80 of 100 weights were zero (80.0%), 85 are now (85.0%): small ones fall to zero too.']
    """
    weights = [
        row for row in rows if row.tensor == "weight" and row.values and row.zeros_before is not None and row.zeros_after is not None
    ]
    if not weights:
        return []
    total = sum(row.values or 0 for row in weights)
    before, after = sum(row.zeros_before or 0 for row in weights), sum(row.zeros_after or 0 for row in weights)
    lost = [row.layer for row in weights if (row.zeros_after or 0) < (row.zeros_before or 0)]
    if lost:
        return [f"Zeros were lost in {', '.join(lost)}."]
    more = ": small ones fall to zero too" if after > before else ""
    return [
        f"Zeros stay zeros: {before:,} of {total:,} weights were zero ({before / total:.1%}), {after:,} are now ({after / total:.1%}){more}."
    ]


@dataclass(frozen=True)
class LayerRow:
    """One layer: its weights, its output, and what it costs to quantize it alone."""

    layer: str
    kind: str
    weight_scale: float | None
    weight_snr: float | None
    scale: float | None
    zero_point: int | None
    clipping: str | None
    snr: float | None
    cost: float | None


LAYERS = (
    Column("Layer", "layer"),
    Column("Kind", "kind"),
    Column("Weights: scale", "weight_scale", significant),
    Column("SNR (dB)", "weight_snr", fixed(1)),
    Column("Output: scale", "scale", significant),
    Column("Zero", "zero_point", str),
    Column("Clipping", "clipping"),
    Column("SNR (dB)", "snr", fixed(1)),
    Column("Divergence", "cost", significant),
)


def layer_table(rows: Sequence[Row], costs: Mapping[str, float], title: str, notes: Sequence[str] = ()) -> Table:
    """A line a layer, in the model's order; ``costs`` is the divergence from FP32's predictions where one alone is quantized.

    >>> layer_table([Row("fc", "weight", "int4", 4, snr_db=40.0), Row("fc", "output", "int8", 8, scale=0.5)], {"fc": 0.0125}, "LeNet").cells
    [['fc', 'int4/int8', '-', '40.0', '0.5', '-', '-', '-', '0.0125']]
    """
    of = {(row.layer, row.tensor): row for row in rows}
    lines = []
    for layer in dict.fromkeys(row.layer for row in rows):
        weight, output = of.get((layer, "weight")), of.get((layer, "output"))
        kinds = dict.fromkeys(row.kind for row in (weight, output) if row is not None)
        weight, shown = weight or Row(layer, "weight", "", 0), output or Row(layer, "output", "", 0)
        lines.append(
            LayerRow(
                layer, "/".join(kinds), weight.scale, weight.snr_db, shown.scale, shown.zero_point,
                shown.clipping or None, shown.snr_db, costs.get(layer),
            )
        )  # fmt: skip
    return Table(title, LAYERS, tuple(lines), notes=(*_costliest(costs), *_notes(rows), *notes))


def _costliest(costs: Mapping[str, float]) -> list[str]:
    """The layers that cost most, in a line."""
    ordered = [layer for layer in sorted(costs, key=lambda layer: -costs[layer]) if costs[layer] > 0][:SHOWN]
    told = ", ".join(f"{layer} ({significant(costs[layer])})" for layer in ordered)
    what = "Divergence: from FP32's predictions, nats a sample, where that layer alone is quantized"
    return [f"{what}; the costliest are {told}."] if told else []


def report_figure(rows: Sequence[Row], costs: Mapping[str, float], title: str) -> Figure:
    """The signal-to-noise ratios of all layers, in the model's order from top to bottom, and beside them what each costs where that was measured."""
    layers = list(dict.fromkeys(row.layer for row in rows if row.snr_db is not None or row.layer in costs))
    width, height = (12 if costs else 8.5), 1.6 + TALL * max(4, len(layers))
    figure = sheet((width, height))
    figure.suptitle(title, color=INK, fontsize=13, fontweight="bold")
    frames = list(figure.subplots(1, 2 if costs else 1, sharey=True, squeeze=False, width_ratios=[3, 2] if costs else [1]).flat)
    for frame in frames:
        _style(frame, layers)
    _signal(frames[0], rows, layers)
    if costs:
        _costs(frames[1], costs, layers)
    return figure


def _signal(axes: Axes, rows: Sequence[Row], layers: Sequence[str]) -> None:
    for tensor, marker, color, label in (("weight", "D", COLORS[1], "weights"), ("output", "o", COLORS[0], "output")):
        found = {row.layer: row.snr_db for row in rows if row.tensor == tensor and row.snr_db is not None and math.isfinite(row.snr_db)}
        places = [place for place, layer in enumerate(layers) if layer in found]
        if places:
            axes.scatter([found[layers[place]] for place in places], places, s=34, marker=marker, color=color, label=label, zorder=3)
    axes.set_xlabel("signal-to-noise ratio against FP32 (dB, higher is better)", color=MUTED)
    if axes.collections:
        axes.legend(frameon=False, labelcolor=INK, loc="best", fontsize=9)


def _costs(axes: Axes, costs: Mapping[str, float], layers: Sequence[str]) -> None:
    found = [(place, costs[layer]) for place, layer in enumerate(layers) if layer in costs]
    axes.barh([place for place, _ in found], [cost for _, cost in found], color=COLORS[3], height=0.62, zorder=2)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_xlabel("divergence from FP32 where it alone is quantized (nats)", color=MUTED)
    axes.xaxis.set_major_locator(require("matplotlib.ticker", "all").MaxNLocator(5))


def _style(axes: Axes, layers: Sequence[str]) -> None:
    axes.set_yticks(range(len(layers)), layers)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    dress(axes, small=True)

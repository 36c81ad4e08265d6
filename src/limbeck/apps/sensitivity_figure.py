"""The picture of a sensitivity analysis: a curve for each parameter, all in one frame where they are few, and each in its own where they are many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from limbeck.apps.figures import COLORS, GRID, INK, MUTED, dress, sheet
from limbeck.sensitivity import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOGETHER = 6
"""So many curves share a frame; they have colours and markers of their own."""
ACROSS = 5
MARKERS = ("o", "D", "^", "v", "s", "P")
Curve = tuple[list[float], list[float]]


def sensitivity_figure(rows: Sequence[Row], title: str) -> Figure:
    """Top-1 over the fraction of its units that one parameter is without, in the order of the rows.

    In a frame of its own, a curve has all others in grey behind it.
    """
    curves: dict[str, Curve] = {}
    for row in sorted(rows, key=lambda row: row.sparsity):
        curves.setdefault(row.parameter, ([], []))
        if math.isfinite(row.top1):
            curves[row.parameter][0].append(100 * row.pruned)
            curves[row.parameter][1].append(row.top1)
    names = list(dict.fromkeys(row.parameter for row in rows))
    together = len(names) <= TOGETHER
    across = 1 if together else min(ACROSS, len(names))
    down = 1 if together else -(-len(names) // across)
    size = (8, 5) if together else (3.1 * across, 1.2 + 2.0 * down)
    figure = sheet(size)
    figure.suptitle(title, color=INK, fontsize=13, fontweight="bold")
    figure.supxlabel("pruned (%), all else dense, no retraining", color=MUTED, fontsize=10)
    figure.supylabel("top-1 (%)", color=MUTED, fontsize=10)
    frames = list(figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat)
    for frame in frames:
        dress(frame, small=True)
    if together:
        _all_in_one(frames[0], names, curves)
    else:
        _one_each(frames, names, curves)
    return figure


def _all_in_one(axes: Axes, names: Sequence[str], curves: dict[str, Curve]) -> None:
    for index, name in enumerate(names):
        axes.plot(*curves[name], color=COLORS[index], marker=MARKERS[index], markersize=4, linewidth=1.6, label=name)
    if names:
        axes.legend(frameon=False, labelcolor=INK, loc="best", fontsize=9)


def _one_each(frames: Sequence[Axes], names: Sequence[str], curves: dict[str, Curve]) -> None:
    for frame, name in zip(frames, names, strict=False):
        for other in names:
            frame.plot(*curves[other], color=GRID, linewidth=0.8, zorder=1)
        frame.plot(*curves[name], color=COLORS[0], linewidth=1.8, zorder=2)
        frame.set_title(name, color=INK, fontsize=8, loc="left")
    for frame in frames[len(names) :]:
        frame.set_axis_off()

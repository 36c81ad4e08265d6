"""The picture of a classifier that was quantized with several numbers of bits and clippings: a group of dots for each number of bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from limbeck.apps.figures import COLORS, DENSE, INK, MARKERS, MUTED, canvas

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure


class Row(Protocol):
    """One clipping, with the top-1 by number of bits."""

    @property
    def clipping(self) -> str:
        """Its name."""

    @property
    def top1(self) -> Mapping[str, float | None]:
        """In percent."""


def clipping_figure(rows: Sequence[Row], float_top1: float, title: str) -> Figure:
    """Top-1 over the number of bits, a line a clipping, FP32 as a dashed one."""
    figure, axes = canvas(title, "top-1 (%)")
    bits = list(rows[0].top1) if rows else []
    axes.axhline(float_top1, linestyle="--", color=DENSE, linewidth=1.4, label="FP32", zorder=1)
    for index, row in enumerate(rows):
        found = [(place, top1) for place, number in enumerate(bits) if (top1 := row.top1[number]) is not None]
        color, line = COLORS[index % len(COLORS)], ("-", ":")[index // len(COLORS) % 2]
        places, values = [place for place, _ in found], [top1 for _, top1 in found]
        axes.plot(places, values, line, color=color, marker=MARKERS[index % len(MARKERS)], markersize=6, linewidth=1.4, label=row.clipping)
    axes.set_xticks(range(len(bits)), bits)
    axes.margins(x=0.12)
    axes.set_xlabel("bits of weights and activations", color=MUTED)
    axes.legend(frameon=False, labelcolor=INK, loc="best", fontsize=9, ncols=2)
    return figure

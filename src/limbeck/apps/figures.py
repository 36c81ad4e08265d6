"""The pictures of a comparison, drawn with matplotlib's objects alone: no global state, no window."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.errors import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

INK, MUTED, GRID = "#22272e", "#6b7280", "#e5e7eb"
DENSE = "#4b5563"
COLORS = ("#0f62fe", "#d9480f", "#0b7a4b", "#8a3ffc", "#b0085a", "#8d6b00")  # readable on white, and apart for the colour-blind
MARKERS = ("D", "^", "v", "P", "X", "p")
PLACES = ((0, 9), (9, 5), (-9, 5), (11, 0), (-11, 0), (0, -17), (9, -13), (-9, -13), (0, 21), (0, -29), (26, 14), (-26, 14))

PIECES = 100  # of a line between two points, as an obstacle for labels
DECADE = 10  # a log axis that spans less has too few powers of ten to be read by, and is divided evenly
INLINE_LEGEND, MARKED_EPOCHS = 6, 15  # more curves have their legend beside the axes; more epochs have no markers


@dataclass(frozen=True)
class Point:
    """A run in a size figure: its size and its measure; ``series`` is None for a dense baseline."""

    label: str
    size: float
    measure: float
    series: str | None
    finished: bool = True


@dataclass(frozen=True)
class Curve:
    """A run in an epoch figure."""

    label: str
    epochs: Sequence[int]
    values: Sequence[float]
    dense: bool


@dataclass(frozen=True)
class Axis:
    """What a size figure shows."""

    title: str = "Perplexity against model size"
    size: str = "non-zero weights"
    higher: bool = False
    """Whether the measure is better where it is higher."""
    least: float = 0.0
    """What the axis of the measure spans at least, so that chance does not look like a difference."""

    @property
    def better(self) -> str:
        """Which way is better, in words."""
        return f"{'higher' if self.higher else 'lower'} is better"


PERPLEXITY = Axis()


def size_figure(points: Sequence[Point], measure: str, axis: Axis = PERPLEXITY) -> Figure:
    """Figure 1: a measure against a size on a log scale; baselines joined in grey, a coloured series for each pruned type.

    Points that are not finite (a diverged run) are left out; those of unfinished runs are hollow.
    """
    drawn = [point for point in points if math.isfinite(point.measure)]
    figure, axes = canvas(axis.title, f"{measure} ({axis.better})")
    axes.set_xscale("log")
    axes.set_xlabel(f"{axis.size} (log scale)", color=MUTED)
    series = dict.fromkeys(point.series for point in sorted(drawn, key=lambda point: point.series is not None))
    pruned = [name for name in series if name is not None]
    colors: dict[str | None, str] = {None: DENSE, **dict(zip(pruned, cycle(COLORS), strict=False))}
    for index, name in enumerate(series):
        chosen = [point for point in drawn if point.series == name]
        _draw_series(axes, chosen, colors[name], MARKERS[index % len(MARKERS)], axis.higher)
    if not drawn:
        _say_empty(axes, f"no {measure} yet")
        return figure
    axes.margins(0.14, 0.16)
    _widen(axes, axis.least)
    ticker = require("matplotlib.ticker", "all")
    left, right = axes.get_xlim()
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)) if right / left >= DECADE else ticker.MaxNLocator(nbins=6))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(lambda number, _: short(number))
    _legend(figure, axes, len(series))
    _place_labels(figure, axes, drawn, colors)
    return figure


def _widen(axes: Axes, least: float) -> None:
    """Let sizes span a factor of two at least, and the measure ``least``."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    if right / left < 2:
        middle = math.sqrt(left * right)
        axes.set_xlim(middle / math.sqrt(2), middle * math.sqrt(2))
    if high - low < least:
        axes.set_ylim((low + high - least) / 2, (low + high + least) / 2)


def _draw_series(axes: Axes, points: Sequence[Point], color: str, marker: str, higher: bool) -> None:
    dense = points[0].series is None
    best: dict[float, float] = {}
    for point in sorted(points, key=lambda point: (point.size, point.measure if higher else -point.measure)):
        best[point.size] = point.measure
    axes.plot(list(best), list(best.values()), "--" if dense else "-", color=color, alpha=0.45, linewidth=1.6, zorder=2)
    for finished in (True, False):
        chosen = [point for point in points if point.finished == finished]
        if chosen:
            label = (points[0].series or "dense") + ("" if finished else " (unfinished)")
            xs, ys = [point.size for point in chosen], [point.measure for point in chosen]
            face = color if finished else "white"
            axes.scatter(xs, ys, s=64, marker="o" if dense else marker, facecolors=face, edgecolors=color, label=label, zorder=3)


def epoch_figure(curves: Sequence[Curve], label: str, title: str, log: bool = False, whole: bool = True) -> Figure:
    """A line a run against its epochs, which count from 0 as in a schedule; dense runs in grey. ``whole`` shows all of 0 to 100."""
    figure, axes = canvas(title, label + (" (log scale, lower is better)" if log else ""))
    axes.set_xlabel("epoch (from 0, as in a schedule)", color=MUTED)
    ticker = require("matplotlib.ticker", "all")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    dense = 0
    for curve in curves:
        pruned = len(axes.lines) - dense
        color = DENSE if curve.dense else COLORS[pruned % len(COLORS)]
        line = ("--", ":", "-.")[dense % 3] if curve.dense else "-"
        dense += curve.dense
        marker = "o" if len(curve.epochs) <= MARKED_EPOCHS else ""
        axes.plot(curve.epochs, curve.values, line, color=color, marker=marker, markersize=4, linewidth=1.8, label=curve.label)
    if not curves:
        _say_empty(axes, "no epoch has ended yet")
        return figure
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    elif whole:
        axes.set_ylim(-3, 103)
    _legend(figure, axes, len(curves))
    return figure


def save(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write ``stem.png`` and ``stem.svg``."""
    png, svg = stem.with_suffix(".png"), stem.with_suffix(".svg")
    figure.savefig(png, dpi=160)
    figure.savefig(svg, metadata={"Date": None})
    return png, svg


def short(number: float) -> str:
    """A count for an axis.

    >>> short(7_295_600), short(500_000), short(2e9), short(50)
    ('7.3M', '500k', '2B', '50')
    """
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def sheet(size: tuple[float, float]) -> Figure:
    """An empty figure of so many inches, width and height, that belongs to no window."""
    figure: Figure = require("matplotlib.figure", "all").Figure(figsize=size, layout="constrained")
    require("matplotlib.backends.backend_agg", "all").FigureCanvasAgg(figure)
    return figure


def canvas(title: str, ylabel: str) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, a title and a name for the measure."""
    figure = sheet((8, 5))
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", color=INK, fontsize=13, fontweight="bold", pad=12)
    axes.set_ylabel(ylabel, color=MUTED)
    dress(axes)
    return figure, axes


def dress(axes: Axes, small: bool = False) -> None:
    """A light grid behind what is drawn, and no box around it; ``small`` is for one pair of axes of several."""
    axes.grid(True, color=GRID, linewidth=0.6 if small else 0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0)
    if small:
        axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)


def _legend(figure: Figure, axes: Axes, entries: int) -> None:
    if entries <= INLINE_LEGEND:
        axes.legend(frameon=False, labelcolor=INK, loc="best", fontsize=9)
    else:
        figure.legend(frameon=False, labelcolor=INK, loc="outside right upper", fontsize=9)


def _say_empty(axes: Axes, message: str) -> None:
    axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center", color=MUTED)


def _place_labels(figure: Figure, axes: Axes, points: Sequence[Point], colors: dict[str | None, str]) -> None:
    """Write each label at the first place around its point where it covers no point, line or other label and stays inside the axes."""
    figure.draw_without_rendering()  # settles the layout, so that places on the canvas are known
    inside, taken = axes.get_window_extent(), [*_obstacles(axes, points)]
    for point in points:
        for offset in PLACES:
            text = _label(axes, point, offset, colors[point.series])
            box = text.get_window_extent()
            free = not any(box.overlaps(other) for other in taken)
            if (free and inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1)) or offset == PLACES[-1]:
                taken.append(box)
                break
            text.remove()


def _obstacles(axes: Axes, points: Sequence[Point]) -> Iterator[Bbox]:
    """What labels keep off: the points, the lines in short pieces, the legend."""
    box = require("matplotlib.transforms", "all").Bbox.from_extents
    legend = axes.get_legend()
    if legend is not None:
        yield legend.get_window_extent()
    for x, y in axes.transData.transform([(point.size, point.measure) for point in points]):
        yield box(x - 7, y - 7, x + 7, y + 7)
    for line in axes.lines:
        corners = axes.transData.transform(line.get_xydata())
        for (x0, y0), (x1, y1) in pairwise(corners):
            for step in range(PIECES + 1):
                x, y = x0 + (x1 - x0) * step / PIECES, y0 + (y1 - y0) * step / PIECES
                yield box(x - 1, y - 1, x + 1, y + 1)


def _label(axes: Axes, point: Point, offset: tuple[int, int], color: str) -> Annotation:
    side = "center" if offset[0] == 0 else "left" if offset[0] > 0 else "right"
    level = "center" if offset[1] == 0 else "baseline"
    where = (point.size, point.measure)
    return axes.annotate(point.label, where, xytext=offset, textcoords="offset points", ha=side, va=level, fontsize=9, color=color)

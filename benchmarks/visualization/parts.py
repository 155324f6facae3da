"""The parts plots are drawn from: reading their data, and marks that several of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from benchmarks.stat_tests.aggregates import Band
from benchmarks.visualization.style import BLUE, GREY, INK, PALE, VERMILLION, Look, label_axes, name_rows

History = Mapping[str, Sequence[float]] | Sequence[Mapping[str, Any]]
"""Per-episode records: columns by name, or one mapping a row (as ``history.csv`` is read)."""


def draw_kept(axes: Axes, budgets: Mapping[str, float]) -> None:
    """Bars of the channels removed and kept, a row a layer."""
    rows = np.arange(len(budgets))
    removed = 100 * np.array(list(budgets.values()), dtype=float)
    kept = 100 - removed
    axes.barh(rows, kept, height=0.66, color=BLUE, label="kept")
    axes.barh(
        rows, removed, left=kept, height=0.66, color=PALE, edgecolor=GREY, linewidth=0.6, hatch="////", label="removed"
    )
    axes.set_xlim(0, 100)
    label_axes(axes, title="Budgets", x="channels of the layer (%)")
    name_rows(axes, list(budgets))
    axes.legend(frameon=False, fontsize=8.5, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 0.985), borderaxespad=0.2)


def history_columns(history: History, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Return those of the named columns that a history has, [episodes] each."""
    if isinstance(history, Mapping):
        return {name: np.asarray(history[name], dtype=float) for name in names if name in history}
    first = history[0] if len(history) else {}
    return {name: np.array([float(row[name]) for row in history]) for name in names if name in first}


def by_layer(scores: Mapping[str, Any] | Sequence[Any], names: Sequence[str]) -> list[NDArray[np.float64]]:
    """Return the scores of every named layer, [channels] each, given by name or in the order of the names.

    Raises:
        ValueError: no layers, or scores that do not belong to them.
    """
    if not names:
        raise ValueError("no layers to draw; pass at least one layer name")
    if isinstance(scores, Mapping):
        missing = [name for name in names if name not in scores]
        if missing:
            raise ValueError(f"no prices for the layers {', '.join(missing)} (given: {', '.join(scores)})")
        scores = [scores[name] for name in names]
    if len(scores) != len(names):
        raise ValueError(f"got {len(scores)} rows of prices for {len(names)} layer names")
    return [np.atleast_1d(np.asarray(values, dtype=float)) for values in scores]


def running_median(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Median of up to ``window`` values up to and including each one, ``[N] -> [N]``."""
    return np.array([np.median(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)])


def draw_noisy_curve(axes: Axes, episodes: NDArray[Any], values: NDArray[np.float64], colour: str) -> None:
    """Points with their running median; the scale is that of the bulk, what lies outside is marked at the edge."""
    window = max(2, len(values) // 10)
    low, high = np.percentile(values, (5, 95))
    margin = max(high - low, 1e-3 * max(abs(high), 1e-3))
    bottom, top = max(low - margin, values.min() - 0.1 * margin), min(high + margin, values.max() + 0.1 * margin)
    inside = (values >= bottom) & (values <= top)
    axes.plot(episodes[inside], values[inside], "o", color=colour, markersize=3, alpha=0.4, label="episode")
    median = np.clip(running_median(values, window), bottom, top)
    axes.plot(episodes, median, color=colour, linewidth=1.8, label=f"median of the last {window}")
    for marker, rows, edge in (("v", values < bottom, bottom), ("^", values > top, top)):
        if rows.any():
            (points,) = axes.plot(episodes[rows], np.full(rows.sum(), edge), marker, label="off this scale")
            points.set(color=VERMILLION, markersize=5, clip_on=False)
    axes.set_ylim(bottom, top)


def draw_dots(axes: Axes, values: Sequence[float], text: str, colour: str, marker: str) -> None:
    """A dot a row with its value beside it; ``text`` formats the value."""
    rows = range(len(values))
    axes.hlines(rows, 0, 1, color=PALE, linewidth=2, transform=axes.get_yaxis_transform())
    axes.plot(values, rows, marker, color=colour, markersize=7)
    for row, value in zip(rows, values, strict=True):
        axes.annotate(
            text.format(value), (value, row), (7, 0), textcoords="offset points", va="center", fontsize=9, color=INK
        )
    axes.margins(x=0.18)


def draw_band(
    axes: Axes,
    positions: NDArray[Any],
    band: Band,
    style: Look,
    label: str,
    *,
    step: bool = False,
    marks: int = 10,
    interval: bool = True,
) -> None:
    """A curve of fractions, in percent, and its interval; a few markers tell lines apart where colours do not."""
    value, low, high = (100 * part for part in (band.value, band.low, band.high))
    drawstyle = "steps-post" if step else "default"
    every = max(1, len(positions) // marks)
    axes.plot(
        positions,
        value,
        style.line,
        color=style.colour,
        marker=style.marker,
        markersize=5,
        markevery=every,
        linewidth=1.8,
        drawstyle=drawstyle,
        label=label,
    )
    if interval:
        axes.fill_between(
            positions, low, high, step="post" if step else None, color=style.colour, alpha=0.14, linewidth=0
        )

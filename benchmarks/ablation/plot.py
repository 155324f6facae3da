"""The ablation as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.visualization.style import (
    BLUE,
    GREY,
    INK,
    PALE,
    VERMILLION,
    finish,
    label_axes,
    name_rows,
    new_figure,
)

Row = Mapping[str, Any]

PANELS = {"one_shot": "One-shot", "final": "Fine-tuned"}


def plot_ablation(rows: Sequence[Row], title: str, save_path: str | Path | None = None) -> Figure:
    """Draw every variant's test accuracy: its runs, their mean and its interval, and the difference to the full run.

    Args:
        rows: of :func:`benchmarks.ablation.tables.summarise`, the full run among the first.
        title: of the figure.
        save_path: where to save it, if anywhere.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("no finished variants to draw")
    figure, panels = new_figure(10, 0.46 * len(rows) + 1.5, columns=2, sharey=True)
    for panel, (stage, heading) in zip(panels, PANELS.items(), strict=True):
        for position, row in enumerate(rows):
            _draw_variant(panel, position, row, stage)
        label_axes(panel, title=heading, x="test accuracy (%)")
        panel.axvline(100 * rows[0]["accuracy"][stage]["mean"], color=GREY, linewidth=1, linestyle="--", zorder=0)
        panel.margins(x=0.12)
        panel.grid(False, axis="y")
    name_rows(panels[0], [row["variant"] for row in rows])
    figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    return finish(figure, save_path)


def _draw_variant(axes: Axes, position: int, row: Row, stage: str) -> None:
    entry = row["accuracy"][stage]
    runs = [100 * value for value in row["accuracies"][stage].values()]
    mean = 100 * entry["mean"]
    axes.axhline(position, color=PALE, linewidth=1, zorder=0)
    axes.plot(runs, [position] * len(runs), "o", color=GREY, markersize=4, alpha=0.6, markeredgewidth=0)
    if entry["confidence_interval"] is not None:
        axes.hlines(position, *(100 * end for end in entry["confidence_interval"]), color=INK, linewidth=2)
    axes.plot([mean], [position], "D", color=BLUE if position == 0 else VERMILLION, markersize=6)
    comparison = entry["comparison"]
    text = f"{mean:.1f}"
    if comparison is not None:
        text += f" ({round(100 * comparison['mean_difference'], 1) + 0.0:+.1f})"
    axes.annotate(text, (mean, position), (0, 6), textcoords="offset points", ha="center", fontsize=8.5, color=INK)

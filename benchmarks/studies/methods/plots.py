"""The comparison of methods as one picture: a panel a target, a row a method, a mark a stage of repair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.studies.methods.cells import stages_of
from benchmarks.visualization.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    VERMILLION,
    finish,
    label_axes,
    name_rows,
    new_figure,
)

Row = Mapping[str, Any]

MARKS = {
    "raw": ("as returned", "x", GREY),
    "bn": ("+ BN recalibration", "v", ORANGE),
    "refit": ("+ our refit", "D", BLUE),
    "reconstructed": ("+ our reconstruction", "s", GREEN),
    "finetuned": ("fine-tuned", "o", VERMILLION),
}
"""Stage -> legend, marker, colour; both differ, so that stages are told apart in grey too."""


def plot_methods(rows: Sequence[Row], title: str, save_path: str | Path | None = None) -> Figure:
    """Draw the test accuracy of every method at every stage of repair, with intervals of the fine-tuned.

    Args:
        rows: of :func:`benchmarks.studies.methods.tables.summarise`.
        title: of the figure.
        save_path: where to save it, if anywhere.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("nothing to draw: no finished cells")
    targets = sorted({row["target"] for row in rows})
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure, panels = new_figure(
        1.8 + 3.2 * len(targets), 1.2 + 0.3 * len(methods), columns=len(targets), sharey=True, sharex=True
    )
    for panel, target in zip(panels, targets, strict=True):
        by_method = {row["method"]: row for row in rows if row["target"] == target}
        _draw(panel, [by_method.get(method) for method in methods])
        label_axes(panel, title=f"{100 * target:g} % of the FLOPs removed", x="test accuracy (%)")
    name_rows(panels[0], methods)
    handles, labels = panels[0].get_legend_handles_labels()
    # One or two panels are narrower than all entries in a row.
    columns = len(handles) if len(panels) > 2 else 3
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    return finish(figure, save_path)


def _draw(panel: Axes, rows: Sequence[Row | None]) -> None:
    there = [(place, row) for place, row in enumerate(rows) if row is not None]
    places = [place for place, _ in there]
    stages = stages_of(row for _, row in there)
    means = {stage: [100 * row["accuracy"][stage]["mean"] for _, row in there] for stage in stages}
    panel.hlines(
        places,
        [min(values) for values in zip(*means.values(), strict=True)],
        [max(values) for values in zip(*means.values(), strict=True)],
        color=PALE,
        linewidth=3,
    )
    dense = [100 * row["dense_accuracy"] for _, row in there]
    panel.axvline(sum(dense) / len(dense), color=INK, linewidth=1, linestyle=":", label="dense")
    for stage in stages:
        label, marker, colour = MARKS[stage]
        panel.plot(means[stage], places, marker, color=colour, markersize=5.5, label=label, linestyle="none")
    for place, row in there:
        interval = row["accuracy"]["finetuned"]["confidence_interval"]
        if interval is not None:
            panel.hlines(place, 100 * interval[0], 100 * interval[1], color=VERMILLION, linewidth=1.4)

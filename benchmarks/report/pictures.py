"""Pictures of a report: fronts of runs, budgets layer by layer, and what the run folders hold."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.report.rendering import Picture
from benchmarks.report.runs import Group
from benchmarks.report.tables import stages_of
from benchmarks.visualization.run import plot_summary
from benchmarks.visualization.seeds import plot_accuracy_flops
from benchmarks.visualization.style import INK, SEQUENTIAL, finish, label_axes, new_figure

RUN_PLOTS = {
    "budgets": "Every layer's budget beside the price of its channels",
    "sensitivity": "Price of every channel",
    "training": "The search, episode by episode",
    "lambda": "Weight of a missed FLOPs target, episode by episode",
}
"""Pictures of a run folder, and what they show."""


def fronts(groups: Sequence[Group]) -> list[Picture]:
    """Return accuracy against FLOPs of one task, a picture a stage; none for fewer than two targets.

    A picture's facts are label -> its points, (FLOPs reduction, mean accuracy), and the dense accuracy.
    """
    if len({group.first.target for group in groups}) < 2:
        return []
    dense = statistics.fmean(run.accuracy["dense"] for group in groups for run in group.runs)
    drawn = []
    for stage, shown in stages_of(groups).items():
        points: dict[str, dict[float, list[float]]] = {}
        for group in groups:
            values = list(group.accuracies(stage).values())
            if values:
                reduction = statistics.fmean(run.flops_reduction for run in group.runs)
                points.setdefault(group.label, {})[reduction] = values
        if len({reduction for front in points.values() for reduction in front}) < 2:
            continue
        title = f"{shown.capitalize()} test accuracy against FLOPs removed"
        means = {label: [(x, statistics.fmean(y)) for x, y in sorted(front.items())] for label, front in points.items()}
        figure = plot_accuracy_flops(points, dense_accuracy=dense, title=title)
        drawn.append(Picture.of(figure, title, {"means": means, "dense": dense, "stage": shown}))
    return drawn


def budget_picture(budgets: Mapping[str, Mapping[str, float]], name: str) -> Picture | None:
    """Return a picture of the budgets of several methods; None where they prune different layers.

    Args:
        budgets: method -> layer -> ratio.
        name: what the picture shows.
    """
    if len({frozenset(given) for given in budgets.values()}) > 1:
        return None
    return Picture.of(plot_layers(budgets, "Channels removed, mean over runs"), name)


def glance(group: Group, name: str) -> Picture | None:
    """Return a run at a glance; None where only a row of a table was kept."""
    return None if group.first.result is None else Picture.of(plot_summary(group.first.result), name)


def own_pictures(group: Group) -> list[Picture]:
    """Return the pictures that the run folder of a group's first seed holds."""
    folder = group.first.folder
    if folder is None:
        return []
    found = (Picture.read(folder / "plots" / name, caption) for name, caption in RUN_PLOTS.items())
    return [picture for picture in found if picture is not None]


def plot_layers(budgets: Mapping[str, Mapping[str, float]], title: str, save_path: str | Path | None = None) -> Figure:
    """Draw how much every method takes from every layer: a row a layer, a column a method.

    Args:
        budgets: method -> layer -> pruning ratio, the same layers for all.
        title: of the figure.
        save_path: where to save it, if anywhere.

    Raises:
        ValueError: no methods, no layers, or methods with different layers.
    """
    layers = list(next(iter(budgets.values()), {}))
    if not layers or any(set(given) != set(layers) for given in budgets.values()):
        raise ValueError(f"budgets of the same layers are needed for all methods, got {dict(budgets)}")
    ratios = 100 * np.array([[given[layer] for given in budgets.values()] for layer in layers])
    figure, (panel,) = new_figure(max(5.0, 2.6 + 0.95 * len(budgets)), 0.3 * len(layers) + 1.7)
    image = panel.imshow(ratios, aspect="auto", cmap=SEQUENTIAL, vmin=0, vmax=100)
    for (row, column), ratio in np.ndenumerate(ratios):
        colour = "white" if ratio < 50 else INK
        panel.text(column, row, f"{ratio:.0f}", ha="center", va="center", fontsize=8.5, color=colour)
    panel.grid(False)
    panel.set_yticks(range(len(layers)), labels=layers)
    panel.set_xticks(range(len(budgets)), labels=list(budgets), rotation=25, ha="right", rotation_mode="anchor")
    label_axes(panel, title=title)
    bar = figure.colorbar(image, ax=panel, pad=0.02)
    bar.set_label("channels removed (%)", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8.5)
    return finish(figure, save_path)

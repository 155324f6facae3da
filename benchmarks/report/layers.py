"""Parts of a report that are pictures: fronts of runs, and budgets layer by layer."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.report.html import Html, details, embedded, join, paragraph, picture, share_cell, table, tag
from benchmarks.report.numbers import percent
from benchmarks.report.runs import STAGES, Group
from benchmarks.report.sources import Findings
from benchmarks.report.tables import by_question
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

MAX_PLOTTED_RUNS = 4
"""Of so many sets of runs the folder's own pictures are shown; more would make a page nobody loads."""


def fronts(findings: Findings) -> Html:
    """Return accuracy against FLOPs for every task with more than one target."""
    parts = []
    for task, members in groupby(findings.groups, key=lambda group: group.first.task):
        groups = list(members)
        if len({group.first.target for group in groups}) < 2:
            parts.append(paragraph(f"{task}: one target gives points, not a front; the table has them.", kind="soft"))
            continue
        parts.append(tag("h3", task))
        parts += [_front(groups, task, stage, shown) for stage, shown in STAGES.items()]
    return join(parts)


def _front(groups: list[Group], task: str, stage: str, shown: str) -> Html:
    points: dict[str, dict[float, list[float]]] = {}
    for group in groups:
        reduction = statistics.fmean(run.flops_reduction for run in group.runs)
        points.setdefault(group.label, {})[reduction] = list(group.accuracies(stage).values())
    dense = statistics.fmean(run.accuracy["dense"] for group in groups for run in group.runs)
    title = f"{shown.capitalize()} test accuracy against FLOPs removed"
    said = "; ".join(
        f"{label} "
        + ", ".join(
            f"{percent(statistics.fmean(values))} % at {percent(x, 1)} %" for x, values in sorted(front.items())
        )
        for label, front in points.items()
    )
    figure = plot_accuracy_flops(points, dense_accuracy=dense, title=title)
    return picture(
        figure, f"{title}. {said}. Dense: {percent(dense)} %.", f"{task}: {shown}, mean and 95 % interval over runs"
    )


def layers(findings: Findings) -> Html:
    """Return what every layer gives, by task and target: a picture, all numbers, and the run's own pictures."""
    parts: list[Html] = []
    for task, target, groups in by_question(findings.groups):
        known = [group for group in groups if group.first.budgets]
        if not known:
            continue
        parts.append(tag("h3", f"{task}, {100 * target:g} % of the FLOPs removed"))
        parts.append(_picture(known, task, target))
        parts.append(_numbers(known))
    folders = ((group, group.first.folder) for group in findings.groups)
    plotted = [group for group, folder in folders if folder is not None and (folder / "plots").is_dir()]
    parts += [_own_pictures(group) for group in plotted[:MAX_PLOTTED_RUNS]]
    if len(plotted) > MAX_PLOTTED_RUNS:
        parts.append(paragraph("More pictures lie in the run folders, in plots/.", kind="soft"))
    return join(parts)


def mean_budgets(group: Group) -> dict[str, float]:
    """Layer -> mean pruning ratio over those runs that have the layer."""
    names = list(group.first.budgets)
    return {name: statistics.fmean(run.budgets[name] for run in group.runs if name in run.budgets) for name in names}


def method_budgets(cells: Sequence[Mapping[str, Any]]) -> Html:
    """Return what every method takes from every layer in a comparison of methods, by target.

    Args:
        cells: finished ones. Those written before they named the layers' sizes give numbers of channels, not ratios.
    """
    parts = []
    for target in sorted({cell["target"] for cell in cells}):
        pruned = [cell for cell in cells if cell["target"] == target and cell.get("removed")]
        if pruned:
            parts += _budgets_at(pruned, f"{100 * target:g} % of the FLOPs removed")
    return join(parts)


def _budgets_at(cells: Sequence[Mapping[str, Any]], caption: str) -> list[Html]:
    methods = list(dict.fromkeys(cell["method"] for cell in cells))
    of_method = {method: [cell for cell in cells if cell["method"] == method] for method in methods}
    if all("channels" in cell for cell in cells):
        sizes = cells[0]["channels"]
        ratios = {
            method: {name: _mean_removed(runs, name) / size for name, size in sizes.items()}
            for method, runs in of_method.items()
        }
        return [_budget_picture(ratios, caption), _budget_table(ratios, caption)]
    names = dict.fromkeys(name for cell in cells for name in cell["removed"])
    rows = [[name, *(f"{_mean_removed(runs, name):.1f}" for runs in of_method.values())] for name in names]
    what = f"{caption}: number of channels removed from every layer, mean over seeds"
    return [details("Channels removed from every layer", table(what, ["layer", *methods], rows))]


def _mean_removed(cells: Sequence[Mapping[str, Any]], layer: str) -> float:
    """Channels of a layer that a plan removes, mean over cells; a layer that a plan does not name stays whole."""
    return statistics.fmean(cell["removed"].get(layer, 0) for cell in cells)


def _picture(groups: list[Group], task: str, target: float) -> Html:
    result = groups[0].first.result
    if len(groups) == 1 and result is not None:
        caption = f"{groups[0].name}, seed {groups[0].first.seed}, at a glance"
        return picture(plot_summary(result), f"{caption}. The table below has the numbers.", caption)
    return _budget_picture({group.label: mean_budgets(group) for group in groups}, f"{task}, {100 * target:g} %")


def _budget_picture(budgets: Mapping[str, Mapping[str, float]], about: str) -> Html:
    if len({frozenset(given) for given in budgets.values()}) > 1:
        return paragraph("The methods prune different layers; the table below has them all.", kind="soft")
    caption = f"{about}: channels removed from every layer"
    figure = plot_layers(budgets, "Channels removed, mean over runs")
    return picture(figure, f"{caption}. The table below has the numbers.", caption)


def _numbers(groups: list[Group]) -> Html:
    return _budget_table({group.label: mean_budgets(group) for group in groups})


def _budget_table(budgets: Mapping[str, Mapping[str, float]], about: str = "") -> Html:
    names = list(dict.fromkeys(name for given in budgets.values() for name in given))
    rows = [
        [name, *(share_cell(percent(g[name], 1), g[name]) if name in g else "–" for g in budgets.values())]
        for name in names
    ]
    what = f"Channels removed from every layer in percent, mean over runs ({', '.join(budgets)})"
    return details("All numbers", table(f"{about}: {what}" if about else what, ["layer", *budgets], rows))


def _own_pictures(group: Group) -> Html:
    folder = group.first.folder
    assert folder is not None
    shown = []
    for name, caption in RUN_PLOTS.items():
        found = _image(folder / "plots" / name)
        if found is not None:
            shown.append(embedded(*found, f"{caption}, {group.name}, seed {group.first.seed}", caption))
    return details(f"Pictures of {group.name}, seed {group.first.seed}", *shown) if shown else Html("")


def _image(path: Path) -> tuple[bytes, str] | None:
    """A picture's bytes and media type: SVG where it is there, else PNG."""
    for suffix, media_type in ((".svg", "image/svg+xml"), (".png", "image/png")):
        try:
            return path.with_suffix(suffix).read_bytes(), media_type
        except OSError:
            continue
    return None


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

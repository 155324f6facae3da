"""Sections of a report about runs that are pictures: fronts, and budgets layer by layer."""

from __future__ import annotations

import statistics
from itertools import groupby
from pathlib import Path

from benchmarks.report_figures import plot_layers
from benchmarks.report_html import Html, details, embedded, join, paragraph, picture, share_cell, table, tag
from benchmarks.report_numbers import percent
from benchmarks.report_runs import STAGES, Group
from benchmarks.report_sources import Findings
from benchmarks.report_tables import by_question
from benchmarks.visualization import plot_accuracy_flops, plot_summary

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
    plotted = [group for group in findings.groups if group.first.folder is not None]
    parts += [_own_pictures(group) for group in plotted[:MAX_PLOTTED_RUNS]]
    if len(plotted) > MAX_PLOTTED_RUNS:
        parts.append(paragraph("More pictures lie in the run folders, in plots/.", kind="soft"))
    return join(parts)


def mean_budgets(group: Group) -> dict[str, float]:
    """Layer -> mean pruning ratio over those runs that have the layer."""
    names = list(group.first.budgets)
    return {name: statistics.fmean(run.budgets[name] for run in group.runs if name in run.budgets) for name in names}


def _picture(groups: list[Group], task: str, target: float) -> Html:
    budgets = {group.label: mean_budgets(group) for group in groups}
    result = groups[0].first.result
    if len(groups) == 1 and result is not None:
        figure, caption = plot_summary(result), f"{groups[0].name}, seed {groups[0].first.seed}, at a glance"
    elif len({frozenset(given) for given in budgets.values()}) == 1:
        title = "Channels removed, mean over runs"
        figure, caption = plot_layers(budgets, title), f"{task}, {100 * target:g} %: channels removed from every layer"
    else:
        return paragraph("The methods prune different layers; the table below has them all.", kind="soft")
    return picture(figure, f"{caption}. The table below has the numbers.", caption)


def _numbers(groups: list[Group]) -> Html:
    budgets = [mean_budgets(group) for group in groups]
    names = list(dict.fromkeys(name for given in budgets for name in given))
    rows = [
        [name, *(share_cell(percent(given[name], 1), given[name]) if name in given else "–" for given in budgets)]
        for name in names
    ]
    what = (
        f"Channels removed from every layer in percent, mean over runs ({', '.join(group.label for group in groups)})"
    )
    return details("All numbers", table(what, ["layer", *(group.label for group in groups)], rows))


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

"""Studies as a report shows them: ablations, comparisons of agents and of methods."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.ablation.plot import plot_ablation
from benchmarks.ablation.tables import ablation_table
from benchmarks.common.numbers import plural
from benchmarks.common.table import Table
from benchmarks.report.commands import (
    command_of_ablation,
    command_of_comparison,
    config_of_ablation,
    config_of_agents,
)
from benchmarks.report.comparisons import AGENTS, Comparison
from benchmarks.report.pictures import budget_picture
from benchmarks.report.rendering import Picture
from benchmarks.report.sources import Ablation, Findings
from benchmarks.report.tables import channel_table, layer_table
from benchmarks.stat_tests.samples import few_seeds_are_stated
from benchmarks.studies.agents import tables as agent_tables
from benchmarks.studies.agents.curves import is_front
from benchmarks.studies.agents.plots import plot_fronts, plot_progress
from benchmarks.studies.agents.policies import policy_table
from benchmarks.studies.agents.signal import reward_to_test, signal_table
from benchmarks.studies.methods import tables as method_tables
from benchmarks.visualization.seeds import plot_accuracy_flops

Content = Mapping[str, Any]

UNEXPECTED = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError)
"""Errors that files of another version of the project raise where something is missing or of another kind."""


@dataclass(frozen=True)
class StudyView:
    """One study, as the page shows it.

    Attributes:
        title: its heading.
        ran_with: machine, threads and versions, where they were recorded.
        tables: of results; those with the same caption stand together.
        pictures: of results.
        command: repeats it.
        config: the configuration that the command reads; "" where it reads none.
        layers: budgets of compared methods, a table and perhaps a picture a target.
        costs: what methods took, a table a target.
        weights: names of the dense weights of the cells, one a seed; none where they are the task's own.
        failed: what is known of cells that failed, a line each.
        whole: whether the runs' own files are there, and not only their table.
        test_images: images of the test split; None where it is not known.
        accuracy: mean fine-tuned or one-shot accuracy of its rows, for the standard error.
    """

    title: str
    ran_with: Sequence[str]
    tables: Sequence[Table]
    pictures: Sequence[Picture]
    command: str
    config: str = ""
    layers: Sequence[tuple[Table, Picture | None]] = field(default=())
    costs: Sequence[Table] = field(default=())
    weights: Sequence[str] = ()
    failed: Sequence[str] = ()
    whole: bool = True
    test_images: int | None = None
    accuracy: float = 0.0


def ablations(findings: Findings) -> list[StudyView]:
    """Return every ablation; one that cannot be shown becomes a problem."""
    return _each(findings, findings.ablations, _ablation, lambda ablation: ablation.source)


def comparisons(findings: Findings, kind: str) -> list[StudyView]:
    """Return every comparison of a kind; one that cannot be shown becomes a problem."""
    chosen = [comparison for comparison in findings.comparisons if comparison.kind == kind]
    return _each(findings, chosen, _agents if kind == AGENTS else _methods, lambda comparison: comparison.folder)


def _each(
    findings: Findings, studies: Sequence[Any], show: Callable[[Any], StudyView], named: Callable[[Any], str]
) -> list[StudyView]:
    shown = []
    for study in studies:
        try:
            shown.append(show(study))
        except UNEXPECTED as error:
            why = f"no entry {error}" if isinstance(error, KeyError) else str(error)
            findings.problems.append(f"{named(study)} was written by another version of the project, or damaged: {why}")
    return shown


def _ran_with(content: Content) -> list[str]:
    machine = [str(content["machine"])] if "machine" in content else []
    threads = [plural(content["threads"], "CPU thread")] if "threads" in content else []
    return [*machine, *threads, *(f"{name} {version}" for name, version in content.get("versions", {}).items())]


def _removed(target: float) -> str:
    return f"{100 * target:g} % of the FLOPs removed"


def _ablation(ablation: Ablation) -> StudyView:
    content, rows = ablation.content, ablation.content["rows"]
    title = f"{content['task']}, {_removed(content['target_flops_reduction'])}"
    means = {row["variant"]: row["accuracy"]["final"]["mean"] for row in rows}
    return StudyView(
        title,
        _ran_with(content),
        [ablation_table(rows, title)],
        [Picture.of(plot_ablation(rows, title), title, means)],
        command_of_ablation(),
        config_of_ablation(ablation),
        test_images=rows[0].get("test_images") if rows else None,
        accuracy=statistics.fmean(means.values()) if means else 0.0,
    )


def _agents(comparison: Comparison) -> StudyView:
    study = comparison.study["study"]
    reference, rows, cells = study["reference"], comparison.rows, comparison.cells
    with few_seeds_are_stated():
        if cells:
            rows = agent_tables.summarise(cells, reference)  # type: ignore[assignment]
        pictures = _agent_pictures(comparison)
    by_question: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_question.setdefault(row["question"], []).append(dict(row))
    tables = [agent_tables.study_table(question, found, reference) for question, found in by_question.items()]
    policies, signal = policy_table(cells), reward_to_test(cells)
    tables += [table for table in (policies, signal_table(signal) if signal else None) if table is not None]
    plans = [plan for cell in cells for plan in cell["best"].values()]
    return StudyView(
        study["name"],
        _ran_with(comparison.study),
        tables,
        pictures,
        command_of_comparison(comparison),
        config_of_agents(comparison),
        test_images=plans[0].get("test_images") if plans else None,
        accuracy=statistics.fmean(plan["test_accuracy"] for plan in plans) if plans else 0.0,
        whole=bool(cells),
    )


def _agent_pictures(comparison: Comparison) -> list[Picture]:
    pictures = []
    single = [cell for cell in comparison.cells if not is_front(cell)]
    for target in sorted({cell["targets"][0] for cell in single}):
        figure = plot_progress([cell for cell in single if cell["targets"] == [target]], _removed(target))
        pictures.append(Picture.of(figure, f"Best plan so far against measured evaluations, {_removed(target)}"))
    served = [cell for cell in comparison.cells if is_front(cell)]
    for task in sorted({cell["task"] for cell in served}):
        figure = plot_fronts([cell for cell in served if cell["task"] == task], f"Fronts on {task}")
        pictures.append(Picture.of(figure, f"{task}: one-shot test accuracy against FLOPs removed"))
    return pictures


def _methods(comparison: Comparison) -> StudyView:
    rows: Sequence[Content] = method_tables.summarise(comparison.cells) if comparison.cells else comparison.rows
    by_target = {row["target"]: [dict(other) for other in rows if other["target"] == row["target"]] for row in rows}
    pairs = sorted(by_target.items())
    return StudyView(
        str(comparison.study["task"]),
        _ran_with(comparison.study),
        [method_tables.comparison_table(*pair) for pair in pairs],
        _method_pictures(comparison),
        command_of_comparison(comparison),
        layers=[_method_layers(target, comparison.cells) for target in by_target if _pruned(target, comparison.cells)],
        costs=[method_tables.cost_table(*pair) for pair in pairs],
        weights=comparison.weights,
        failed=[
            f"{cell['method']}, {cell['target']:g}, seed {cell['seed']}: {cell['error']}" for cell in comparison.failed
        ],
        whole=bool(comparison.cells),
        test_images=comparison.cells[0].get("test_images") if comparison.cells else None,
        accuracy=statistics.fmean(row["accuracy"]["finetuned"]["mean"] for row in rows) if rows else 0.0,
    )


def _method_pictures(comparison: Comparison) -> list[Picture]:
    pictures = []
    for stage in ("refit", "finetuned"):
        fronts: dict[str, dict[float, list[float]]] = {}
        for cell in comparison.cells:
            if cell["flops_reduction"] <= 0:
                continue  # the dense network, which has its own line
            front = fronts.setdefault(cell["method"], {})
            front.setdefault(cell["target"], []).append(cell["accuracy"][stage])
        if len({target for front in fronts.values() for target in front}) > 1:
            title = f"Accuracy against FLOPs removed, {method_tables.HEADINGS[stage]}"
            dense = statistics.fmean(cell["dense_accuracy"] for cell in comparison.cells)
            pictures.append(Picture.of(plot_accuracy_flops(fronts, dense_accuracy=dense, title=title), title))
    return pictures


def _pruned(target: float, cells: Sequence[Content]) -> list[Content]:
    return [cell for cell in cells if cell["target"] == target and cell.get("removed")]


def _method_layers(target: float, cells: Sequence[Content]) -> tuple[Table, Picture | None]:
    """Channels that every method takes from every layer; cells without the layers' sizes give numbers, not ratios."""
    pruned = _pruned(target, cells)
    runs = {cell["method"]: [other for other in pruned if other["method"] == cell["method"]] for cell in pruned}
    named = dict.fromkeys(name for cell in pruned for name in cell["removed"])
    sized = all("channels" in cell for cell in pruned)
    names = pruned[0]["channels"] if sized else dict.fromkeys(named, 1)
    removed = {
        method: {
            name: statistics.fmean(cell["removed"].get(name, 0) for cell in found) / size
            for name, size in names.items()
        }
        for method, found in runs.items()
    }
    if sized:
        title = f"{_removed(target)}: channels removed from every layer in percent, mean over seeds"
        return layer_table(title, removed), budget_picture(removed, title)
    return channel_table(
        f"{_removed(target)}: number of channels removed from every layer, mean over seeds", removed
    ), None

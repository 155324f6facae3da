"""Sections of a report about studies: ablations, comparisons of agents and of methods."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.ablation.plot import plot_ablation
from benchmarks.report.commands import (
    command_of_ablation,
    command_of_comparison,
    config_of_ablation,
    config_of_agents,
)
from benchmarks.report.comparisons import AGENTS, Comparison
from benchmarks.report.html import Html, bullets, details, join, listing, paragraph, picture, table, tag
from benchmarks.report.layers import method_budgets
from benchmarks.report.numbers import count, described_accuracy, difference, percent, seconds, span, with_interval
from benchmarks.report.sources import Ablation, Findings
from benchmarks.stat_tests.samples import few_seeds_are_stated
from benchmarks.studies.agents import tables as agent_tables
from benchmarks.studies.agents.curves import FRONT, is_front
from benchmarks.studies.agents.plots import plot_fronts, plot_progress
from benchmarks.studies.agents.signal import ON_TEST, reward_to_test
from benchmarks.studies.methods import tables as method_tables
from benchmarks.studies.methods.cells import STAGES as REPAIRS
from benchmarks.visualization.seeds import plot_accuracy_flops

Row = Mapping[str, Any]

UNEXPECTED = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError)
"""What files of another version of the project raise where something is missing or of another kind."""

REPAIR_HEADINGS = {"raw": "raw", "bn": "+ BN", "refit": "with our refit", "finetuned": "fine-tuned"}


def ablations(findings: Findings) -> Html:
    """Return every ablation; one that cannot be shown becomes a problem."""
    return _each(findings, findings.ablations, _ablation, lambda ablation: ablation.source)


def comparisons(findings: Findings, kind: str) -> Html:
    """Return every comparison of a kind; one that cannot be shown becomes a problem."""
    chosen = [comparison for comparison in findings.comparisons if comparison.kind == kind]
    return _each(findings, chosen, _agents if kind == AGENTS else _methods, lambda comparison: comparison.folder)


def _each(findings: Findings, studies: Sequence[Any], show: Callable[[Any], Html], named: Callable[[Any], str]) -> Html:
    parts = []
    for study in studies:
        try:
            parts.append(show(study))
        except UNEXPECTED as error:
            why = f"no entry {error}" if isinstance(error, KeyError) else str(error)
            findings.problems.append(f"{named(study)} was written by another version of the project, or damaged: {why}")
    return join(parts)


def _versions(content: Mapping[str, Any]) -> Html:
    told = [f"{name} {version}" for name, version in content.get("versions", {}).items()]
    if "threads" in content:
        told.insert(0, f"{content['threads']} CPU thread{'s' * (content['threads'] != 1)}")
    if "machine" in content:
        told.insert(0, str(content["machine"]))
    return paragraph(f"Ran with: {', '.join(told) or 'not recorded'}.", kind="soft")


def _again(command: str, config: str = "", name: str = "") -> Html:
    parts = [paragraph("To repeat it:"), listing(command, "command that repeats the study")]
    if config:
        parts.append(details(name, listing(config, name)))
    return join(parts)


# ablation


def _ablation(ablation: Ablation) -> Html:
    rows, target = ablation.content["rows"], ablation.content["target_flops_reduction"]
    title = f"{ablation.content['task']}, {100 * target:g} % of the FLOPs removed"
    lines = []
    for row in rows:
        stages = [row["accuracy"][stage] for stage in ("one_shot", "final")]
        cells = [cell for entry in stages for cell in (described_accuracy(entry), *difference(entry["comparison"]))]
        ends = [row["flops_reduction"][end] for end in ("smallest", "largest")]
        plans = f"{row['measured_evaluations']:.0f}"
        lines.append([row["variant"], tag("td", row["summary"], class_="text"), *cells, span(ends), plans])
    headings = ["variant", "what changes"]
    for shown in ("one-shot", "fine-tuned"):
        headings += [shown, "to full", "p"]
    seeds = rows[0]["seeds"] if rows else []
    caption = f"{title}; test accuracy in %, [95 % interval], over {len(seeds)} seeds ({', '.join(map(str, seeds))})"
    said = "; ".join(f"{row['variant']} {percent(row['accuracy']['final']['mean'])} %" for row in rows)
    return join(
        [
            tag("h3", title),
            table(caption, [*headings, "FLOPs removed, %", "plans"], lines),
            paragraph(
                "To full: mean paired difference in points and its bootstrap interval; p: paired t-test, "
                "Holm-corrected; a dash where all seeds differ alike, which no test can judge.",
                kind="soft",
            ),
            picture(plot_ablation(rows, title), f"Ablation, {title}; fine-tuned: {said}", f"Ablation: {title}"),
            _versions(ablation.content),
            _again(command_of_ablation(), config_of_ablation(ablation), "ablation.yaml"),
        ]
    )


# comparison of agents


def _agents(comparison: Comparison) -> Html:
    study = comparison.study["study"]
    reference, rows = study["reference"], comparison.rows
    with few_seeds_are_stated():
        if comparison.cells:
            rows = agent_tables.summarise(comparison.cells, reference)  # type: ignore[assignment]
        pictures = _agent_pictures(comparison)
    if not rows:
        return paragraph(f"{study['name']}: no finished runs yet.")
    parts = [tag("h3", study["name"])]
    for question in dict.fromkeys(row["question"] for row in rows):
        parts.append(_agent_table(question, [row for row in rows if row["question"] == question], reference))
    parts.append(
        paragraph(
            f"Test: interquartile mean of the best plan's one-shot accuracy (of the area under the front) [95 % "
            f"stratified bootstrap interval]. P: probability that a run of {reference} beats a run of this one. All "
            "agents may measure equally many plans; own time is what an agent needs "
            "beside measuring.",
            kind="soft",
        )
    )
    parts += [_signal(found) for found in reward_to_test(comparison.cells)]
    if not comparison.cells:
        parts.append(paragraph("Curves and fronts need the runs' files in cells/, which are not here.", kind="soft"))
    command = command_of_comparison(comparison)
    return join(
        [*parts, *pictures, _versions(comparison.study), _again(command, config_of_agents(comparison), "study.yaml")]
    )


def _agent_table(question: str, rows: Sequence[Row], reference: str) -> Html:
    what = "Area under the front" if question == FRONT else f"{100 * float(question):g} % of the FLOPs removed"
    ordered = sorted(rows, key=lambda row: -row["metrics"]["test_accuracy"]["iqm"]["value"])
    lines = []
    for row in ordered:
        test, chance = row["metrics"]["test_accuracy"]["iqm"], row["metrics"]["test_accuracy"]["improvement"]
        lines.append(
            [
                *(row["agent"], row["runs"]),
                _interval(test, row["runs"]),
                "–" if chance is None else _chance(chance, row["runs"]),
                percent(row["metrics"]["soft_accuracy"]["iqm"]["value"]),
                f"{row['evaluations']:.0f}",
                *(seconds(row["seconds"][part]) for part in ("own", "evaluations")),
            ]
        )
    headings = (
        "agent",
        "runs",
        "test",
        f"P({reference} better)",
        "reward split, soft",
        "plans",
        "own time",
        "measuring",
    )
    return table(f"{what}; accuracies in %", headings, lines)


def _signal(found: Row) -> Html:
    """How far the ranking at one target, or of fronts, can be trusted."""
    front = found["question"] == FRONT
    asked = "all targets" if front else f"{100 * float(found['question']):g} %"
    ends = f"{found['ends']} final {'fronts' if front else 'plans'}"
    said = (
        f"{found['task']}, {asked}: over the {ends} of all searches a point on the reward split is worth "
        f"{found['slope']:.2f} ± {found['slope_error']:.2f} points on test ({ON_TEST[found['metric']]}), and luck adds "
        f"{percent(found['residual_std'])} points"
    )
    if found["lead_needed"] is not None:
        said += f"; an agent ahead by {percent(found['lead_needed'])} points there wins nine of ten runs on test"
    return paragraph(f"{said}.", kind="soft")


def _interval(estimate: Mapping[str, float], runs: int) -> Html:
    shown = [percent(estimate[end]) for end in ("value", "low", "high")]
    return with_interval(*shown) if runs > 1 else with_interval(shown[0])


def _chance(chance: Mapping[str, float], runs: int) -> Html:
    shown = [f"{chance[end]:.2f}" for end in ("value", "low", "high")]
    return with_interval(*shown) if runs > 1 else with_interval(shown[0])


def _agent_pictures(comparison: Comparison) -> list[Html]:
    pictures = []
    single = [cell for cell in comparison.cells if not is_front(cell)]
    for target in sorted({cell["targets"][0] for cell in single}):
        title = f"{100 * target:g} % of the FLOPs removed"
        figure = plot_progress([cell for cell in single if cell["targets"] == [target]], title)
        said = f"Best plan so far against measured evaluations, a line an agent, {title}"
        pictures.append(picture(figure, f"{said}. The table has the final values.", said))
    served = [cell for cell in comparison.cells if is_front(cell)]
    for task in sorted({cell["task"] for cell in served}):
        said = f"{task}: one-shot test accuracy against FLOPs removed, a line an agent"
        figure = plot_fronts([cell for cell in served if cell["task"] == task], f"Fronts on {task}")
        pictures.append(picture(figure, f"{said}. The table has the areas below the lines.", said))
    return pictures


# comparison of methods


def _methods(comparison: Comparison) -> Html:
    rows: Sequence[Row] = method_tables.summarise(comparison.cells) if comparison.cells else comparison.rows
    own = ", a dense network of its own for every seed" if comparison.weights else ""
    parts = [tag("h3", f"{comparison.study['task']}{own}")]
    if own:
        parts.append(paragraph(f"Dense weights: {', '.join(comparison.weights)}."))
    for target in sorted({row["target"] for row in rows}):
        parts.append(_method_table(target, [row for row in rows if row["target"] == target]))
    parts.append(
        paragraph(
            "Test accuracy in percent, mean over seeds [95 % interval]. Raw: as the method returns it; + BN: with "
            "BatchNorm recalibrated; with our refit: our sequential refit of its selection; fine-tuned: all alike. "
            f"Difference: fine-tuned to {method_tables.REFERENCE}, paired by seed, in points; p: paired t-test, "
            "Holm-corrected.",
            kind="soft",
        )
    )
    if comparison.failed:
        parts.append(paragraph(f"{len(comparison.failed)} cells failed:", kind="warn"))
        named = (
            f"{cell['method']}, {cell['target']:g}, seed {cell['seed']}: {cell['error']}" for cell in comparison.failed
        )
        parts.append(bullets(named))
    parts += _method_pictures(comparison)
    parts += [method_budgets(comparison.cells), _method_costs(rows)]
    note = paragraph("Files of dense networks of one's own (--weights) are to be named again.", kind="soft")
    return join([*parts, _versions(comparison.study), _again(command_of_comparison(comparison)), note])


def _method_table(target: float, rows: Sequence[Row]) -> Html:
    lines = []
    for row in rows:
        accuracies = (described_accuracy(row["accuracy"][stage]) for stage in REPAIRS)
        tested = difference(row["accuracy"]["finetuned"]["comparison"])
        size = count(row["parameters"])
        lines.append(
            [
                row["method"],
                len(row["seeds"]),
                *accuracies,
                *tested,
                percent(row["flops_reduction"], 1),
                size,
                f"{row['speedup']:.2f}x",
            ]
        )
    dense = percent(statistics.fmean(row["dense_accuracy"] for row in rows))
    headings = [
        "method",
        "seeds",
        *REPAIR_HEADINGS.values(),
        "difference",
        "p",
        "FLOPs removed, %",
        "parameters",
        "faster",
    ]
    return table(f"{100 * target:g} % of the FLOPs removed; dense {dense} %", headings, lines)


def _method_costs(rows: Sequence[Row]) -> Html:
    lines = []
    for row in rows:
        images, passes = count(row["images"]), count(row["backward_passes"])
        spent = (f"{row['evaluations']:.0f}", images, passes, seconds(row["seconds"]))
        lines.append([row["method"], f"{100 * row['target']:g}", *spent])
    headings = ("method", "target, %", "plans measured", "images seen", "backward passes", "time")
    return table("What every method spent on its own, means over seeds", headings, lines)


def _method_pictures(comparison: Comparison) -> list[Html]:
    pictures = []
    for stage in ("refit", "finetuned"):
        fronts: dict[str, dict[float, list[float]]] = {}
        for cell in comparison.cells:
            if cell["flops_reduction"] <= 0:
                continue  # the dense network, which has its own line
            front = fronts.setdefault(cell["method"], {})
            front.setdefault(cell["target"], []).append(cell["accuracy"][stage])
        if len({target for front in fronts.values() for target in front}) > 1:
            said = f"Accuracy against FLOPs removed: {REPAIR_HEADINGS[stage]}"
            dense = statistics.fmean(cell["dense_accuracy"] for cell in comparison.cells)
            figure = plot_accuracy_flops(fronts, dense_accuracy=dense, title=said)
            pictures.append(picture(figure, f"{said}, a line a method. The tables have the numbers.", said))
    return pictures

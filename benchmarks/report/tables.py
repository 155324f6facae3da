"""Sections of a report about runs: in short, the headline table, costs, where things ran, how to repeat them."""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import yaml

from benchmarks.report.commands import command_of_runs, commands_of_sweep, config_of
from benchmarks.report.html import Html, bullets, code, details, join, listing, paragraph, table, tag
from benchmarks.report.numbers import REFERENCES, accuracy, count, difference, percent, seconds, span, times
from benchmarks.report.runs import STAGES, Group, Run
from benchmarks.report.sources import Findings, Sweep
from benchmarks.stat_tests.runs import summarise_runs
from benchmarks.stat_tests.samples import MIN_SEEDS


def by_question(groups: Sequence[Group]) -> Iterator[tuple[str, float, list[Group]]]:
    """Yield task, target and the groups that answer it."""
    for (task, target), members in groupby(groups, key=lambda group: (group.first.task, group.first.target)):
        yield task, target, list(members)


def reference_of(groups: Sequence[Group]) -> Group:
    """The group others are compared with: R-SPAR's where it is, else the first."""
    return next((group for group in groups if group.first.method in REFERENCES), groups[0])


def summary(findings: Findings) -> Html:
    """Return the figures a reader looks for first: of the reference at every task's deepest cut, chosen by name."""
    cards = []
    for _, members in groupby(findings.groups, key=lambda group: group.first.task):
        groups = list(members)
        deepest = max(group.first.target for group in groups)
        cards.append(_cards(reference_of([group for group in groups if group.first.target == deepest])))
    return join(cards)


def _cards(group: Group) -> Html:
    runs = group.runs
    dense = statistics.fmean(run.accuracy["dense"] for run in runs)
    smaller = statistics.fmean(run.parameters["dense"] / run.parameters["final"] for run in runs)
    removed = span(run.flops_reduction for run in runs)
    facts = [
        ("FLOPs removed", f"{removed} %", f"of {count(runs[0].flops['dense'])}"),
        *(
            (
                f"accuracy, {shown}",
                f"{percent(statistics.fmean(group.accuracies(stage).values()))} %",
                f"dense {percent(dense)} %",
            )
            for stage, shown in STAGES.items()
            if group.accuracies(stage)
        ),
        (
            "parameters",
            f"{smaller:.1f}x fewer",
            f"{count(statistics.fmean(run.parameters['final'] for run in runs))} left",
        ),
    ]
    faster = ratios(runs, "latency_ms")
    if faster:
        facts.append(("one image", f"{times(faster)} faster", f"{threads_of(group)} on {group.first.device}"))
    entries = (tag("div", tag("dt", what), tag("dd", value), tag("dd", note)) for what, value, note in facts)
    number = len(runs)
    heading = f"{group.name}: {number} run{'s' * (number != 1)}"
    return join([tag("h3", heading), tag("dl", *entries, class_="cards")])


def ratios(runs: Sequence[Run], measure: str) -> list[float]:
    """How many times faster the fine-tuned network is than the dense one, in every run that timed it."""
    pairs = [(getattr(run, measure).get("dense"), getattr(run, measure).get("final")) for run in runs]
    known = [(dense, final) for dense, final in pairs if dense and final]
    return [dense / final if measure == "latency_ms" else final / dense for dense, final in known]


def threads_of(group: Group) -> str:
    """CPU threads of a group's runs."""
    threads = sorted({run.threads for run in group.runs})
    return f"{', '.join(map(str, threads))} thread{'s' * (threads != [1])}"


def headline(findings: Findings) -> Html:
    """Return a table for every task and target: accuracy with intervals, differences, size, speed."""
    parts: list[Html] = []
    if any(len(group.runs) < MIN_SEEDS for group in findings.groups):
        parts.append(
            paragraph(
                f"Some rows rest on fewer than {MIN_SEEDS} runs: their intervals say little, one run has none.",
                kind="warn",
            )
        )
    for task, target, groups in by_question(findings.groups):
        parts += [tag("h3", f"{task}, {100 * target:g} % of the FLOPs removed"), _question(groups)]
    parts.append(
        paragraph(
            "Test accuracy in percent: mean over runs [95 % bias-corrected bootstrap interval]. One-shot: repaired "
            "by least squares; reconstructed: taught the dense network's outputs on images without labels; fine-tuned: "
            "trained with labels. Difference: fine-tuned, paired by seed, in points; p: paired t-test, Holm-corrected; "
            "a dash where seeds differ, there are fewer than two, or all differences are equal. "
            "Speed-ups are medians of timed passes on the machine that ran them.",
            kind="soft",
        )
    )
    return join(parts)


def _question(groups: list[Group]) -> Html:
    reference = reference_of(groups)
    described = summarise_runs({group.label: group.accuracies("final") for group in groups}, reference.label)
    dense = span((run.accuracy["dense"] for group in groups for run in group.runs), digits=2)
    first = groups[0].first
    caption = (
        f"Dense network: {dense} %, {count(first.flops['dense'])} FLOPs, {count(first.parameters['dense'])} parameters"
    )
    compared = len(groups) > 1
    headings = ["method", "runs", *STAGES.values()]
    headings += [f"difference to {reference.label}", "p"] if compared else ["difference to dense"]
    headings += ["FLOPs removed, %", "parameters", "1 image", "batch", "repeat"]
    rows = []
    for group in groups:
        runs = group.runs
        drop = statistics.fmean(run.accuracy["final"] - run.accuracy["dense"] for run in runs)
        if compared:
            middle = difference(None if group is reference else described[group.label]["comparison"])
        rows.append(
            [
                *(group.label, len(runs)),
                *(accuracy(list(found.values())) if (found := group.accuracies(stage)) else "-" for stage in STAGES),
                *(middle if compared else [f"{100 * drop:+.2f}"]),
                span(run.flops_reduction for run in runs),
                count(statistics.fmean(run.parameters["final"] for run in runs)),
                *(times(ratios(runs, measure)) for measure in ("latency_ms", "throughput")),
                _link(group),
            ]
        )
    return table(caption, headings, rows)


def _link(group: Group) -> Html:
    return tag("a", "command", href=f"#{anchor(group)}", aria_label=f"how to repeat {group.name}")


def anchor(group: Group) -> str:
    """The id of a group's entry under "how to repeat"."""
    return f"repeat-{zlib.crc32(group.name.encode()):08x}"


def costs(findings: Findings) -> Html:
    """Return what finding and tuning the pruned network took."""
    rows = []
    for group in findings.groups:
        stages = [
            (_stage(run, "search", "prune"), _stage(run, "fine-tune"), sum(run.seconds.values())) for run in group.runs
        ]
        searching, tuning, whole = zip(*stages, strict=True)
        first = group.first
        plans = statistics.fmean(run.plans for run in group.runs)
        rows.append(
            [
                group.label,
                *(first.task, f"{100 * first.target:g}", f"{plans:.0f}"),
                *(seconds(_mean(values)) for values in (searching, tuning, whole)),
                threads_of(group),
            ]
        )
    headings = ("method", "task", "target, %", "plans measured", "search", "fine-tuning", "whole run", "CPU threads")
    return join(
        [
            table("Means over runs; wall time on the machine that ran them", headings, rows),
            paragraph(
                "A plan counts once, when it is first measured on the reward split. The whole run includes loading, "
                "curvature, surgery and the timing of networks.",
                kind="soft",
            ),
        ]
    )


def _stage(run: Run, *beginnings: str) -> float | None:
    found = [value for stage, value in run.seconds.items() if stage.startswith(beginnings)]
    return sum(found) if found else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value]
    return statistics.fmean(known) if known else None


def where(findings: Findings) -> Html:
    """Return which software and machine made every row."""
    rows, mixed = [], []
    numbers: dict[str, int] = {}
    for group in findings.groups:
        software = {", ".join(f"{name} {version}" for name, version in run.versions.items()) for run in group.runs}
        for text in sorted(software):
            numbers.setdefault(text, len(numbers) + 1)
        machines = {run.machine or "not recorded" for run in group.runs}
        if len(software) > 1 or len({run.threads for run in group.runs}) > 1:
            mixed.append(group.name)
        rows.append(
            [
                group.label,
                *(group.first.task, f"{100 * group.first.target:g}", ", ".join(map(str, group.seeds))),
                *(", ".join(sorted({run.device for run in group.runs})), threads_of(group)),
                tag("td", "; ".join(sorted(machines)), class_="text"),
                ", ".join(str(numbers[text]) for text in sorted(software)),
            ]
        )
    headings = ("method", "task", "target, %", "seeds", "device", "CPU threads", "machine", "software")
    parts = [table("A row for every set of runs; the numbers of the last column stand below", headings, rows)]
    parts += [paragraph(f"Software {number}: {text}.", kind="soft") for text, number in numbers.items()]
    if mixed:
        warning = f"Runs of different software or threads are pooled in: {'; '.join(mixed)}."
        parts.insert(0, paragraph(warning, kind="warn"))
    for sweep in findings.sweeps:
        parts.append(_sweep(sweep, findings))
    return join(parts)


def _grid(sweep: Sweep) -> Mapping[str, Any]:
    """The configuration of a sweep; empty where it cannot be read."""
    try:
        content = yaml.safe_load(sweep.config)
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}


def _sweep(sweep: Sweep, findings: Findings) -> Html:
    grid = _grid(sweep)
    sizes = [len(grid[key]) for key in ("methods", "tasks", "targets", "seeds") if isinstance(grid.get(key), list)]
    prefix = "" if sweep.folder == "." else f"{sweep.folder}/"
    done = sum(len(group.runs) for group in findings.groups if f"{group.folder}/".startswith(prefix))
    cells = 1
    for size in sizes:
        cells *= size
    told = f"Sweep {grid.get('name', sweep.folder)!s}: {done}" + (
        f" of {cells} cells are finished." if len(sizes) == 4 else " runs."
    )
    parts = [paragraph(told)]
    if sweep.failures:
        parts += [paragraph(f"{len(sweep.failures)} cells failed:", kind="warn")]
        parts += [bullets(join([code(cell), f": {error}"]) for cell, error in sweep.failures.items())]
    if sweep.config:
        parts.append(details("Configuration of the sweep", listing(sweep.config, "configuration of the sweep")))
    return join(parts)


def repeat(findings: Findings) -> Html:
    """Return the command behind every row, with its configuration."""
    parts: list[Html] = []
    for sweep in findings.sweeps:
        if sweep.config:
            parts.append(tag("h3", f"The sweep {'' if sweep.folder == '.' else sweep.folder}"))
            parts.append(listing("\n".join(commands_of_sweep(sweep, findings)), "commands of the sweep"))
            parts.append(paragraph("The second runs rows again and reports differences.", kind="soft"))
    for group in findings.groups:
        parts.append(tag("h3", group.name, id=anchor(group)))
        command, config = command_of_runs(group, findings), config_of(group.first)
        if command:
            parts.append(listing(command, f"command of {group.name}"))
            parts.append(details("config.yaml", listing(config, f"configuration of {group.name}")))
        else:
            parts.append(
                paragraph("A row of the sweep's table, without its run folder: repeat the sweep.", kind="soft")
            )
    return join(parts)

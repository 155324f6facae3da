"""Tables of a report about runs: results, costs, where things ran, budgets of layers, pinned layers."""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from benchmarks.common.columns import Column, Columns, Interval, Link, Value, percent_column, points_column
from benchmarks.common.numbers import count, duration, p_value, span
from benchmarks.common.table import Table
from benchmarks.report.runs import STAGES, Group, Run
from benchmarks.stat_tests.runs import difference_of, summarise_runs
from benchmarks.stat_tests.samples import few_seeds_are_stated
from benchmarks.stat_tests.significance import bootstrap_confidence_interval

REFERENCES = ("hobs-rspar", "full", "rspar")
"""Methods that others are compared with, where they are there."""

SPEEDUPS = tuple(Column(name, ".2f", unit="x") for name in ("1 image", "batch"))
TARGET = Column("target, %", "g", scale=100)


def by_question(groups: Sequence[Group]) -> Iterator[tuple[str, float, list[Group]]]:
    """Yield task, target and the groups that answer it."""
    for (task, target), members in groupby(groups, key=lambda group: (group.first.task, group.first.target)):
        yield task, target, list(members)


def reference_of(groups: Sequence[Group]) -> Group:
    """Return the group others are compared with: R-SPAR's where it is, else the first."""
    return next((group for group in groups if group.first.method in REFERENCES), groups[0])


def deepest(groups: Sequence[Group]) -> list[Group]:
    """Return the reference of every task's deepest cut, chosen by name and not by test accuracy."""
    chosen = []
    for _, members in groupby(groups, key=lambda group: group.first.task):
        of_task = list(members)
        target = max(group.first.target for group in of_task)
        chosen.append(reference_of([group for group in of_task if group.first.target == target]))
    return chosen


def stages_of(groups: Sequence[Group]) -> dict[str, str]:
    """Return the stages that any run has, and what tables call them."""
    return {stage: name for stage, name in STAGES.items() if any(group.accuracies(stage) for group in groups)}


def interval(values: Sequence[float]) -> Interval:
    """Return a mean with its 95 % bootstrap interval; one run has none."""
    if len(values) < 2:
        return Interval(statistics.fmean(values))
    with few_seeds_are_stated():
        return Interval(statistics.fmean(values), *bootstrap_confidence_interval(values))


def ratios(runs: Sequence[Run], measure: str) -> list[float]:
    """Return how many times faster the fine-tuned network is than the dense one, in every run that timed it."""
    pairs = [(getattr(run, measure).get("dense"), getattr(run, measure).get("final")) for run in runs]
    known = [(dense, final) for dense, final in pairs if dense and final]
    return [dense / final if measure == "latency_ms" else final / dense for dense, final in known]


def headline(title: str, groups: Sequence[Group]) -> Table:
    """Return accuracies with intervals and standard errors, differences, size and speed of one task and target.

    Args:
        title: of the table.
        groups: those that answer the question.
    """
    reference, stages = reference_of(groups), stages_of(groups)
    described = summarise_runs({group.label: group.accuracies("final") for group in groups}, reference.label)
    tested = any(group.standard_error("final") is not None for group in groups)
    compared = len(groups) > 1
    accuracies = [
        column
        for stage, name in stages.items()
        for column in (percent_column(name, best="max"), percent_column("± test set"))[: 1 + tested]
    ]
    versus = [points_column(f"difference to {reference.label if compared else 'dense'}"), Column("p", p_value)]
    versus = versus[: 1 + compared]
    size = ("FLOPs removed, %", Column("parameters", count))
    columns: Columns = ("method", "runs", *accuracies, *versus, *size, *SPEEDUPS, "repeat")
    rows: list[list[Value]] = []
    for group in groups:
        drop = statistics.fmean(run.accuracy["final"] - run.accuracy["dense"] for run in group.runs)
        rows.append(
            [
                *(group.label, len(group.runs)),
                *(cell for stage in stages for cell in _accuracy(group, stage)[: 1 + tested]),
                *(difference_of(described[group.label]) if compared else (drop,)),
                span(run.flops_reduction for run in group.runs),
                statistics.fmean(run.parameters["final"] for run in group.runs),
                *(mean_or_none(ratios(group.runs, measure)) for measure in ("latency_ms", "throughput")),
                Link("command", f"#{anchor(group)}", f"how to repeat {group.name}"),
            ]
        )
    return Table(title, columns, rows)


def _accuracy(group: Group, stage: str) -> tuple[Interval | None, float | None]:
    values = list(group.accuracies(stage).values())
    return (interval(values) if values else None), group.standard_error(stage)


def anchor(group: Group) -> str:
    """Return the id of a group's entry under "how to repeat"."""
    return f"repeat-{zlib.crc32(group.name.encode()):08x}"


def costs(title: str, groups: Sequence[Group]) -> Table:
    """Return what finding and tuning the pruned networks took."""
    times = (Column(name, duration) for name in ("search", "fine-tuning", "whole run"))
    columns: Columns = ("method", "task", TARGET, Column("plans measured", ".0f"), *times, "CPU threads")
    rows: list[list[Value]] = []
    for group in groups:
        searching = [_stage(run, "search", "prune") for run in group.runs]
        tuning = [_stage(run, "fine-tune") for run in group.runs]
        rows.append(
            [
                *(group.label, group.first.task, group.first.target),
                statistics.fmean(run.plans for run in group.runs),
                *(mean_or_none(searching), mean_or_none(tuning)),
                mean_or_none([sum(run.seconds.values()) for run in group.runs]),
                threads_of(group),
            ]
        )
    return Table(title, columns, rows)


def threads_of(group: Group) -> str:
    """Return the CPU threads of a group's runs."""
    return ", ".join(map(str, sorted({run.threads for run in group.runs})))


def _stage(run: Run, *beginnings: str) -> float | None:
    found = [value for stage, value in run.seconds.items() if stage.startswith(beginnings)]
    return sum(found) if found else None


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """Return the mean of those values that are known and not zero; None where there are none."""
    known = [value for value in values if value]
    return statistics.fmean(known) if known else None


def software_of(group: Group) -> list[str]:
    """Return the software of a group's runs, a line for every combination."""
    return sorted({", ".join(f"{name} {version}" for name, version in run.versions.items()) for run in group.runs})


def where(title: str, groups: Sequence[Group], software: Sequence[str]) -> Table:
    """Return the software and the machine behind every row.

    Args:
        title: of the table.
        groups: all of them.
        software: every line of :func:`software_of`; the table names them by number.
    """
    task, device, machine = (Column(name, wide=True) for name in ("task", "device", "machine"))
    columns: Columns = ("method", task, TARGET, "seeds", device, "CPU threads", machine, "software")
    rows: list[list[Value]] = [
        [
            *(group.label, group.first.task, group.first.target, ", ".join(map(str, group.seeds))),
            *(", ".join(sorted({run.device for run in group.runs})), threads_of(group)),
            "; ".join(sorted({run.machine or "not recorded" for run in group.runs})),
            ", ".join(str(1 + software.index(line)) for line in software_of(group)),
        ]
        for group in groups
    ]
    return Table(title, columns, rows)


def budgets_of(groups: Sequence[Group]) -> dict[str, dict[str, float]]:
    """Return label -> layer -> mean pruning ratio."""
    return {group.label: group.budgets for group in groups}


def layer_table(title: str, budgets: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a table of numbers, a row a layer and a column a method: ratios are shown in percent with a bar.

    Args:
        title: of the table.
        budgets: method -> layer -> ratio; a layer may be missing.
    """
    columns: Columns = ("layer", *(percent_column(method, 1, bar=True) for method in budgets))
    return Table(
        title, columns, [[name, *(given.get(name) for given in budgets.values())] for name in _layers(budgets)]
    )


def channel_table(title: str, removed: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a table of numbers of channels, a row a layer and a column a method; a missing layer lost none."""
    columns: Columns = ("layer", *(Column(method, ".1f") for method in removed))
    rows: list[list[Value]] = [
        [name, *(given.get(name, 0.0) for given in removed.values())] for name in _layers(removed)
    ]
    return Table(title, columns, rows)


def _layers(given: Mapping[str, Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for layers in given.values() for name in layers))


def pinned_table(title: str, group: Group) -> Table:
    """Return the layers that cannot be pruned, with their channels and why."""
    rows: list[list[Value]] = [[layer.name, layer.size, layer.reason] for layer in group.first.pinned]
    return Table(title, ("layer", "channels", Column("reason", wide=True)), rows)

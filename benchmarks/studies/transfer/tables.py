"""Aggregates and tables of all runs of the study of transfer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.common.columns import Interval, percent_column
from benchmarks.common.table import Table
from benchmarks.stat_tests.aggregates import interquartile_mean, probability_of_improvement, stratified_bootstrap

LOOKS = (0.25, 1.0)
"""Shares of the evaluations after which learning is looked at."""

Row = dict[str, Any]


def summarise(rows: Sequence[Row], evaluations: int) -> list[Row]:
    """Interquartile means and comparisons for every (task, target).

    Args:
        rows: of :func:`benchmarks.studies.transfer.runs.carry_over`.
        evaluations: measured evaluations of a run.

    Returns:
        One row a (task, target): ``runs``, ``soft_accuracy`` and ``test_accuracy`` (agent -> interquartile mean and
        its interval), and ``chances`` (what -> probability of improvement and its interval).
    """
    looks = [max(1, round(share * evaluations)) for share in LOOKS]
    summary = []
    for task, target in dict.fromkeys((row["task"], row["target"]) for row in rows):
        runs = [row for row in rows if (row["task"], row["target"]) == (task, target)]
        soft = {name: [run[name]["soft_accuracy"] for run in runs] for name in ("start", "zero_shot")}
        test = {name: [run[name]["test_accuracy"] for run in runs] for name in ("start", "zero_shot")}
        for name in ("transferred", "scratch"):
            soft |= {f"{name} {look}": [run[name]["curve"][look - 1] for run in runs] for look in looks}
            test[f"{name} {looks[-1]}"] = [run[name]["best"]["test_accuracy"] for run in runs]
        pairs = [("zero_shot", "start"), *((f"transferred {look}", f"scratch {look}") for look in looks)]
        summary.append(
            {
                "task": task,
                "target": target,
                "runs": len(runs),
                "soft_accuracy": {name: _estimate(values) for name, values in soft.items()},
                "test_accuracy": {name: _estimate(values) for name, values in test.items()},
                "chances": {f"{ours} > {theirs}": _chance(soft[ours], soft[theirs]) for ours, theirs in pairs},
            }
        )
    return summary


def _estimate(values: Sequence[float]) -> dict[str, float]:
    return asdict(stratified_bootstrap(interquartile_mean, [values]))


def _chance(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    return asdict(stratified_bootstrap(probability_of_improvement, [ours], [theirs]))


def transfer_table(found: Row) -> Table:
    """Return the table of one (task, target) of :func:`summarise`."""
    tests = found["test_accuracy"]
    rows = [
        [name.replace("_", "-"), Interval.of(soft), Interval.of(tests[name]) if name in tests else None]
        for name, soft in found["soft_accuracy"].items()
    ]
    chances = [f"P({what}) {c['value']:.2f} [{c['low']:.2f}, {c['high']:.2f}]" for what, c in found["chances"].items()]
    return Table(
        f"{found['task']}, {100 * found['target']:g} % of the FLOPs removed, {found['runs']} runs",
        ("plan", percent_column("reward split [95 %]"), percent_column("test [95 %]")),
        rows,
        "interquartile means in %; reward split: soft accuracy; numbers are measured evaluations. On the reward split: "
        + "; ".join(chances).replace("_", "-"),
    )

"""Aggregates and tables of the studies of amortisation: intervals over networks, and over seeds within them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.common.columns import Column, Interval, percent_column
from benchmarks.common.table import Table
from prune_gym.bench.protocol import LEAST_GAIN

Row = dict[str, Any]
GROUPS = ("known kinds", "held-out kinds")
LOOKS = (1, 2, 8, 32)
"""Evaluations after which searches are looked at; the first one is the start plan."""
BOOTSTRAP = 2000


def clustered(values: Sequence[Sequence[float]], seed: int = 0) -> dict[str, float]:
    """Mean over networks of their means, with a 95 % bootstrap interval: networks are drawn, then runs within them."""
    return _bootstrapped([np.asarray(own, dtype=float) for own in values], np.mean, seed)


def _bootstrapped(values: list[np.ndarray], inner: Callable[[np.ndarray], Any], seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(BOOTSTRAP):
        networks = [values[i] for i in rng.integers(len(values), size=len(values))]
        draws.append(np.mean([inner(own[rng.integers(len(own), size=len(own))]) for own in networks]))
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"value": float(np.mean([inner(own) for own in values])), "low": float(low), "high": float(high)}


def group_of(result: Row) -> str:
    """Known or held-out kinds."""
    return GROUPS[bool(result["held_out_kind"])]


# ---------------------------------------------------------------- first plans


def first_plan_summary(results: Sequence[Row]) -> list[Row]:
    """Worth of first plans, by group of networks and by plan.

    Args:
        results: of :class:`benchmarks.studies.amortised.first_plans.FirstPlanStudy`.

    Returns:
        For every group and plan: ``networks``, ``better`` (share of the networks whose mean score over the contests is
        above 0), ``score`` (mean normalised score), ``gain`` and ``test_gain`` (soft accuracy over the knapsack plan)
        and ``test_top1_gain``, each with its interval.
    """
    summary = []
    for group in GROUPS:
        own = [result for result in results if group_of(result) == group]
        contests = [[row for row in result["rows"] if row["best"] - row["knapsack"] >= LEAST_GAIN] for result in own]
        contests = [rows for rows in contests if rows]
        names = dict.fromkeys(name for rows in contests for row in rows for name in row["plans"])
        for name in names:
            if name == "knapsack":
                continue
            scores = [[score_of(row, name) for row in rows] for rows in contests]
            summary.append(
                {
                    "group": group,
                    "plan": name,
                    "networks": len(contests),
                    "contests": sum(map(len, contests)),
                    "better": clustered([[float(np.mean(own) > 0.0)] for own in scores]),
                    "better_contests": clustered([[float(score > 0.0) for score in own] for own in scores]),
                    "score": clustered(scores),
                    **{
                        f"{metric}_gain": clustered([[_gain(row, name, metric) for row in rows] for rows in contests])
                        for metric in ("soft", "test_soft", "test_top1")
                    },
                }
            )
    return summary


def score_of(row: Row, name: str) -> float:
    """Normalised score, not below -1."""
    return max(-1.0, (row["plans"][name]["soft"] - row["knapsack"]) / (row["best"] - row["knapsack"]))


def _gain(row: Row, name: str, metric: str) -> float:
    return float(row["plans"][name][metric] - row["plans"]["knapsack"][metric])


def first_plan_table(summary: Sequence[Row]) -> Table:
    """The table of :func:`first_plan_summary`."""
    columns = (
        "networks",
        "plan",
        percent_column("better than the knapsack's [95 %]", 0),
        Column("score [95 %]", ".2f"),
        percent_column("soft accuracy gained on test [95 %]"),
    )
    rows = [
        [f"{found['group']} ({found['networks']})", found["plan"]]
        + [Interval.of(found[key]) for key in ("better", "score", "test_soft_gain")]
        for found in summary
    ]
    return Table("First plans, nothing measured", columns, rows, "better: share of networks, over their targets")


# ---------------------------------------------------------------- searches


def search_summary(results: Sequence[Row], evaluations: int) -> list[Row]:
    """Normalised scores of agents after some evaluations, by group of networks, and what is ahead of what.

    Args:
        results: of :class:`benchmarks.studies.amortised.searches.SearchStudy`.
        evaluations: of a run.

    Returns:
        For every group and agent: ``scores`` (evaluations -> mean and interval) and ``ahead`` (agent and evaluations ->
        probability that R-SPAR pretrained is ahead of it, draws counting half, on a network at random).
    """
    looks = [look for look in LOOKS if look <= evaluations]
    summary = []
    for group in GROUPS:
        own = [result for result in results if group_of(result) == group]
        networks = {name: [row for row in own if row["network"] == name] for name in {row["network"] for row in own}}
        if not networks:
            continue
        cells = [networks[name] for name in sorted(networks)]
        for agent in own[0]["curves"]:
            scores = {
                str(look): clustered([[_normalised(row, agent, look) for row in rows] for rows in cells])
                for look in looks
            }
            ahead = {
                f"{ours} to {theirs}": clustered([[_ahead(row, ours, agent, theirs) for row in rows] for rows in cells])
                for ours, theirs in ((8, evaluations), (evaluations, evaluations))
            }
            summary.append({"group": group, "agent": agent, "networks": len(cells), "scores": scores, "ahead": ahead})
    return summary


def _normalised(row: Row, agent: str, look: int) -> float:
    return float((row["curves"][agent][look - 1] - row["knapsack"]) / (row["best"] - row["knapsack"]))


def _ahead(row: Row, ours: int, agent: str, theirs: int) -> float:
    difference = row["curves"]["pretrained"][ours - 1] - row["curves"][agent][theirs - 1]
    return float(difference > 0) + 0.5 * float(difference == 0)


def search_table(summary: Sequence[Row]) -> Table:
    """The table of :func:`search_summary`."""
    looks = list(summary[0]["scores"])
    ahead = list(summary[0]["ahead"])
    columns: tuple[Column | str, ...] = (
        "networks",
        "agent",
        *(Column(f"score after {look} [95 %]", ".2f") for look in looks),
        *(Column(f"P(pretrained ahead), {pair} [95 %]", ".2f") for pair in ahead),
    )
    rows = [
        [f"{found['group']} ({found['networks']})", found["agent"]]
        + [Interval.of(found["scores"][look]) for look in looks]
        + [Interval.of(found["ahead"][pair]) if found["agent"] != "pretrained" else None for pair in ahead]
        for found in summary
    ]
    return Table("Searches", columns, rows, "scores: 0 the knapsack's plan, 1 the best one known")


# ---------------------------------------------------------------- measured networks outside the family


def measured_summary(results: Sequence[Row]) -> list[Row]:
    """Soft accuracies on the reward split and top-1 on test, by task; means over seeds.

    Args:
        results: of :class:`benchmarks.studies.amortised.measured.MeasuredStudy`.

    Returns:
        For every task and plan or agent and number of plans: ``soft`` and, where a plan was tested, ``test``.
    """
    summary = []
    for task in dict.fromkeys(row["task"] for row in results):
        runs = [row for row in results if row["task"] == task]
        own = {"task": task, "target": runs[0]["target"], "runs": len(runs)}
        for name, plan in runs[0]["first"].items():
            summary.append({**own, "what": name, "soft": plan["soft_accuracy"], "test": plan["test_accuracy"]})
        for agent in runs[0]["curves"]:
            for look in (8, len(runs[0]["curves"][agent])):
                soft = float(np.mean([run["curves"][agent][look - 1] for run in runs]))
                summary.append({**own, "what": f"{agent}, {look} plans", "soft": soft, "test": None})
            summary[-1]["test"] = float(np.mean([run["best"][agent]["test_accuracy"] for run in runs]))
    return summary


def measured_table(summary: Sequence[Row]) -> Table:
    """The table of :func:`measured_summary`."""
    columns = ("task", "plan", percent_column("soft accuracy"), percent_column("test"))
    rows = [
        [f"{found['task']}, {100 * found['target']:g} %", found["what"], found["soft"], found["test"]]
        for found in summary
    ]
    return Table("Networks outside the family, plans really measured", columns, rows)

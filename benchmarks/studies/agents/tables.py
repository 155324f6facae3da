"""What the runs of the comparison of agents say together: aggregates and tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.table import TextTable, percent, percent_range
from benchmarks.stat_tests.aggregates import interquartile_mean, probability_of_improvement, stratified_bootstrap
from benchmarks.studies.agents.curves import FRONT, evaluations_to_catch_up, is_front, question_of
from hessian.support.files import write_atomic

Result = Mapping[str, Any]
Row = dict[str, Any]

COSTS = ("plans", "caught up", "own s", "measuring s")
METRICS = ("test_accuracy", "test_soft_accuracy", "accuracy", "soft_accuracy")
"""What runs are compared by; runs of earlier versions lack the soft accuracy on test."""


def summarise(results: Sequence[Result], reference: str, n_bootstrap: int = 2000) -> list[Row]:
    """One row a (question, agent): a target or all of them, over tasks and seeds.

    Args:
        results: finished runs.
        reference: label of the agent the others are compared with.
        n_bootstrap: resamples of every interval.

    Returns:
        Rows with ``question`` (``"0.91"`` or ``"front"``), ``agent``, ``runs``, ``metrics`` (metric -> interquartile
        mean, its interval, and the reference's probability of improvement over this agent; None for the reference
        itself and where tasks differ), ``caught_up`` (evaluations after which the reference is where this agent ends,
        with their interval; None for itself and for fronts), ``evaluations``, ``seconds`` (mean, of the agent and of
        its evaluations) and ``overhead`` (the ratio of the two).
    """
    rows = []
    for question in sorted({question_of(result) for result in results}):
        asked = [result for result in results if question_of(result) == question]
        agents = list(dict.fromkeys(result["agent"] for result in asked))
        groups = {agent: [result for result in asked if result["agent"] == agent] for agent in agents}
        for agent, group in groups.items():
            against = groups.get(reference) if agent != reference else None
            rows.append(_row(question, agent, group, against, n_bootstrap))
    return rows


def _row(question: str, agent: str, group: Sequence[Result], against: Sequence[Result] | None, n_bootstrap: int) -> Row:
    known = [metric for metric in METRICS if all(metric in _scores(run) for run in (*group, *(against or ())))]
    metrics = {metric: _compare(group, against, metric, n_bootstrap) for metric in known}
    evaluating = sum(result["seconds"]["evaluations"] for result in group)
    own = sum(result["seconds"]["own"] for result in group)
    caught_up = evaluations_to_catch_up(against, group) if against and question != FRONT else None
    return {
        "question": question,
        "agent": agent,
        "runs": len(group),
        "metrics": metrics,
        "caught_up": None if caught_up is None else asdict(caught_up),
        "evaluations": float(np.mean([len(result["evaluations"]) for result in group])),
        "seconds": {"own": own / len(group), "evaluations": evaluating / len(group)},
        "overhead": own / evaluating if evaluating else None,
    }


def _compare(group: Sequence[Result], against: Sequence[Result] | None, metric: str, n_bootstrap: int) -> Row:
    ours = _by_task(group, metric)
    estimate = stratified_bootstrap(interquartile_mean, list(ours.values()), n_bootstrap=n_bootstrap)
    chance = None
    if against is not None:
        theirs = _by_task(against, metric)
        if set(theirs) == set(ours):
            samples = [theirs[task] for task in ours], list(ours.values())
            chance = asdict(stratified_bootstrap(probability_of_improvement, *samples, n_bootstrap=n_bootstrap))
    return {"iqm": asdict(estimate), "improvement": chance}


def _by_task(group: Sequence[Result], metric: str) -> dict[str, list[float]]:
    """Task -> one value a run; for fronts the hypervolume."""
    values: dict[str, list[float]] = {}
    for result in group:
        values.setdefault(result["task"], []).append(_scores(result)[metric])
    return values


def _scores(result: Result) -> Mapping[str, float]:
    return result["hypervolume"] if is_front(result) else next(iter(result["best"].values()))


def study_table(question: str, rows: Sequence[Row], reference: str) -> TextTable:
    """The rows of one question, best first."""
    what = "Hypervolume over all targets" if question == FRONT else f"{100 * float(question):g} % of the FLOPs removed"
    budget = max((row["evaluations"] for row in rows if row["agent"] == reference), default=0.0)
    ordered = sorted(rows, key=lambda row: -row["metrics"]["test_accuracy"]["iqm"]["value"])
    chance = f"P({reference} >)"
    return TextTable(
        f"{what}, {max(row['runs'] for row in rows)} runs an agent",
        ("agent", "runs", "test", "[95 %]", chance, "[95 %]", "test, soft", chance, "[95 %]", "reward split", *COSTS),
        [_cells(row, budget) for row in ordered],
        "in %; test: interquartile mean of the best plan's one-shot accuracy (of the area under the front), with its "
        "stratified bootstrap interval; soft: mean probability of the true class, which agents optimise; reward split: "
        "soft, too; caught up: "
        f"evaluations after which {reference} is where the agent ends; own s: the agent's own time",
    )


def _cells(row: Row, budget: float) -> list[str]:
    metrics = row["metrics"]
    test, soft = metrics["test_accuracy"], metrics.get("test_soft_accuracy")
    return [
        row["agent"],
        str(row["runs"]),
        percent(test["iqm"]["value"]),
        percent_range(test["iqm"]["low"], test["iqm"]["high"]),
        *_chance(test["improvement"]),
        "" if soft is None else percent(soft["iqm"]["value"]),
        *_chance(None if soft is None else soft["improvement"]),
        percent(metrics["soft_accuracy"]["iqm"]["value"]),
        f"{row['evaluations']:.0f}",
        _caught_up(row["caught_up"], budget),
        f"{row['seconds']['own']:.1f}",
        f"{row['seconds']['evaluations']:.1f}",
    ]


def _chance(found: Row | None) -> tuple[str, str]:
    """A probability of improvement and its interval; nothing where there is none."""
    return ("", "") if found is None else (f"{found['value']:.2f}", f"{found['low']:.2f} - {found['high']:.2f}")


def _caught_up(found: Row | None, budget: float) -> str:
    """Evaluations and their interval; "never" beyond the budget."""
    if found is None:
        return ""
    value, low, high = (f"{found[key]:.0f}" if found[key] <= budget else "never" for key in ("value", "low", "high"))
    return f"{value} ({low} - {high})"


def write_evaluations(path: Path, results: Sequence[Result]) -> None:
    """Write one line a measured evaluation of every run, whole or not at all."""
    columns = ("run", "index", "soft_accuracy", "accuracy", "loss", "flops_reduction", "seconds")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["task", "agent", "targets", "seed", *columns, "kept"])
    for result in results:
        targets = " ".join(f"{target:g}" for target in result["targets"])
        for row in result["evaluations"]:
            values = [row[column] for column in columns]
            kept = " ".join(map(str, row["kept"]))
            writer.writerow([result["task"], result["agent"], targets, result["seed"], *values, kept])
    write_atomic(path, text.getvalue())

"""Aggregates and tables of all runs of the comparison of agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.common.columns import Column, Interval, Value, percent_column
from benchmarks.common.signed_table import signed_csv
from benchmarks.common.table import Table
from benchmarks.stat_tests.aggregates import interquartile_mean, probability_of_improvement, stratified_bootstrap
from benchmarks.studies.agents.curves import FRONT, evaluations_to_catch_up, is_front, question_of

Result = Mapping[str, Any]
Row = dict[str, Any]

METRICS = ("test_accuracy", "test_soft_accuracy", "accuracy", "soft_accuracy")
"""Metrics that runs are compared by; runs of earlier versions lack the soft accuracy on test."""


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


def study_table(question: str, rows: Sequence[Row], reference: str) -> Table:
    """Return the table of the rows of one question, best first."""
    what = "Hypervolume over all targets" if question == FRONT else f"{100 * float(question):g} % of the FLOPs removed"
    budget = max((row["evaluations"] for row in rows if row["agent"] == reference), default=0.0)
    ordered = sorted(rows, key=lambda row: -row["metrics"]["test_accuracy"]["iqm"]["value"])
    chance = Column(f"P({reference} >)", ".2f")
    columns = (
        *("agent", "runs", percent_column("test"), chance, percent_column("test, soft"), chance),
        *(percent_column("reward split"), Column("plans", ".0f"), "caught up"),
        *(Column("own s", ".1f"), Column("measuring s", ".1f")),
    )
    return Table(
        f"{what}, {max(row['runs'] for row in rows)} runs an agent",
        columns,
        [_cells(row, budget) for row in ordered],
        "accuracies in %; test: interquartile mean of the best plan's one-shot accuracy (of the area under the front) "
        f"[95 % stratified bootstrap interval]; P: probability that a run of {reference} beats a run of this agent; "
        "soft: mean probability of the true class, which agents optimise; reward split: soft, too; caught up: "
        f"evaluations after which {reference} is where the agent ends; own s: the agent's time beside measuring",
    )


def _cells(row: Row, budget: float) -> list[Value]:
    metrics = row["metrics"]
    test, soft = metrics["test_accuracy"], metrics.get("test_soft_accuracy")
    return [
        *(row["agent"], row["runs"], Interval.of(test["iqm"]), _interval(test["improvement"])),
        *((None, None) if soft is None else (soft["iqm"]["value"], _interval(soft["improvement"]))),
        *(metrics["soft_accuracy"]["iqm"]["value"], row["evaluations"]),
        _caught_up(row["caught_up"], budget),
        *(row["seconds"]["own"], row["seconds"]["evaluations"]),
    ]


def _interval(found: Row | None) -> Interval | None:
    return None if found is None else Interval.of(found)


def _caught_up(found: Row | None, budget: float) -> str | None:
    """Evaluations and their interval; "never" beyond the budget."""
    if found is None:
        return None
    value, low, high = (f"{found[key]:.0f}" if found[key] <= budget else "never" for key in ("value", "low", "high"))
    return f"{value} ({low} - {high})"


def evaluations_csv(results: Sequence[Result]) -> str:
    """One line a measured evaluation of every run."""
    columns = ("run", "index", "soft_accuracy", "accuracy", "loss", "flops_reduction", "seconds")
    rows = [
        {
            **{key: result[key] for key in ("task", "agent", "seed")},
            "targets": " ".join(f"{target:g}" for target in result["targets"]),
            **{column: row[column] for column in columns},
            "kept": " ".join(map(str, row["kept"])),
        }
        for result in results
        for row in result["evaluations"]
    ]
    return signed_csv(rows, ("task", "agent", "targets", "seed", *columns, "kept"))

"""Worth of a point of the reward split on the test split: how far a study's ranking of agents can be trusted.

A run ends with the plan that scored best on the reward split; what is reported is its test accuracy after the full
refit. The two differ by the images, by the repair and by what is counted. Over the runs of all agents a line through
both says how much of a lead on the reward split arrives, and its residuals how much luck comes on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import linregress, norm

from benchmarks.common.columns import Column, percent_column
from benchmarks.common.table import Table
from benchmarks.studies.agents.curves import FRONT, question_of

MIN_RUNS = 8
"""Fewer runs say little about a line and its residuals."""
CONFIDENT = 0.9
"""The probability of improvement that :attr:`lead_needed` refers to."""

ON_TEST = {"test_accuracy": "top-1", "test_soft_accuracy": "soft"}
"""Ways to look at the test split -> what tables call them."""

Row = dict[str, Any]


def reward_to_test(results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row a (task, question, way to look at test) with enough searches that ended differently.

    Args:
        results: finished runs; those that measured a single plan a target are left out.

    Returns:
        Rows with ``task``, ``question`` (``"0.91"``; or ``"front"``, where the area under the front takes the place of
        a plan's score), ``metric`` (a key of :data:`ON_TEST`), ``ends`` (plans or fronts), ``slope`` (of that metric
        over the soft accuracy on the reward split), ``slope_error`` (its standard error), ``residual_std`` (fraction)
        and ``lead_needed``: by how much (fraction) the runs of an agent must be better on the reward split for one of
        them to be better on test with probability :data:`CONFIDENT`, if runs of an agent differed by nothing else;
        None where the slope is not positive.
    """
    rows = []
    for task, question in sorted({(run["task"], question_of(run)) for run in results}):
        asked = [run for run in results if (run["task"], question_of(run)) == (task, question)]
        ends = _final_fronts(asked) if question == FRONT else list(final_plans(asked).values())
        for metric in ON_TEST:
            known = [end for end in ends if metric in end]
            reward = np.array([end["soft_accuracy"] for end in known])
            if len(known) >= MIN_RUNS and np.ptp(reward) > 0:
                found = line_through(reward, np.array([end[metric] for end in known]))
                rows.append({"task": task, "question": question, "metric": metric, "ends": len(known), **found})
    return rows


def _final_fronts(results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The areas under the fronts that searches ended with."""
    return [run["hypervolume"] for run in results if len(run["evaluations"]) > len(run["targets"])]


def final_plans(results: Sequence[Mapping[str, Any]]) -> dict[tuple[int, ...], Row]:
    """Kept vector -> its scores, of the plans that searches at one target ended with.

    Args:
        results: finished runs on one task at one target; those that measured a single plan are left out.
    """
    return {
        tuple(best["kept"]): best for run in results if len(run["evaluations"]) > 1 for best in run["best"].values()
    }


def line_through(measured: NDArray[np.float64], test: NDArray[np.float64]) -> Row:
    """Line by which one score of plans predicts another.

    Args:
        measured: [N] a plan's score where it is compared with others (fraction), not all alike.
        test: [N] its score on the test split (fraction).

    Returns:
        ``slope`` of the line of least squares, ``slope_error``, ``residual_std`` and ``lead_needed`` as
        :func:`reward_to_test` describes them.
    """
    line = linregress(measured, test)
    residuals = test - line.intercept - line.slope * measured
    spread = float(np.sqrt(np.sum(residuals**2) / (len(test) - 2)))
    needed = float(norm.ppf(CONFIDENT) * np.sqrt(2) * spread / line.slope) if line.slope > 0 else None
    return {
        "slope": float(line.slope),
        "slope_error": float(line.stderr),
        "residual_std": spread,
        "lead_needed": needed,
    }


def signal_table(rows: Sequence[Row]) -> Table:
    """Return the table of the rows of :func:`reward_to_test`."""
    lines = (Column("points", ".2f"), Column("±", ".2f"), percent_column("luck"))
    return Table(
        "Worth of a point of the reward split on test",
        ("task", "target", "on test", "runs", *lines, percent_column(f"lead for P = {CONFIDENT:g}")),
        [
            [
                row["task"],
                "all" if row["question"] == FRONT else row["question"],
                ON_TEST[row["metric"]],
                *(row["ends"], row["slope"], row["slope_error"], row["residual_std"], row["lead_needed"]),
            ]
            for row in rows
        ],
        "over how all searches ended (all targets: the area under the front); luck: standard deviation on test around "
        "the line (points); lead: points of soft accuracy on the reward split by which an agent must be ahead to be "
        "ahead on test with that probability",
    )

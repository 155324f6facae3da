"""Best-so-far curves of the comparison of agents, and how soon one agent gets where another ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.interface.protocol import TOLERANCE
from benchmarks.stat_tests.aggregates import (
    Band,
    Estimate,
    Strata,
    interquartile_curve,
    interquartile_mean,
    stratified_band,
    stratified_bootstrap,
)

Result = Mapping[str, Any]

FRONT = "front"
"""The question of runs that served several targets."""


def is_front(result: Result) -> bool:
    """Return whether a run served several targets."""
    return len(result["targets"]) > 1


def question_of(result: Result) -> str:
    """Question a run was asked: its target, as ``"0.91"``, or ``"front"`` where there were several."""
    return FRONT if is_front(result) else f"{result['targets'][0]:g}"


def best_so_far(result: Result, length: int) -> NDArray[np.float64]:
    """Soft accuracy of the best plan on the target after every evaluation of a run at one target, [length].

    The start plan always counts. A run that measured fewer plans keeps its last value.
    """
    target, rows = result["targets"][0], result["evaluations"]
    meets = [0 <= row["flops_reduction"] - target <= TOLERANCE or row["index"] == 1 for row in rows]
    scores = [row["soft_accuracy"] if good else -np.inf for row, good in zip(rows, meets, strict=True)]
    curve = np.maximum.accumulate(scores)[:length]
    return np.append(curve, np.full(length - len(curve), curve[-1]))


def curves_of(results: Sequence[Result], length: int, n_bootstrap: int = 1000, seed: int = 0) -> Band:
    """Interquartile mean of the best-so-far curves of one agent and its 95 % interval.

    Args:
        results: runs at one target; they are resampled within every task.
        length: of the curves, in evaluations.
        n_bootstrap: resamples.
        seed: of the resampling.

    Returns:
        Arrays [length].
    """
    strata = list(_by_task(results, length).values())
    return stratified_band(interquartile_curve, strata, n_bootstrap=n_bootstrap, seed=seed)


def evaluations_to_catch_up(
    ours: Sequence[Result], theirs: Sequence[Result], n_bootstrap: int = 1000, seed: int = 0
) -> Estimate | None:
    """Number of evaluations our runs need to get where their runs end, both as interquartile means of curves.

    Args:
        ours: runs at one target.
        theirs: the same tasks and target; budgets may differ.
        n_bootstrap: resamples of the runs on both sides.
        seed: of the resampling.

    Returns:
        Evaluations with their interval; one more than our budget means that we do not get there. None where tasks
        differ.
    """
    budgets = [max(len(result["evaluations"]) for result in side) for side in (ours, theirs)]
    curves, ends = _by_task(ours, budgets[0]), _by_task(theirs, budgets[1])
    if set(curves) != set(ends):
        return None

    def needed(our_curves: Strata, their_ends: Strata) -> float:
        reached = interquartile_curve(our_curves) >= interquartile_mean(their_ends)
        return float(np.argmax(reached) if reached.any() else len(reached)) + 1

    return stratified_bootstrap(
        needed,
        list(curves.values()),
        [ends[task][:, -1] for task in curves],
        n_bootstrap=n_bootstrap,
        seed=seed,
    )


def _by_task(results: Sequence[Result], length: int) -> dict[str, NDArray[np.float64]]:
    """Task -> curves [num_runs, length]."""
    by_task: dict[str, list[NDArray[np.float64]]] = {}
    for result in results:
        by_task.setdefault(result["task"], []).append(best_so_far(result, length))
    return {task: np.array(runs) for task, runs in by_task.items()}

"""Effect of repairs on plans around the start: spread, ties, and how alike they rank them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np

from benchmarks.common.columns import Column, Value
from benchmarks.common.table import Table
from hessian.audit.rank_correlation import RankCorrelation, pooled
from prune_gym.envs.hobs_prune import HOBSPruneEnv
from prune_gym.measuring.evaluator import Evaluator
from prune_gym.problem.problem import PruningProblem

PREDICTED = "predicted"

Report = Callable[[str], None]


@dataclass(frozen=True)
class Signal:
    """Scores that one repair gives the plans around the start.

    Attributes:
        repair: its name.
        start: soft accuracy of the start plan.
        soft_accuracies: of every other plan, in order.
        accuracies: their top-1 accuracies.
        seconds: median time of a plan.
    """

    repair: str
    start: float
    soft_accuracies: tuple[float, ...]
    accuracies: tuple[float, ...]
    seconds: float

    @property
    def spread(self) -> float:
        """Standard deviation of the soft accuracies; NaN of a single one."""
        return float(np.std(self.soft_accuracies, ddof=1)) if len(self.soft_accuracies) > 1 else float("nan")

    @property
    def better(self) -> float:
        """Share of the plans that score above the start."""
        return float(np.mean(np.array(self.soft_accuracies) > self.start))


@dataclass(frozen=True)
class Agreement:
    """Agreement of two of the repairs, or of a repair and the prediction, on the ranks of plans."""

    first: str
    second: str
    spearman: RankCorrelation


def tied(scores: Sequence[float]) -> float:
    """Share of the scores that equal another one exactly."""
    _, group, counts = np.unique(np.array(scores), return_inverse=True, return_counts=True)
    return float((counts[group] > 1).mean())


def plans_around(problem: PruningProblem, target: float, count: int, size: float, seed: int) -> np.ndarray:
    """The start plan and distinct plans one random move away from it, int64 [count + 1, L].

    Args:
        problem: a loaded problem.
        target: FLOPs reduction all plans meet.
        count: number of moves.
        size: a move's entries are uniform in [-size, size].
        seed: of the moves.

    Raises:
        ValueError: so many different plans are not found.
    """
    env = HOBSPruneEnv(problem=problem, constraint="hard", target_flops_reduction=target)
    start = problem.start_plan(env.settings.start, target, limits=env.limits)
    moves = np.random.default_rng(seed).uniform(-size, size, (40 * count, problem.num_layers))
    found = list(dict.fromkeys(map(tuple, [start.tolist(), *env.decode(moves, start).tolist()])))
    if len(found) <= count:
        raise ValueError(
            f"only {len(found) - 1} different plans lie around the start at {target}; fewer --plans are needed"
        )
    return np.array(found[: count + 1])


def measure(problem: PruningProblem, repair: str, plans: np.ndarray, report: Report) -> Signal:
    """Measure the plans, the start plan first, after one repair."""
    evaluator = Evaluator(problem.task, problem.hobs, repair)
    seconds, found = [], []
    for number, kept in enumerate(plans, start=1):
        started = time.perf_counter()
        found.append(evaluator.evaluate(kept.tolist()))
        seconds.append(time.perf_counter() - started)
        report(f"{repair}: plan {number} of {len(plans)}, soft accuracy {found[-1].soft_accuracy:.4f}")
    start, *others = found
    return Signal(
        repair,
        start.soft_accuracy,
        tuple(evaluation.soft_accuracy for evaluation in others),
        tuple(evaluation.accuracy for evaluation in others),
        float(np.median(seconds)),
    )


def agreements(signals: Sequence[Signal], predicted_losses: np.ndarray) -> list[Agreement]:
    """Spearman's correlations of all pairs of repairs, and of every repair with the prediction."""
    scores = {signal.repair: np.array(signal.soft_accuracies) for signal in signals}
    scores[PREDICTED] = -predicted_losses
    return [
        Agreement(first, second, pooled([*np.stack([scores[first], scores[second]], axis=-1)[:, None]]))
        for first, second in combinations(scores, 2)
    ]


def signal_table(title: str, signals: Sequence[Signal]) -> Table:
    """Return a table of the scores that every repair gives to the plans at one target."""
    shares = (Column(name, ".0%") for name in ("ties", "ties, top-1", "better"))
    scores = (Column(name, ".4f") for name in ("start", "std", "from", "to"))
    rows: list[list[Value]] = [
        [
            *(signal.repair, signal.start, signal.spread, min(signal.soft_accuracies), max(signal.soft_accuracies)),
            *(tied(signal.soft_accuracies), tied(signal.accuracies), signal.better, signal.seconds),
        ]
        for signal in signals
    ]
    return Table(title, ("repair", *scores, *shares, Column("s a plan", ".2f")), rows)


def as_json(
    target: float, plans: np.ndarray, losses: np.ndarray, signals: Sequence[Signal], pairs: Sequence[Agreement]
) -> dict[str, object]:
    """Return all that was measured at one target as JSON can hold it."""
    repairs = [
        {
            **asdict(signal),
            **_finite({"spread": signal.spread}),
            "ties": tied(signal.soft_accuracies),
            "top1_ties": tied(signal.accuracies),
            "better": signal.better,
        }
        for signal in signals
    ]
    return {
        "target": target,
        "plans": plans.tolist(),
        "predicted_losses": losses.tolist(),
        "repairs": repairs,
        "agreements": [
            {"first": pair.first, "second": pair.second, **_finite(asdict(pair.spearman))} for pair in pairs
        ],
    }


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in values.items()}

"""What does the reward say of the plans around the start? Its spread, its ties, and whether repairs agree on ranks.

    python -m benchmarks.studies.evidence.reward_signal [--task NAME] [--targets X ...] [--repairs NAME ...] ...

Random moves around the knapsack plan, all on the target (hard constraint), are measured on the reward split after each
repair. A reward that is nearly constant there teaches nothing; a cheaper repair, or a prediction, that ranks the plans
alike can stand in for the dearer one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
import torch
from rich.console import Console

from benchmarks.common.arguments import default_threads, positive, writable
from benchmarks.common.columns import Column, Value
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from benchmarks.common.table import Table, report_console
from hessian.audit.rank_correlation import RankCorrelation, pooled
from prune_gym.envs.hobs_prune import HOBSPruneEnv
from prune_gym.measuring.evaluator import Evaluator
from prune_gym.measuring.repair import REPAIRS
from prune_gym.problem.problem import PruningProblem
from prune_gym.support.device import resolve_device
from prune_gym.tasks.registry import task_names

PREDICTED = "predicted"

Report = Callable[[str], None]


@dataclass(frozen=True)
class Signal:
    """What one repair makes of the plans around the start.

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
    """How alike two of the repairs, or a repair and the prediction, rank the plans."""

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


@reports_errors(OSError, ValueError, KeyError)
def main(argv: Sequence[str] | None = None) -> int:
    """Measure from the command line.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 2 bad input, 130 interrupted.
    """
    options = _parser().parse_args(argv)
    console = Console()
    torch.set_num_threads(options.threads or default_threads())
    problem = PruningProblem(options.task, device=resolve_device(options.gpu)).load()
    results = []
    for target in options.targets or [problem.default_target]:
        plans = plans_around(problem, target, options.plans, options.size, options.seed)
        signals = [
            measure(problem, repair, plans, lambda line: console.print(line, style="dim", highlight=False))
            for repair in options.repairs
        ]
        losses = problem.predicted_loss(plans[1:])
        pairs = agreements(signals, losses)
        report_console(console).print(signal_table(f"{options.task}, {target:.0%} of the FLOPs removed", signals))
        for pair in pairs:
            rank = pair.spearman
            console.print(f"Spearman {pair.first}, {pair.second}: {rank.value:.2f} [{rank.low:.2f}, {rank.high:.2f}]")
        results.append(_as_json(target, plans, losses, signals, pairs))
    if options.json is not None:
        images = len(problem.task.reward.labels)
        header = {"task": options.task, "reward_images": images, "size": options.size, "seed": options.seed}
        write_result(options.json, {**header, "threads": torch.get_num_threads(), "targets": results})
    return 0


def _as_json(
    target: float, plans: np.ndarray, losses: np.ndarray, signals: Sequence[Signal], pairs: Sequence[Agreement]
) -> dict[str, object]:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.evidence.reward_signal", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--task", default="digits-resnet20", help=f"one of {', '.join(task_names())}")
    parser.add_argument("--targets", type=float, nargs="+", metavar="X", help="FLOPs reductions (default: the task's)")
    parser.add_argument(
        "--repairs", nargs="+", choices=REPAIRS, default=list(REPAIRS), metavar="NAME", help="%(choices)s"
    )
    parser.add_argument("--plans", type=positive, default=24, help="random moves a target (default: %(default)s)")
    parser.add_argument("--size", type=float, default=0.3, help="largest entry of a move (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moves (default: %(default)s)")
    parser.add_argument("--json", type=writable, metavar="FILE", help="write all scores")
    parser.add_argument("--gpu", metavar="ID", help="GPU index, or cpu (default: the only GPU, else the CPU)")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: one a core, at most 8)")
    return parser


if __name__ == "__main__":
    sys.exit(main())

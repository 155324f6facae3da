"""Signal of the reward around the start: its spread, its ties, and whether repairs agree on ranks.

    python -m benchmarks.studies.evidence.reward_signal [--task NAME] [--targets X ...] [--repairs NAME ...] ...

Random moves around the knapsack plan, all on the target (hard constraint), are measured on the reward split after each
repair. A reward that is nearly constant there teaches nothing; a cheaper repair, or a prediction, that ranks the plans
alike can stand in for the dearer one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence

from rich.console import Console

from benchmarks.common.arguments import command_parser, one_of, positive, prepare
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from benchmarks.common.table import report_console


@reports_errors(ValueError, KeyError)
def main(argv: Sequence[str] | None = None) -> int:
    """Measure from the command line.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 2 bad input, 130 interrupted.
    """
    options = _parser().parse_args(argv)
    import torch

    from benchmarks.studies.evidence.reward_plans import agreements, as_json, measure, plans_around, signal_table
    from prune_gym.problem.problem import PruningProblem

    console = Console()
    problem = PruningProblem(options.task, device=prepare(options)).load()
    results = []
    for target in options.targets or [problem.default_target]:
        plans = plans_around(problem, target, options.plans, options.size, options.seed)
        signals = [
            measure(problem, repair, plans, lambda line: console.print(line, style="dim", highlight=False))
            for repair in options.repairs or _repairs()
        ]
        losses = problem.predicted_loss(plans[1:])
        pairs = agreements(signals, losses)
        report_console(console).print(signal_table(f"{options.task}, {target:.0%} of the FLOPs removed", signals))
        for pair in pairs:
            rank = pair.spearman
            console.print(f"Spearman {pair.first}, {pair.second}: {rank.value:.2f} [{rank.low:.2f}, {rank.high:.2f}]")
        results.append(as_json(target, plans, losses, signals, pairs))
    if options.json is not None:
        images = len(problem.task.reward.labels)
        header = {"task": options.task, "reward_images": images, "size": options.size, "seed": options.seed}
        write_result(options.json, {**header, "threads": torch.get_num_threads(), "targets": results})
    return 0


def _repairs() -> Collection[str]:
    from prune_gym.measuring.repair import REPAIRS

    return REPAIRS


def _parser() -> argparse.ArgumentParser:
    module, what = "benchmarks.studies.evidence.reward_signal", (__doc__ or "").splitlines()[0]
    parser = command_parser(module, what, "task", "json", "gpu", "threads")
    parser.set_defaults(task="digits-resnet20")
    parser.add_argument("--targets", type=float, nargs="+", metavar="X", help="FLOPs reductions (default: the task's)")
    parser.add_argument(
        "--repairs", nargs="+", type=one_of("repair", _repairs), metavar="NAME", help="names of repairs (default: all)"
    )
    parser.add_argument("--plans", type=positive, default=24, help="random moves a target (default: %(default)s)")
    parser.add_argument("--size", type=float, default=0.3, help="largest entry of a move (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moves (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())

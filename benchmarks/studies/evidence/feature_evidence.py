"""Evidence on which features tell how much a layer can lose: rank correlation with the true loss of pruning it.

    python -m benchmarks.studies.evidence.feature_evidence [--task NAME] [--json FILE] [--threads N]

Every layer alone loses 25, 50 and 75 % of its units. The network is repaired, and the Kullback-Leibler divergence of
its outputs from the dense network's, on the reward images, is the true loss. A feature that predicts it ranks the
layers alike, in either direction.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from benchmarks.common.arguments import command_parser, prepare
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from benchmarks.common.table import report_console


@reports_errors(ValueError, KeyError)
def main(argv: Sequence[str] | None = None) -> int:
    """Collect the evidence from the command line.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 2 bad input, 130 interrupted.
    """
    parser = command_parser(
        "benchmarks.studies.evidence.feature_evidence",
        (__doc__ or "").splitlines()[0],
        *("task", "json", "gpu", "threads"),
    )
    parser.set_defaults(task="digits-resnet20")
    options = parser.parse_args(argv)
    from benchmarks.studies.evidence.feature_ranks import SHARES, all_features, evidence, evidence_table, true_losses
    from prune_gym.problem.problem import PruningProblem

    console = Console()
    problem = PruningProblem(options.task, device=prepare(options)).load()
    losses = true_losses(problem, lambda line: console.print(line, style="dim", highlight=False))
    rows = evidence(all_features(problem), losses)
    if options.json is not None:
        result = {
            "task": options.task,
            "shares": SHARES,
            "layers": problem.layer_names,
            "true_losses": losses.tolist(),
            "features": [{**asdict(row), "strength": row.strength} for row in rows],
        }
        write_result(options.json, result)
    report_console(console).print(evidence_table(f"{options.task}: {problem.num_layers} layers", rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

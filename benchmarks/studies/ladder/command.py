"""Baselines on the bench at equal evaluations, and the leaderboard of what was submitted.

    python -m benchmarks.studies.ladder run --out DIR [--agents NAME ...] [--seeds N ...] [--minutes M] [--workers N]
    python -m benchmarks.studies.ladder publish --out DIR [--to FOLDER]
    python -m benchmarks.studies.ladder page [--to FOLDER]

``run`` keeps a file a run in ``DIR/cells``; the same command goes on with what is left. ``publish`` makes submissions
of them, and ``page`` the leaderboard of all submissions. Nothing is measured: plans score by the bench's surrogates.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.common.arguments import add_options, command_parser
from benchmarks.common.command import reports_errors
from benchmarks.studies.engine.command import INTERRUPTED, SHARED, run_command


@reports_errors(ValueError, KeyError, ImportError, FileNotFoundError, interrupted=INTERRUPTED)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the baselines, or make submissions or the page of them.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done (or out of time), 1 some runs failed, 2 bad input, 130 interrupted.

    Raises:
        ValueError: an agent that the ladder does not have.
    """
    options = _parser().parse_args(argv)
    from benchmarks.studies.ladder.page import FOLDER, write_page

    if options.step == "page":
        write_page(options.to or FOLDER, options.networks)
        return 0
    import torch

    from benchmarks.common.modules import import_modules
    from benchmarks.studies.ladder.cells import ABOUT
    from benchmarks.studies.ladder.study import LadderStudy
    from hessian.support.names import unknown
    from prune_gym.bench.protocol import SEEDS

    agents = tuple(options.agents or ABOUT)
    for agent in agents:
        if agent not in ABOUT:
            raise ValueError(unknown("agent of the ladder", agent, tuple(ABOUT)))
    study = partial(LadderStudy, options.out, agents, tuple(options.seeds or SEEDS), options.networks)
    if options.step == "publish":
        study(torch.device("cpu")).publish(options.to or FOLDER)
        return 0
    import_modules(options.imports)
    return run_command(study, options, threads=1)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("benchmarks.studies.ladder", "Baselines on the bench, and its leaderboard.")
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    run = steps.add_parser("run", help="let the baselines search")
    add_options(run, *SHARED)
    run.add_argument("--seeds", nargs="+", type=int, metavar="N", help="of the runs (default: the protocol's)")
    publish = steps.add_parser("publish", help="make submissions of finished runs")
    publish.set_defaults(seeds=None)
    page = steps.add_parser("page", help="make the leaderboard's page")
    for step in (run, publish):
        step.add_argument("--out", type=Path, required=True, metavar="DIR", help="where runs are kept")
        step.add_argument("--agents", nargs="+", metavar="NAME", help="which (default: all of the ladder)")
    for step in (publish, page):
        step.add_argument("--to", type=Path, metavar="FOLDER", help="of submissions (default: the repository's)")
    for step in (run, publish, page):
        step.add_argument("--networks", type=Path, metavar="FILE", help="of the bench (default: the package's)")
    return parser

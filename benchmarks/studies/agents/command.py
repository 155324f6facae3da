"""R-SPAR against searches and Stable-Baselines3 at equal measured evaluations: agents x tasks x targets x seeds.

    python -m benchmarks.studies.agents --config FILE [--part I/N] [--workers N] [--minutes M] [KEY=VALUE ...]

Every run is a file of its own in ``save_dir/cells``, and every measured plan is kept: a killed or stopped study goes on
with the same command, inside a run too, and ends as if it had not stopped; several processes can share the work. When
runs are there, tables are printed, and ``comparison.md``, ``comparison.json``, ``evaluations.csv`` and plots are
written to ``save_dir``. An agent with a ``source`` is trained there first; its file is kept in ``save_dir/agents``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from benchmarks.common.command import reports_errors
from benchmarks.common.modules import import_modules
from benchmarks.studies.engine.command import INTERRUPTED, run_command, study_parser


@reports_errors(ValueError, ImportError, interrupted=INTERRUPTED)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the study, or what is left of it.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done (or out of time), 1 the disk is full, 2 bad input, 130 interrupted.
    """
    options = _parser().parse_intermixed_args(argv)
    from benchmarks.studies.agents.config import StudyConfig
    from benchmarks.studies.agents.study import AgentStudy

    import_modules(options.imports)
    config = StudyConfig.load(options.config, options.overrides)
    return run_command(partial(AgentStudy, config), options, config.num_threads)


def _parser() -> argparse.ArgumentParser:
    return study_parser("benchmarks.studies.agents", "Compare agents at equal measured evaluations.", "config")

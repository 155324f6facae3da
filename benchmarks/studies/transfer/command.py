"""R-SPAR trained on one task, at work on others: at once, and after a few measured evaluations there.

    python -m benchmarks.studies.transfer --config FILE [--minutes M] [--part I/N] [--workers N] [KEY=VALUE ...]

A policy is trained on the source task for every seed and carried to every other task, where it acts without learning
(zero-shot) and then learns, beside an agent that begins there. Every run is a file in ``save_dir/cells``; the same
command goes on with what is left. Tables go to the terminal and, as ``transfer.md`` and ``transfer.json``, to
``save_dir``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.common.command import reports_errors
from benchmarks.common.modules import import_modules
from benchmarks.studies.engine.command import INTERRUPTED, run_command, study_parser


@reports_errors(ValueError, KeyError, ImportError, interrupted=INTERRUPTED)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the study, or what is left of it.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done (or out of time), 1 the disk is full, 2 bad input, 130 interrupted.
    """
    what = "What R-SPAR learned on one task is worth on others."
    options = study_parser("benchmarks.studies.transfer", what, "config").parse_intermixed_args(argv)
    from benchmarks.studies.transfer.config import TransferConfig
    from benchmarks.studies.transfer.study import TransferStudy

    import_modules(options.imports)
    config = TransferConfig.load(options.config, options.overrides)
    return run_command(partial(TransferStudy, config), options, config.num_threads)

"""PruneBench, made anew: the family trained, its plans measured, surrogates fitted, the files of the package written.

    python -m benchmarks.studies.bench measure --out DIR [--workers N --threads 1] [--part 1/2] [--minutes 55]
    python -m benchmarks.studies.bench build --out DIR [--to FOLDER]

`measure` keeps a file a network in ``DIR/cells``; a killed or stopped run goes on with the same command, and several
can share the work. `build` makes ``networks.safetensors``, ``plans.parquet`` and ``datasheet.md`` of the networks that
are finished; equal cells give equal bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.common.arguments import add_options, command_parser, positive
from benchmarks.common.command import reports_errors
from benchmarks.studies.engine.command import INTERRUPTED, SHARED, run_command


@reports_errors(ValueError, KeyError, ImportError, FileNotFoundError, interrupted=INTERRUPTED)
def main(argv: Sequence[str] | None = None) -> int:
    """Measure the bench, or build its files.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done (or out of time), 1 some networks failed, 2 bad input, 130 interrupted.
    """
    options = _parser().parse_args(argv)
    if options.step == "build":
        from benchmarks.studies.bench.build import build_files

        return build_files(options.out, options.to)
    from benchmarks.common.modules import import_modules
    from benchmarks.studies.bench.study import BenchStudy

    import_modules(options.imports)
    return run_command(partial(BenchStudy, options.out, options.plans), options, threads=1, names=options.networks)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("benchmarks.studies.bench", "Make the table of measured plans anew.")
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    measure = steps.add_parser("measure", help="train, analyse and measure the networks that are left")
    add_options(measure, *SHARED)
    measure.add_argument("--plans", type=positive, default=300, metavar="N", help="a network (default: %(default)s)")
    measure.add_argument("--networks", nargs="+", metavar="NAME", help="only these (default: all)")
    build = steps.add_parser("build", help="write the files of the networks that are finished")
    build.add_argument("--to", type=Path, metavar="FOLDER", help="where files go (default: into the package)")
    for step in (measure, build):
        step.add_argument("--out", type=Path, required=True, metavar="DIR", help="where cells are kept")
    return parser

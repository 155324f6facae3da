"""Thousands of random networks, cut and compared with an oracle.

``python -m benchmarks.studies.any_network`` composes networks of the block kinds there are, removes one unit of a layer
and then half the units of every layer, and compares the smaller network with the dense one in which these channels read
as zero, in evaluation and in training mode. It prints a table and writes ``benchmarks/results/any_network.json``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.common.arguments import positive, writable
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from benchmarks.common.table import report_console
from benchmarks.studies.any_network.composer import KINDS
from benchmarks.studies.any_network.judge import FAILED, WRONG
from benchmarks.studies.any_network.random_run import RandomRun, kinds_table, random_run

RESULTS = Path(__file__).parents[2] / "results" / "any_network.json"
NETWORKS = 2000
_EVERY = 100
"""Networks between two reports of progress."""


@reports_errors(OSError, ValueError)
def main(argv: Sequence[str] | None = None) -> int:
    """Judge random networks; the exit code is 1 if one is not cut rightly, 2 on bad input.

    Args:
        argv: arguments; absent means those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.any_network", description=__doc__.splitlines()[0]
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"block kinds; all by default: {', '.join(KINDS)}")
    parser.add_argument("--networks", type=positive, default=NETWORKS, help="how many (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first network (default: %(default)s)")
    parser.add_argument(
        "--json",
        type=writable,
        help="where the numbers go (default: benchmarks/results/any_network.json for a whole run, nowhere for others)",
    )
    arguments = parser.parse_args(argv)
    unknown = [kind for kind in arguments.kinds if kind not in KINDS]
    if unknown:
        parser.error(f"unknown block kind {unknown[0]!r}; choose among {', '.join(KINDS)}")
    whole = not arguments.kinds and arguments.networks >= NETWORKS
    path = arguments.json or (RESULTS if whole else None)
    console = report_console(Console())
    # Networks that spectral norms or empty gradients make PyTorch talk about are no news here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.networks)
        run = random_run(seeds, tuple(arguments.kinds) or tuple(KINDS), _Reporter(console))
    content = {"first_seed": arguments.first_seed, **run.content()}
    if path is not None:
        write_result(path, content)
    console.print(kinds_table(content))
    return 1 if run.verdicts[WRONG] or run.verdicts[FAILED] else 0


class _Reporter:
    """Says how far a run is, and what went wrong, as it happens."""

    def __init__(self, console: Console) -> None:
        self._console, self._started, self._known = console, time.perf_counter(), 0

    def __call__(self, run: RandomRun) -> None:
        for problem in run.problems[self._known :]:
            kinds = ", ".join(problem["kinds"])
            line = f"seed {problem['seed']} ({kinds}; {problem['head']}): {problem['verdict']}: {problem['message']}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._known = len(run.problems)
        done = sum(run.verdicts.values())
        if done % _EVERY == 0:
            spent = time.perf_counter() - self._started
            self._console.print(f"{done} networks, {dict(run.verdicts)}, {spent:.0f} s", highlight=False)

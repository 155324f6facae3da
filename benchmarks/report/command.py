"""One page about results, to send to a colleague.

    prune-gym report RESULTS [--out FILE]

RESULTS is a run's folder, a folder of runs, a sweep, an ablation, a comparison of agents or methods, or a folder that
holds several of these. The page is one HTML file that loads nothing, with tables, pictures, and the command behind
every number. What cannot be read is named on the page and left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.common.arguments import command_parser
from benchmarks.common.command import reports_errors
from benchmarks.common.modules import import_modules

PAGE = "report.html"


@reports_errors()
def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Write the page.

    Args:
        argv: arguments; absent means those of the process.
        prog: name of the command in the help text.

    Returns:
        Exit code: 0 done, also where something is left out and named; 2 no results, or the page cannot be written.
    """
    options = _parser(prog).parse_args(argv)
    import_modules(options.imports)
    from benchmarks.report.page import render
    from benchmarks.report.sources import find_results
    from hessian.support.files import write_atomic

    errors, path = Console(stderr=True), options.out or options.results / PAGE
    findings = find_results(options.results)
    write_atomic(path, render(findings))
    for problem in findings.problems:
        errors.print(f"left out: {problem}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    Console().print(f"report: {path}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _parser(prog: str | None) -> argparse.ArgumentParser:
    what = "Write one self-contained HTML page about results."
    parser = command_parser("benchmarks.report", what, "import", prog=prog)
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a folder with results, of any kind")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"the page (default: RESULTS/{PAGE})")
    return parser

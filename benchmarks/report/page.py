"""One page about results, to send to a colleague.

    prune-gym report RESULTS [--out FILE]

RESULTS is a run's folder, a folder of runs, a sweep, an ablation, a comparison of agents or methods, or a folder that
holds several of these. The page is one HTML file that loads nothing, with tables, pictures, and the command behind
every number. What cannot be read is named on the page and left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common.command import BAD_INPUT
from benchmarks.report import commands, pictures, studies, tables
from benchmarks.report.comparisons import AGENTS, METHODS
from benchmarks.report.rendering import render_template
from benchmarks.report.sources import Findings, NoResultsError, find_results
from benchmarks.stat_tests.samples import MIN_SEEDS
from hessian.support.files import write_atomic

PAGE = "report.html"

MAX_PLOTTED_RUNS = 4
"""Of so many sets of runs the folder's own pictures are shown; more would make a page nobody loads."""


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Write the page.

    Args:
        argv: arguments; absent means those of the process.
        prog: name of the command in the help text.

    Returns:
        Exit code: 0 done, also where something is left out and named; 2 no results, or the page cannot be written.
    """
    arguments = _parser(prog).parse_args(argv)
    errors = Console(stderr=True)
    path = arguments.out or arguments.results / PAGE
    try:
        findings = find_results(arguments.results)
        write_atomic(path, render(findings))
    except (NoResultsError, OSError) as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return BAD_INPUT
    for problem in findings.problems:
        errors.print(f"left out: {problem}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    Console().print(f"report: {path}", highlight=False, markup=False, soft_wrap=True)
    return 0


def render(findings: Findings) -> str:
    """Return the page of a folder's results; the same results give the same text and tables.

    Args:
        findings: what :func:`benchmarks.report.sources.find_results` read; problems met here are added to it.
    """
    groups = findings.groups
    content: dict[str, Any] = {
        "findings": findings,
        "deepest": tables.deepest(groups),
        "by_question": list(tables.by_question(groups)),
        "by_task": [(task, list(found)) for task, found in groupby(groups, key=lambda group: group.first.task)],
        "methods": studies.comparisons(findings, METHODS),
        "agents": studies.comparisons(findings, AGENTS),
        "ablations": studies.ablations(findings),
        "plotted": [(group, shown) for group in groups if (shown := pictures.own_pictures(group))],
        "software": list(dict.fromkeys(line for group in groups for line in tables.software_of(group))),
        "loading": [(group, code) for group in groups if (code := commands.loading_code(group, findings))],
        "min_seeds": MIN_SEEDS,
        "max_plotted": MAX_PLOTTED_RUNS,
        "tables": tables,
        "pictures": pictures,
        "commands": commands,
    }
    return render_template("page.html.j2", **content)


def _parser(prog: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Write one self-contained HTML page about results.")
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a folder with results, of any kind")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"the page (default: RESULTS/{PAGE})")
    return parser


if __name__ == "__main__":
    sys.exit(main())

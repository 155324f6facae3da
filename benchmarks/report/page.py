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
from pathlib import Path

from rich.console import Console

from benchmarks.common.command import BAD_INPUT
from benchmarks.report.comparisons import AGENTS, METHODS
from benchmarks.report.html import Html, bullets, document, join, paragraph
from benchmarks.report.layers import fronts, layers
from benchmarks.report.sources import Findings, NoResultsError, find_results
from benchmarks.report.studies import ablations, comparisons
from benchmarks.report.tables import costs, headline, repeat, summary, where
from hessian.support.files import write_atomic

PAGE = "report.html"


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
    sections = []
    if findings.groups:
        sections += [
            ("short", "In short", summary(findings)),
            ("results", "Results", headline(findings)),
            ("fronts", "Accuracy against FLOPs", fronts(findings)),
        ]
    sections += [
        ("methods", "Methods compared", comparisons(findings, METHODS)),
        ("agents", "Agents compared", comparisons(findings, AGENTS)),
        ("ablation", "Ablation", ablations(findings)),
    ]
    if findings.groups:
        sections += [("layers", "Layer by layer", layers(findings)), ("costs", "What it cost", costs(findings))]
    if findings.groups or findings.sweeps:
        sections += [("where", "What ran where", where(findings)), ("repeat", "How to repeat it", repeat(findings))]
    sections = [(name, title, content) for name, title, content in sections if content]
    if findings.problems:
        sections.insert(0, ("problems", "Left out", _problems(findings)))
    return document(f"Results: {findings.name}", _lead(findings), sections)


def _lead(findings: Findings) -> Html:
    runs = sum(len(group.runs) for group in findings.groups)
    counted = [
        (runs, "run"),
        (len(findings.sweeps), "sweep"),
        (len(findings.ablations), "ablation"),
        (len(findings.comparisons), "comparison"),
    ]
    told = ", ".join(f"{number} {what}{'s' * (number != 1)}" for number, what in counted if number)
    return paragraph(
        f"Structured pruning with prune-gym: {told}. Paths in commands start where the folder {findings.name!r} lies; "
        "configurations are on this page too.",
        kind="soft",
    )


def _problems(findings: Findings) -> Html:
    listed = bullets(dict.fromkeys(findings.problems))
    return join([paragraph("This could not be shown; everything else is below.", kind="warn"), listed])


def _parser(prog: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Write one self-contained HTML page about results.")
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a folder with results, of any kind")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"the page (default: RESULTS/{PAGE})")
    return parser


if __name__ == "__main__":
    sys.exit(main())

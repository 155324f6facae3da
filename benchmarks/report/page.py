"""The page of a folder of results: what its template is given."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from benchmarks.report import commands, pictures, studies, tables
from benchmarks.report.comparisons import AGENTS, METHODS
from benchmarks.report.rendering import render_template
from benchmarks.report.sources import Findings
from benchmarks.stat_tests.samples import MIN_SEEDS

MAX_PLOTTED_RUNS = 4
"""Of so many sets of runs the folder's own pictures are shown; more would make a page nobody loads."""


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

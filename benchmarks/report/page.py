"""The page of a folder of results: what its template is given."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from benchmarks.report import commands, pictures, studies, tables
from benchmarks.report.comparisons import AGENTS, METHODS
from benchmarks.report.rendering import render_template
from benchmarks.report.runs import Group
from benchmarks.report.sources import Findings
from benchmarks.stat_tests.samples import MIN_SEEDS
from prune_gym.saving.manifest import read_manifest

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
        "factories": {group.name: _factory(group) for group in groups if group.network is not None},
        "min_seeds": MIN_SEEDS,
        "max_plotted": MAX_PLOTTED_RUNS,
        "tables": tables,
        "pictures": pictures,
        "commands": commands,
    }
    return render_template("page.html.j2", **content)


def _factory(group: Group) -> str:
    """Name of what builds the dense network of a saved one; "" where loading knows it, or the manifest is broken."""
    assert group.network is not None
    try:
        manifest = read_manifest(group.network)
    except (OSError, ValueError):
        return ""
    return "" if manifest.factory_registered else manifest.factory

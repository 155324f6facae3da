"""Comparisons of agents or methods as a folder holds them: cells by the network they were measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.files.reading import UnreadableError, check_finite, read_json
from benchmarks.settings.source import ConfigError
from benchmarks.studies.engine.networks import comparable_sets

AGENTS, METHODS = "agents", "methods"

Content = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """A comparison of agents or of methods.

    Attributes:
        folder: its place, relative to the folder of the report; ``"."`` for that itself.
        kind: ``AGENTS`` or ``METHODS``.
        study: content of ``study.json``, or what ``comparison.json`` repeats of it.
        rows: of ``comparison.json``; none where it is missing or says nothing of these cells.
        cells: finished runs; none where only the table was kept.
        failed: cells with their error.
        weights: names of the dense weights of the cells, one a seed; none where they are the task's own.
    """

    folder: str
    kind: str
    study: Content
    rows: list[Content]
    cells: list[Content]
    failed: list[Content]
    weights: tuple[str, ...] = ()


def read_comparisons(folder: Path, files: Sequence[str], root: Path, problems: list[str]) -> list[Comparison]:
    """Read the comparison of a folder, once for every set of cells whose means say something.

    Args:
        folder: with ``study.json`` or ``comparison.json``.
        files: names of those in it.
        root: folder of the report.
        problems: a sentence is added for everything that cannot be shown.
    """
    place = folder.relative_to(root).as_posix()
    study, table = (
        _object(folder / name, root, problems) if name in files else {} for name in ("study.json", "comparison.json")
    )
    known = {**table, **study}
    if "study" not in known and "budget" not in known:
        if study or table:
            problems.append(f"{place}: study.json and comparison.json are of no comparison known here")
        return []
    kind = AGENTS if "study" in known else METHODS
    paths = sorted((folder / "cells").glob("*.json"))
    cells = [cell for cell in (_object(path, root, problems, finite=True) for path in paths) if cell]
    rows = finite_rows(_list(table, "rows"), _shown(folder / "comparison.json", root), problems)
    if not cells:
        return [Comparison(place, kind, known, rows, [], _list(table, "failed"))]
    try:
        sets = comparable_sets(folder, cells)
    except ConfigError as error:
        problems.append(str(error))
        return []
    return [
        Comparison(
            *(place, kind, known, rows if len(sets) == 1 else []),
            [cell for cell in members if "error" not in cell],
            [cell for cell in members if "error" in cell],
            weights,
        )
        for weights, members in sets
    ]


def finite_rows(rows: Sequence[Any], source: str, problems: list[str]) -> list[Content]:
    """Return the rows whose numbers are numbers; the others become problems."""
    good = []
    for number, row in enumerate(rows, start=1):
        try:
            check_finite(row, f"{source}, row {number}")
        except UnreadableError as error:
            problems.append(str(error))
        else:
            good.append(row)
    return good


def _object(path: Path, root: Path, problems: list[str], *, finite: bool = False) -> Content:
    """The object a file holds; nothing where it cannot be read or must be finite and is not, which is a problem."""  # noqa: DOC501 (caught here)
    source = _shown(path, root)
    try:
        content = read_json(path, source)
        if finite:
            check_finite(content, source)
        if not isinstance(content, dict):
            raise UnreadableError(f"{source} is of no comparison: it holds a {type(content).__name__}")
    except UnreadableError as error:
        problems.append(str(error))
        return {}
    return content


def _list(content: Content, key: str) -> list[Any]:
    found = content.get(key)
    return found if isinstance(found, list) else []


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()

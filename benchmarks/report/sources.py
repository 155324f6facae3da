"""Contents of a folder of results: runs, sweeps, ablations and comparisons, each recognised by its files.

What cannot be read is named and left out; the rest is still there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common.errors import InputError
from benchmarks.common.signed import FileError
from benchmarks.common.signed_table import read_csv
from benchmarks.files.reading import UnreadableError, read_json, read_text
from benchmarks.report.comparisons import Comparison, finite_rows, read_comparisons
from benchmarks.report.runs import Group, Run, group_runs, run_of_result, run_of_row
from benchmarks.settings.yaml_door import ConfigError, read_yaml
from benchmarks.sweep.results_table import KEY

SKIPPED_FOLDERS = ("unfinished", "plans", "plots")
LOOKED_FOR = (
    "seed_<n>/result.json (a run: prune-gym run)",
    "results.csv (a sweep: prune-gym sweep)",
    "ablation.json (python -m benchmarks.ablation)",
    "study.json or comparison.json (python -m benchmarks.studies.agents, compare_methods)",
)


class NoResultsError(InputError):
    """A folder that a report cannot be made of; the message says what was looked for."""


@dataclass(frozen=True)
class Ablation:
    """An ``ablation.json``: its path relative to the folder of the report, and its content."""

    source: str
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder: its place, its configuration as text ("" if missing), and why cells failed."""

    folder: str
    config: str
    failures: dict[str, str]

    @property
    def grid(self) -> Mapping[str, Any]:
        """The configuration; empty where it cannot be read."""
        try:
            content = read_yaml(self.config, self.folder)
        except ConfigError:
            return {}
        return content if isinstance(content, dict) else {}

    @property
    def name(self) -> str:
        """Its name; its folder where that is not known."""
        return str(self.grid.get("name", self.folder))

    @property
    def cells(self) -> int | None:
        """Number of its runs; None where its configuration does not say."""
        axes = [self.grid.get(key) for key in ("methods", "tasks", "targets", "seeds")]
        return math.prod(map(len, axes)) if all(isinstance(axis, list) for axis in axes) else None  # type: ignore[arg-type]


@dataclass
class Findings:
    """Everything found.

    Attributes:
        root: the folder.
        groups: runs that differ in their seed alone.
        sweeps: folders of sweeps.
        ablations: their tables.
        comparisons: of agents and methods.
        problems: what could not be read, a sentence each.
    """

    root: Path
    groups: list[Group] = field(default_factory=list)
    sweeps: list[Sweep] = field(default_factory=list)
    ablations: list[Ablation] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.root.resolve().name or str(self.root)

    def finished(self, sweep: Sweep) -> int:
        """Return the number of finished runs of a sweep."""
        prefix = "" if sweep.folder == "." else f"{sweep.folder}/"
        return sum(len(group.runs) for group in self.groups if f"{group.folder}/".startswith(prefix))


def find_results(root: Path) -> Findings:
    """Read a folder of results.

    Args:
        root: a run folder, a sweep, an ablation, a comparison, or a folder with any of them below.

    Raises:
        NoResultsError: no folder, or none of the files that a report is made of.
    """
    if not root.is_dir():
        what = "is a file; name its folder" if root.is_file() else "does not exist"
        raise NoResultsError(f"{str(root)!r} {what}")
    findings = Findings(root)
    folders = list(_folders(root))
    for folder, files in folders:
        _read_folder(findings, folder, files)
    _read_runs(findings, folders)
    found = (findings.groups, findings.sweeps, findings.ablations, findings.comparisons)
    if not any(found):
        if findings.problems:
            raise NoResultsError("nothing readable in {!r}:\n  {}".format(str(root), "\n  ".join(findings.problems)))
        raise NoResultsError(f"no results below {str(root)!r}; looked for:\n  " + "\n  ".join(LOOKED_FOR))
    return findings


def _folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder of results with the names of its files, sorted; symbolic links are not followed."""
    for place, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in SKIPPED_FOLDERS and not name.startswith("."))
        yield Path(place), sorted(files)


def _read_folder(findings: Findings, folder: Path, files: list[str]) -> None:
    """Read everything but runs."""
    for name in files:
        if _is_ablation(name):
            _read_ablation(findings, folder / name)
    if "study.json" in files or "comparison.json" in files:
        findings.comparisons += read_comparisons(folder, files, findings.root, findings.problems)
    if "sweep.yaml" in files or ("results.csv" in files and "timings.csv" in files):
        config = read_text(folder / "sweep.yaml") if "sweep.yaml" in files else ""
        findings.sweeps.append(Sweep(_relative(findings, folder), config, _failures(findings, folder)))


def _is_ablation(name: str) -> bool:
    return name.startswith("ablation") and name.endswith(".json")


def _read_ablation(findings: Findings, path: Path) -> None:
    source = _relative(findings, path)
    try:
        content = read_json(path, source)
        if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
            raise UnreadableError(f"{source} is no table of an ablation: it has no rows")
    except UnreadableError as error:
        findings.problems.append(str(error))
        return
    rows = finite_rows(content["rows"], source, findings.problems)
    findings.ablations.append(Ablation(source, {**content, "rows": rows}))


def _failures(findings: Findings, folder: Path) -> dict[str, str]:
    """Name of every failed cell of a sweep -> its error."""
    failures = {}
    for path in sorted((folder / "failures").glob("*.json")):
        source = _relative(findings, path)
        try:
            content = read_json(path, source)
            failures[str(content["cell"])] = str(content["error"])
        except (UnreadableError, KeyError, TypeError) as error:
            findings.problems.append(f"{source} cannot be read: {error}")
    return failures


def _read_runs(findings: Findings, folders: list[tuple[Path, list[str]]]) -> None:
    """Read run folders, and the rows of tables that no run folder stands behind."""
    # Runs of an ablation are its own, also where its table is damaged.
    inside = {folder for folder, files in folders if any(map(_is_ablation, files))}
    runs: list[Run] = []
    for folder, files in folders:
        is_run = folder.name.startswith("seed_") or folder == findings.root
        if is_run and "result.json" in files and folder.parent.parent not in inside:
            source = _relative(findings, folder / "result.json")
            try:
                run = run_of_result(read_json(folder / "result.json", source), source, folder)
                _check_new(run, runs)
            except UnreadableError as error:
                findings.problems.append(str(error))
            else:
                runs.append(run)
    for folder, files in folders:
        if "results.csv" in files:
            known = {run.key for run in runs if run.folder is not None and folder in run.folder.parents}
            runs += _rows(findings, folder, known)
    findings.groups = group_runs(runs)


def _check_new(run: Run, runs: list[Run]) -> None:
    place = Path(run.source).parent.parent
    for other in runs:
        if other.key == run.key and Path(other.source).parent.parent == place:
            raise UnreadableError(f"{run.source} and {other.source} are the same run; the former is left out")


def _rows(findings: Findings, folder: Path, known: set[tuple[str, str, float, int]]) -> list[Run]:
    source = _relative(findings, folder / "results.csv")
    timings = {_key(row): row for row in _table(findings, folder / "timings.csv")}
    runs: list[Run] = []
    for number, row in enumerate(_table(findings, folder / "results.csv"), start=1):
        try:
            run = run_of_row(row, timings.get(_key(row)), source)
        except UnreadableError as error:
            findings.problems.append(f"row {number} of {error}")
            continue
        if run.key in known:
            continue
        if any(run.key == other.key for other in runs):
            findings.problems.append(f"row {number} of {source} repeats the run {run.key}; it is left out")
            continue
        runs.append(run)
    return runs


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(column) for column in KEY)


def _table(findings: Findings, path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        return list(read_csv(path, "it is left out"))
    except (OSError, FileError) as error:
        findings.problems.append(f"{_relative(findings, path)} cannot be read: {error}")
        return []


def _relative(findings: Findings, path: Path) -> str:
    return path.relative_to(findings.root).as_posix()

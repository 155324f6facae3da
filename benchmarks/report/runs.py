"""Runs as a report reads them: checked one by one, and grouped by what they repeat."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.sweep.results_table import COLUMNS, NETWORKS, SCHEMA_VERSION

STAGES = {"one_shot": "one-shot", "reconstructed": "reconstructed", "final": "fine-tuned"}
"""Stages of a pruned network, and what tables call them."""


class UnreadableError(ValueError):
    """A file or a row that a report cannot show; the message says which and why."""


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        source: the file it comes from, relative to the folder the report is about.
        folder: its run folder, or None for a row of a table.
        task: name.
        method: name.
        target: FLOPs reduction asked for.
        seed: of the run.
        flops_reduction: FLOPs reduction reached.
        accuracy: network (``dense``, ``one_shot``, ``reconstructed`` where there was such a stage, ``final``) ->
            fraction of the test split.
        flops: ``dense`` and ``final`` -> FLOPs of one input.
        parameters: ``dense`` and ``final`` -> their number.
        latency_ms: network -> median time of one input; empty where it is not known.
        throughput: network -> images/s in batches; empty where it is not known.
        plans: measured evaluations.
        budgets: layer -> pruning ratio.
        device: where it ran.
        threads: CPU threads.
        machine: the computer, or "" for results that do not tell.
        versions: package -> version.
        seconds: stage -> wall time; ``""`` is the whole run where stages are not known.
        result: the whole ``result.json``, or None for a row of a table.
    """

    source: str
    folder: Path | None
    task: str
    method: str
    target: float
    seed: int
    flops_reduction: float
    accuracy: Mapping[str, float]
    flops: Mapping[str, float]
    parameters: Mapping[str, float]
    latency_ms: Mapping[str, float]
    throughput: Mapping[str, float]
    plans: int
    budgets: Mapping[str, float]
    device: str
    threads: int
    machine: str
    versions: Mapping[str, str]
    seconds: Mapping[str, float]
    result: Mapping[str, Any] | None = None

    @property
    def key(self) -> tuple[str, str, float, int]:
        """What names the run in a table of results."""
        return self.task, self.method, self.target, self.seed


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        label: method, with its folder where several groups share task, target and method.
        folder: theirs, relative to the folder the report is about.
        runs: by seed.
    """

    label: str
    folder: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """The run of the smallest seed."""
        return self.runs[0]

    @property
    def name(self) -> str:
        """What tells it apart from all other groups."""
        return f"{self.first.task}, {100 * self.first.target:g} %, {self.label}"

    @property
    def seeds(self) -> list[int]:
        """Of its runs."""
        return [run.seed for run in self.runs]

    def accuracies(self, stage: str) -> dict[int, float]:
        """Seed -> test accuracy of a stage; runs without that stage are left out."""
        return {run.seed: run.accuracy[stage] for run in self.runs if stage in run.accuracy}


def read_json(path: Path, source: str) -> Any:
    """Return the content of a JSON file.

    Raises:
        UnreadableError: it cannot be read, or is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{source} is damaged or cannot be read: {error}") from None


def read_text(path: Path) -> str:
    """Return a file's text; "" where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def check_finite(content: Any, source: str) -> None:
    """Refuse content with a number that is none.

    Raises:
        UnreadableError: NaN or an infinity; its place is named.
    """
    place = _not_finite(content, "")
    if place is not None:
        raise UnreadableError(f"{source}: the value of {place or 'the file'} is not a finite number")


def _not_finite(content: Any, place: str) -> str | None:
    if isinstance(content, float):
        return None if math.isfinite(content) else place
    entries: list[tuple[str, Any]] = []
    if isinstance(content, Mapping):
        entries = [(f"{place}.{key}" if place else str(key), value) for key, value in content.items()]
    elif isinstance(content, list):
        entries = [(f"{place}[{number}]", value) for number, value in enumerate(content)]
    found = (_not_finite(value, inside) for inside, value in entries)
    return next((bad for bad in found if bad is not None), None)


def run_of_result(result: Any, source: str, folder: Path) -> Run:
    """Return the run that a ``result.json`` describes.

    Raises:
        UnreadableError: something is missing, of another kind or not finite.
    """
    check_finite(result, source)
    try:
        # Results of older versions know of no reconstruction.
        networks = [network for network in NETWORKS if network in result or network != "reconstructed"]
        return Run(
            source=source,
            folder=folder,
            task=str(result["task"]),
            method=str(result["method"]),
            target=float(result["target_flops_reduction"]),
            seed=int(result["seed"]),
            flops_reduction=float(result["flops_reduction"]),
            accuracy=_fractions({network: result[network]["accuracy"] for network in networks}),
            flops={network: _positive(result[network]["flops"]) for network in ("dense", "final")},
            parameters={network: _positive(result[network]["parameters"]) for network in ("dense", "final")},
            latency_ms={network: _positive(result[network]["latency_ms"]) for network in networks},
            throughput={network: _positive(result[network]["throughput_imgs_per_sec"]) for network in networks},
            plans=int(result["search"]["measured_evaluations"]),
            budgets=_fractions(result["budgets"]),
            device=str(result["device"]),
            threads=int(result["num_threads"]),
            machine=str(result.get("machine", "")),
            versions={str(name): str(version) for name, version in result["versions"].items()},
            seconds={str(stage): float(seconds) for stage, seconds in result["seconds"].items()},
            result=result,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableError(
            f"{source} was written by another version of the project, or damaged: {_why(error)}"
        ) from None


def run_of_row(row: Mapping[str, Any], timing: Mapping[str, str] | None, source: str) -> Run:
    """Return the run that a row of ``results.csv`` describes, with that of ``timings.csv`` where there is one.

    Raises:
        UnreadableError: a row of another schema version, or a value missing, of another kind or not finite.
    """
    version = row.get("schema_version")
    if str(version) != str(SCHEMA_VERSION):
        raise UnreadableError(
            f"{source} has schema version {version}; this version of the project reads {SCHEMA_VERSION}"
        )
    typed = {column: _typed(row.get(column), kind, column, source) for column, kind in COLUMNS.items()}
    check_finite(typed, source)
    try:
        budgets = json.loads(typed["budgets"])
        check_finite(budgets, source)
        return Run(
            source=source,
            folder=None,
            task=typed["task"],
            method=typed["method"],
            target=typed["target_flops_reduction"],
            seed=typed["seed"],
            flops_reduction=typed["flops_reduction"],
            accuracy=_fractions({network: typed[f"{network}_accuracy"] for network in NETWORKS}),
            flops={network: _positive(typed[f"{network}_flops"]) for network in ("dense", "final")},
            parameters={network: _positive(typed[f"{network}_parameters"]) for network in ("dense", "final")},
            latency_ms=_timed(timing, "latency_ms"),
            throughput=_timed(timing, "throughput_imgs_per_sec"),
            plans=typed["measured_evaluations"],
            budgets=_fractions(budgets),
            device=typed["device"],
            threads=typed["num_threads"],
            machine="",
            versions={str(name): str(value) for name, value in json.loads(typed["versions"]).items()},
            seconds={"": float(timing["seconds"])} if timing else {},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableError(f"{source} is damaged: {_why(error)}") from None


def _timed(timing: Mapping[str, str] | None, measure: str) -> dict[str, float]:
    return {network: _positive(timing[f"{network}_{measure}"]) for network in NETWORKS} if timing else {}


def _typed(value: Any, kind: type, column: str, source: str) -> Any:
    if value is None or value == "":
        raise UnreadableError(f"{source}: the value of {column!r} is missing")
    try:
        return kind(value)
    except ValueError:
        raise UnreadableError(f"{source}: {column!r} is no {kind.__name__}: {value!r}") from None


def _fractions(values: Mapping[str, Any]) -> dict[str, float]:
    fractions = {str(name): float(value) for name, value in values.items()}
    for name, value in fractions.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, not a fraction")
    return fractions


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 < number < math.inf:
        raise ValueError(f"{value!r} is not a positive number")
    return number


def _why(error: Exception) -> str:
    return f"no entry {error}" if isinstance(error, KeyError) else str(error)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Return runs by folder, task, target and method; sorted, deepest cut last.

    A run folder's siblings repeat it with other seeds; rows of a table belong together where its key says so.
    """
    gathered: dict[tuple[str, str, float, str], list[Run]] = {}
    for run in runs:
        parent = Path(run.source).parent
        folder = (parent.parent if run.folder is not None else parent).as_posix()
        gathered.setdefault((folder, run.task, run.target, run.method), []).append(run)
    groups = []
    for (folder, task, target, method), members in gathered.items():
        rivals = [other[0] for other in gathered if other[1:] == (task, target, method)]
        label = method if len(rivals) == 1 else f"{method} ({folder})"
        groups.append(Group(label, folder, tuple(sorted(members, key=lambda run: run.seed))))
    return sorted(groups, key=lambda group: (group.first.task, group.first.target, group.label))

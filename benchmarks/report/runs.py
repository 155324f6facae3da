"""Runs as a report reads them: checked one by one, and grouped by what they repeat."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.files.reading import UnreadableError, check_finite
from benchmarks.sweep.results_table import COLUMNS, NETWORKS, SCHEMA_VERSION

STAGES = {"one_shot": "one-shot", "reconstructed": "reconstructed", "final": "fine-tuned"}
"""Stages of a pruned network, and what tables call them; not every run has all."""


_BAD = (KeyError, TypeError, ValueError, AttributeError)
"""Errors that content of another version, or damaged, raises."""


@dataclass(frozen=True)
class PinnedLayer:
    """A layer that keeps all its channels: how many those are, and why."""

    name: str
    size: int
    reason: str


@dataclass(frozen=True)
class Pruning:
    """Additions of `prune-gym prune` to a result.

    Attributes:
        asked_for: the targets, in words.
        scored_by: what the result calls accuracy: that, agreement with the dense network, or a metric's name.
        scored_on: the images it was scored on: ``"test"`` or ``"held-out"``.
        command: repeats it.
        load: lines of Python that load the network.
        warnings: what the user was warned of.
        onnx: the ONNX file; "" where there is none.
    """

    asked_for: str
    scored_by: str
    scored_on: str
    command: str
    load: tuple[str, ...]
    warnings: tuple[str, ...]
    onnx: str

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Pruning:
        """Return what the entry ``prune`` of a ``result.json`` says."""
        return cls(
            **{key: str(content[key]) for key in ("asked_for", "scored_by", "scored_on", "command")},
            load=tuple(map(str, content["load"])),
            warnings=tuple(map(str, content["warnings"])),
            onnx=str(content["onnx"]["file"]) if content.get("onnx") else "",
        )


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
        accuracy: network (``dense``, ``one_shot``, ``final``, others that the run has) -> fraction of the test split.
        test_images: images of the test split; None where it is not known.
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
        pinned: layers that cannot be pruned, with their size and why.
        pruning: what `prune-gym prune` adds; None for other runs.
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
    test_images: int | None
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
    pinned: tuple[PinnedLayer, ...] = ()
    pruning: Pruning | None = None
    result: Mapping[str, Any] | None = None

    @property
    def key(self) -> tuple[str, str, float, int]:
        """Name of the run in a table of results."""
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
        """Name that no other group has."""
        return f"{self.first.task}, {100 * self.first.target:g} %, {self.label}"

    @property
    def seeds(self) -> list[int]:
        """Of its runs."""
        return [run.seed for run in self.runs]

    @property
    def budgets(self) -> dict[str, float]:
        """Layer -> mean pruning ratio over those runs that have the layer."""
        return {
            name: statistics.fmean(run.budgets[name] for run in self.runs if name in run.budgets)
            for name in self.first.budgets
        }

    @property
    def mixed(self) -> bool:
        """True where its runs are of different software or threads."""
        return len({(tuple(run.versions.items()), run.threads) for run in self.runs}) > 1

    @property
    def network(self) -> Path | None:
        """The network that the first run saved; None where there is none."""
        path = None if self.first.folder is None else self.first.folder / "pruned.safetensors"
        return path if path is not None and path.is_file() else None

    def accuracies(self, stage: str) -> dict[int, float]:
        """Seed -> test accuracy of a stage, of the runs that have it."""
        return {run.seed: run.accuracy[stage] for run in self.runs if stage in run.accuracy}

    def mean(self, stage: str) -> float | None:
        """Mean test accuracy of a stage; None where no run has it."""
        known = list(self.accuracies(stage).values())
        return statistics.fmean(known) if known else None

    def standard_error(self, stage: str) -> float | None:
        """Standard error of the mean accuracy of a stage from the size of the test split, a fraction.

        All runs see the same images, so more runs do not make it smaller: sqrt(p (1 - p) / n) of a binomial share. None
        where the runs do not say how many images there are, or not the same number.
        """
        sizes, mean = {run.test_images for run in self.runs}, self.mean(stage)
        images = sizes.pop() if len(sizes) == 1 else None
        return None if images is None or mean is None else math.sqrt(mean * (1 - mean) / images)


def run_of_result(result: Any, source: str, folder: Path) -> Run:
    """Return the run that a ``result.json`` describes.

    Raises:
        UnreadableError: something is missing, of another kind or not finite.
    """
    check_finite(result, source)
    try:
        # Results of older versions know of no reconstruction.
        networks = [network for network in NETWORKS if network in result or network != "reconstructed"]
        times = {
            measure: {network: _positive(result[network][measure]) for network in networks}
            for measure in ("latency_ms", "throughput_imgs_per_sec")
        }
        return Run(
            folder=folder,
            accuracy=_fractions({network: result[network]["accuracy"] for network in networks}),
            machine=str(result.get("machine", "")),
            seconds={str(stage): float(seconds) for stage, seconds in result["seconds"].items()},
            pinned=tuple(
                PinnedLayer(str(layer["name"]), int(layer["size"]), str(layer["reason"]))
                for layer in result.get("pinned") or ()
            ),
            pruning=Pruning.of(result["prune"]) if result.get("prune") else None,
            result=result,
            **_shared(result, source, times),
        )
    except _BAD as error:
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
        budgets, versions = (json.loads(typed[column]) for column in ("budgets", "versions"))
        check_finite(budgets, source)
        times = {measure: _timed(timing, measure) for measure in ("latency_ms", "throughput_imgs_per_sec")}
        sizes = {
            network: {what: typed[f"{network}_{what}"] for what in ("flops", "parameters")}
            for network in ("dense", "final")
        }
        nested = {**sizes, "search": {"measured_evaluations": typed["measured_evaluations"]}}
        return Run(
            folder=None,
            accuracy=_fractions({network: typed[f"{network}_accuracy"] for network in NETWORKS}),
            machine="",
            seconds={"": float(timing["seconds"])} if timing else {},
            **_shared({**typed, **nested, "budgets": budgets, "versions": versions}, source, times),
        )
    except _BAD as error:
        raise UnreadableError(f"{source} is damaged: {_why(error)}") from None


def _shared(content: Mapping[str, Any], source: str, times: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Attributes of a run that a ``result.json`` and a row of a table, given the same form, say alike."""
    sizes = {
        what: {network: _positive(content[network][what]) for network in ("dense", "final")}
        for what in ("flops", "parameters")
    }
    return {
        **sizes,
        "source": source,
        "task": str(content["task"]),
        "method": str(content["method"]),
        "target": float(content["target_flops_reduction"]),
        "seed": int(content["seed"]),
        "flops_reduction": float(content["flops_reduction"]),
        "test_images": _test_images(content),
        "latency_ms": times["latency_ms"],
        "throughput": times["throughput_imgs_per_sec"],
        "plans": int(content["search"]["measured_evaluations"]),
        "budgets": _fractions(content["budgets"]),
        "device": str(content["device"]),
        "threads": int(content["num_threads"]),
        "versions": {str(name): str(version) for name, version in content["versions"].items()},
    }


def _test_images(content: Mapping[str, Any]) -> int | None:
    images = content.get("test_images", (content.get("prune") or {}).get("images"))
    return None if images is None else int(_positive(images))


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

"""Everything measured of a dense and a pruned network, in one report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from benchmarks.common.columns import Column, Columns, Value
from benchmarks.common.numbers import count
from benchmarks.common.provenance import versions
from benchmarks.common.table import Table
from benchmarks.metrics.comparison import BatchTimings, compare_networks
from benchmarks.metrics.conditions import RunConditions, working_input
from benchmarks.metrics.energy import UNAVAILABLE, Energy
from benchmarks.metrics.system_metrics import SystemMetrics
from benchmarks.system_eval.slowness import SlownessReport, explain_slowness
from hessian.support.progress import Progress
from prune_gym.support.device import module_device
from prune_gym.tasks.task import PruningTask
from prune_gym.training.training import evaluate_model


@dataclass(frozen=True)
class EvalSettings:
    """Settings of an evaluation.

    Attributes:
        batch_sizes: inputs in a batch.
        num_iterations: timed batches of each network.
        max_seconds: fewer iterations where a batch size would take longer.
        conditions: how the networks are run.
        faster_format: each network in the faster of NCHW and channels last, at every batch size.
    """

    batch_sizes: tuple[int, ...] = (1, 16, 64)
    num_iterations: int = 100
    max_seconds: float = 30.0
    conditions: RunConditions = field(default_factory=RunConditions)
    faster_format: bool = True


@dataclass(frozen=True)
class NetworkFacts:
    """One network, whatever the batch.

    Attributes:
        accuracy: on the test split, a fraction in [0, 1].
        parameters: their number.
        macs: multiply-accumulates of one input.
        flops: 2 x MACs.
        bytes_on_disk: size of its safetensors file.
        peak_memory_bytes: while the largest batch that fits passes through; None where it cannot be measured.
        peak_memory_kind: what that counts.
        joules_per_input: energy of one input in such a batch; None where there is no counter.
        energy_source: ``"nvml"``, ``"rapl"`` or ``"unavailable"``.
    """

    accuracy: float
    parameters: int
    macs: int
    flops: int
    bytes_on_disk: int
    peak_memory_bytes: int | None
    peak_memory_kind: str | None
    joules_per_input: float | None
    energy_source: str


@dataclass(frozen=True)
class SystemReport:
    """Dense against pruned.

    Attributes:
        task: the task's name.
        checkpoint: the pruned network's file.
        device: where both ran.
        test_images: images of the test split.
        networks: ``"dense"`` and ``"pruned"``.
        batches: timings by batch size, the two networks in turns.
        slowness: layer by layer, at batch size 1; None if the networks cannot be compared layer by layer.
    """

    task: str
    checkpoint: str
    device: str
    test_images: int
    networks: Mapping[str, NetworkFacts]
    batches: tuple[BatchTimings, ...]
    slowness: SlownessReport | None

    @property
    def ideal_speedup(self) -> float:
        """Dense over pruned FLOPs."""
        return self.networks["dense"].flops / self.networks["pruned"].flops

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON-able mapping."""
        rows = []
        for row in self.batches:
            speedup = row.speedup("pruned", "dense") if row.timings else None
            share = None if speedup is None else speedup / self.ideal_speedup
            rows.append({**row.as_json(), "speedup": speedup, "share_of_ideal": share})
        return {
            "task": self.task,
            "checkpoint": self.checkpoint,
            "device": self.device,
            "test_images": self.test_images,
            "networks": {name: asdict(facts) for name, facts in self.networks.items()},
            "flops_reduction": 1 - 1 / self.ideal_speedup,
            "ideal_speedup": self.ideal_speedup,
            "batches": rows,
            "layers": None if self.slowness is None else self.slowness.as_json(),
            "versions": versions(),
        }


def evaluate_system(
    task: PruningTask,
    pruned: nn.Module,
    settings: EvalSettings,
    checkpoint: str = "",
    progress: Progress | None = None,
) -> SystemReport:
    """Measure a pruned network against the dense one of its task.

    Args:
        task: with a test split; its network is the dense one.
        pruned: on the same device.
        settings: what to measure and how.
        checkpoint: where it came from.
        progress: called with (description, done, total).

    Raises:
        ValueError: the task has no test split, or a setting is out of range.
    """
    if task.test is None:
        raise ValueError(f"the task {task.name!r} has no test split to evaluate on")
    networks = {"dense": task.model, "pruned": pruned}
    shape = tuple(task.example_input.shape[1:])
    done = 0

    def report(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(what, done, len(settings.batch_sizes) + 3)
        done += 1

    report("accuracy")
    accuracies = {name: evaluate_model(network, task.test).accuracy for name, network in networks.items()}
    batches = []
    for batch_size in settings.batch_sizes:
        report(f"batches of {batch_size}")
        batches += compare_networks(
            networks,
            shape,
            (batch_size,),
            num_iterations=settings.num_iterations,
            max_seconds=settings.max_seconds,
            conditions=settings.conditions,
            faster_format=settings.faster_format,
        )
    report("memory and energy")
    facts = {
        name: _facts(network, accuracies[name], shape, _largest(batches), settings.conditions)
        for name, network in networks.items()
    }
    report("layers")
    return SystemReport(
        task.name,
        checkpoint,
        str(module_device(task.model)),
        len(task.test),
        facts,
        tuple(batches),
        _slowness(task.model, pruned, shape, batches, settings),
    )


def network_table(report: SystemReport) -> Table:
    """Return accuracy, size, memory and energy of the two networks as a table."""
    title = f"{report.task}: {100 * (1 - 1 / report.ideal_speedup):.1f} % of the FLOPs removed"
    pair = [report.networks[name] for name in ("dense", "pruned")]
    kind = {"process_rss": ", whole process"}.get(str(pair[0].peak_memory_kind), "")
    rows = [
        [f"accuracy, {report.test_images:,} test images", *(f"{100 * facts.accuracy:.2f} %" for facts in pair)],
        ["FLOPs", *(count(facts.flops) for facts in pair)],
        ["parameters", *(count(facts.parameters) for facts in pair)],
        ["on disk", *(_bytes(facts.bytes_on_disk) for facts in pair)],
        [f"peak memory{kind}", *(_bytes(facts.peak_memory_bytes) for facts in pair)],
        ["energy an input", *(_joules(facts.joules_per_input) for facts in pair)],
    ]
    return Table(title, ("", "dense", "pruned"), rows)


def batch_table(report: SystemReport) -> Table:
    """Return latency, throughput and speed-up as a table, a row a batch size."""
    times = (Column(name, ".2f") for name in ("dense ms", "pruned ms", "its p90", "its p99"))
    images = (Column(name, ",.0f") for name in ("dense img/s", "pruned img/s"))
    columns: Columns = (
        "batch",
        *times,
        *images,
        Column("speed-up", ".2f", unit="x"),
        Column("of ideal", ".0f", 100, unit=" %"),
    )
    rows: list[list[Value]] = []
    for row in report.batches:
        if row.problem is not None:
            rows.append([str(row.batch_size), "does not fit into memory"])
            continue
        dense, pruned = row.timings["dense"], row.timings["pruned"]
        speedup = row.speedup("pruned", "dense")
        rows.append(
            [
                *(str(row.batch_size), dense.p50_ms, pruned.p50_ms, pruned.p90_ms, pruned.p99_ms),
                *(row.throughput("dense"), row.throughput("pruned"), speedup, speedup / report.ideal_speedup),
            ]
        )
    title = f"on {report.device}, in turns; the ideal speed-up is {report.ideal_speedup:.2f}x"
    return Table(title, columns, rows, "\n".join(row.problem for row in report.batches if row.problem is not None))


def _largest(batches: list[BatchTimings]) -> int:
    return max((row.batch_size for row in batches if row.timings), default=1)


def _facts(
    network: nn.Module, accuracy: float, shape: tuple[int, ...], batch_size: int, conditions: RunConditions
) -> NetworkFacts:
    options = asdict(conditions)
    flops = SystemMetrics.count_flops(network, (1, *shape))
    try:
        memory = SystemMetrics.peak_memory(network, (batch_size, *shape), **options)
        energy = SystemMetrics.measure_energy(network, (batch_size, *shape), **options)
    except MemoryError:
        memory, energy = None, Energy(None, UNAVAILABLE)
    return NetworkFacts(
        accuracy,
        SystemMetrics.count_parameters(network),
        flops // 2,
        flops,
        SystemMetrics.bytes_on_disk(network),
        memory[0] if memory else None,
        memory[1] if memory else None,
        None if energy.joules_per_run is None else energy.joules_per_run / batch_size,
        energy.source,
    )


def _slowness(
    dense: nn.Module,
    pruned: nn.Module,
    shape: tuple[int, ...],
    batches: list[BatchTimings],
    settings: EvalSettings,
) -> SlownessReport | None:
    """Layer by layer with one input, in the format the pruned network runs fastest in."""
    first = next((row for row in batches if row.timings), None)
    if first is None:
        return None
    conditions = replace(settings.conditions, channels_last=first.channels_last["pruned"], compiled=False)
    with conditions.threads():
        networks = [conditions.prepared(network) for network in (dense, pruned)]
        inputs = conditions.formatted(working_input(networks[0], (1, *shape)))
        return explain_slowness(networks[0], networks[1], inputs, num_iterations=min(20, settings.num_iterations))


def _bytes(count: int | None) -> str:
    if count is None:
        return UNAVAILABLE
    return f"{count / 2**20:,.2f} MiB"


def _joules(joules: float | None) -> str:
    return UNAVAILABLE if joules is None else f"{1e3 * joules:,.2f} mJ"

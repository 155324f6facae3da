"""Costs and accuracies of networks, measured side by side and shown as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.common.numbers import count
from benchmarks.common.table import Table
from benchmarks.metrics.system_metrics import SystemMetrics
from prune_gym.support.timing import compare_models

THROUGHPUT_BATCH = 64
COLUMNS = {
    "dense": "dense",
    "one_shot": "pruned,\none-shot",
    "reconstructed": "pruned,\nreconstructed",
    "final": "pruned,\nfine-tuned",
}


@dataclass(frozen=True)
class NetworkReport:
    """One network in numbers.

    Attributes:
        accuracy: fraction of the test split it gets right.
        flops: FLOPs of one input.
        parameters: number of parameters.
        bytes_on_disk: size of its weights as safetensors.
        latency_ms: median time of one input, ms.
        latency_std_ms: standard deviation of that time, ms.
        throughput_imgs_per_sec: images a second in batches of ``THROUGHPUT_BATCH``, from the median batch.
    """

    accuracy: float
    flops: int
    parameters: int
    bytes_on_disk: int
    latency_ms: float
    latency_std_ms: float
    throughput_imgs_per_sec: float

    def as_dict(self) -> dict[str, float]:
        """Return the numbers as ``result.json`` holds them."""
        return asdict(self)


def measure_networks(
    networks: Mapping[str, nn.Module],
    accuracies: Mapping[str, float],
    example_input: torch.Tensor,
    *,
    num_iterations: int = 50,
) -> dict[str, NetworkReport]:
    """Count and time networks, in turns so that the machine's moods hit all of them alike.

    Args:
        networks: the networks by name, on one device.
        accuracies: test accuracy of each, fractions.
        example_input: an input batch ``[N, ...]``; its first image gives the shape.
        num_iterations: timed passes of each network, both for one image and for a batch.
    """
    image = example_input[:1]
    batch = image.expand(THROUGHPUT_BATCH, *image.shape[1:]).contiguous()
    latency = compare_models(networks, image, num_iterations=num_iterations)
    batches = compare_models(networks, batch, num_iterations=num_iterations, num_warmup=3)
    return {
        name: NetworkReport(
            accuracy=accuracies[name],
            flops=SystemMetrics.count_flops(network, tuple(image.shape)),
            parameters=SystemMetrics.count_parameters(network),
            bytes_on_disk=SystemMetrics.bytes_on_disk(network),
            latency_ms=latency[name].p50_ms,
            latency_std_ms=latency[name].std_ms,
            throughput_imgs_per_sec=1e3 * THROUGHPUT_BATCH / batches[name].p50_ms,
        )
        for name, network in networks.items()
    }


@dataclass(frozen=True)
class _Row:
    """A line of the table: how to write the number, and how to say what became of it."""

    label: str
    key: str
    show: Callable[[float], str]
    change: Callable[[float, float], str]


_ROWS = (
    _Row("test accuracy", "accuracy", lambda v: f"{100 * v:.2f} %", lambda a, b: f"{100 * (b - a):+.2f} points"),
    _Row("FLOPs", "flops", count, lambda a, b: f"{100 * (b / a - 1):+.1f} %"),
    _Row("parameters", "parameters", count, lambda a, b: f"{100 * (b / a - 1):+.1f} %"),
    _Row("latency", "latency_ms", lambda v: f"{v:.2f} ms", lambda a, b: f"{a / b:.2f}x faster"),
    _Row(
        "throughput",
        "throughput_imgs_per_sec",
        lambda v: f"{v:,.0f} img/s",
        lambda a, b: f"{b / a:.2f}x",
    ),
    _Row("size on disk", "bytes_on_disk", lambda v: f"{v / 1024:,.0f} KiB", lambda a, b: f"{a / b:.1f}x smaller"),
)


def report_table(result: Mapping[str, Any]) -> Table:
    """Return the final table: dense, pruned one-shot, reconstructed and fine-tuned networks side by side.

    Args:
        result: the content of ``result.json``.
    """
    title = f"{result['task']}, {result['method']}, seed {result['seed']}"
    removed, target = 100 * result["flops_reduction"], 100 * result["target_flops_reduction"]
    caption = (
        f"FLOPs removed: {removed:.1f} % (target {target:g} %)\n"
        f"latency: one image, throughput: batches of {THROUGHPUT_BATCH}, both medians"
    )
    shown = [name for name in COLUMNS if name in result]  # older results know of no reconstruction
    values = {row: [result[name][row.key] for name in shown] for row in _ROWS}
    rows = [[row.label, *map(row.show, found), row.change(found[0], found[-1])] for row, found in values.items()]
    return Table(title, ("", *map(COLUMNS.__getitem__, shown), "change"), rows, caption)

"""Reasons for missing speed, layer by layer: FLOPs removed against time removed, and what rounding gains.

Every module without children is timed inside the running network (hooks around it), dense and pruned in turns. Where a
weighted layer gives back less time than FLOPs, the reason is read from its shape; what rounding would gain is measured,
by timing the layer alone on its own input shape with its channels at multiples of 8, 16 and 32.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn

from benchmarks.common.columns import Column, Value
from benchmarks.common.table import Table
from benchmarks.system_eval.layer_record import LayerRecord, LayerRecorder
from benchmarks.system_eval.rounding_gain import rounding_gain
from prune_gym.support.device import module_device

BLOCK = 8
"""Channels that fill a vector register of 32-bit numbers (256 bits); CPU and GPU kernels work on such blocks."""
SMALL_GEMM = 2e6
"""FLOPs of a layer below which starting it costs as much as running it."""
LOW_INTENSITY = 10.0
"""FLOPs a byte below which memory, not arithmetic, sets the time on today's CPUs and GPUs."""
FAIR_SHARE = 0.95
"""A layer that gives back at least this share of the time its FLOPs promise is as fast as it can be."""

FINE = "as fast as its FLOPs promise"
UNPRUNED = "unpruned"
NEIGHBOUR = "unpruned neighbour"
ODD = "odd channel count"
DEPTHWISE = "depthwise"
SMALL = "small GEMM"
MEMORY = "memory-bound"
NO_WEIGHTS = "no weights, memory-bound"
OVERHEAD = "fixed cost of the call"


@dataclass(frozen=True)
class LayerSlowness:
    """One module, dense and pruned.

    Attributes:
        name: Qualified name.
        kind: Class name.
        channels: Input and output channels when pruned; None for modules without weights.
        dense_channels: The same when dense.
        dense_flops: FLOPs of the batch, 0 without weights.
        pruned_flops: FLOPs of the batch.
        dense_ms: Median time inside the dense network, in ms.
        pruned_ms: Median time inside the pruned network, in ms.
        reason: Why it is not faster, or that it is.
        rounding: Multiple of channels that runs the layer fastest, or None if none gains.
        rounding_gain_ms: Time that saves, in ms of this layer alone.
    """

    name: str
    kind: str
    channels: tuple[int, int] | None
    dense_channels: tuple[int, int] | None
    dense_flops: float
    pruned_flops: float
    dense_ms: float
    pruned_ms: float
    reason: str
    rounding: int | None = None
    rounding_gain_ms: float = 0.0

    @property
    def flops_removed(self) -> float:
        """Fraction of the layer's FLOPs removed; 0 without weights."""
        return 1 - self.pruned_flops / self.dense_flops if self.dense_flops else 0.0

    @property
    def time_removed(self) -> float:
        """Fraction of the layer's time removed."""
        return 1 - self.pruned_ms / self.dense_ms if self.dense_ms else 0.0


@dataclass(frozen=True)
class SlownessReport:
    """All modules of a network.

    Attributes:
        layers: A row a module, in the order of their first call.
        dense_ms: Sum of the modules' times in the dense network, in ms.
        pruned_ms: The same in the pruned network.
        flops_removed: Fraction of all FLOPs removed.
    """

    layers: tuple[LayerSlowness, ...]
    dense_ms: float
    pruned_ms: float
    flops_removed: float

    @property
    def time_removed(self) -> float:
        """Fraction of the modules' time removed."""
        return 1 - self.pruned_ms / self.dense_ms if self.dense_ms else 0.0

    def by_reason(self) -> dict[str, float]:
        """Return reason -> ms of the pruned network beyond what FLOPs promise, the largest first.

        A module without weights is held against the FLOPs removed from the whole network.
        """
        excess: dict[str, float] = {}
        for layer in self.layers:
            removed = layer.flops_removed if layer.dense_flops else self.flops_removed
            promised = layer.dense_ms * (1 - removed)
            excess[layer.reason] = excess.get(layer.reason, 0.0) + max(0.0, layer.pruned_ms - promised)
        return dict(sorted(excess.items(), key=lambda item: -item[1]))

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON-able mapping."""
        return {
            "dense_ms": self.dense_ms,
            "pruned_ms": self.pruned_ms,
            "flops_removed": self.flops_removed,
            "time_removed": self.time_removed,
            "excess_ms_by_reason": self.by_reason(),
            "layers": [asdict(layer) for layer in self.layers],
        }


def explain_slowness(
    dense: nn.Module, pruned: nn.Module, example_input: Tensor, *, num_iterations: int = 20, num_warmup: int = 3
) -> SlownessReport:
    """Time every module of a dense and a pruned network and say where time stayed.

    Args:
        dense: The dense network.
        pruned: What was cut from it: the same module names, on the same device.
        example_input: [batch, ...] input in the memory format the networks are to run in.
        num_iterations: Timed passes of each network, >= 1.
        num_warmup: Untimed passes before them, >= 0.

    Returns:
        A row a module. Times include the hooks' own, some microseconds a module (on a GPU, CUDA events).

    Raises:
        ValueError: If the networks do not have the same modules, or the number of passes is out of range.
    """
    _check_pair(dense, pruned, num_iterations, num_warmup)
    records = {"dense": LayerRecorder(dense), "pruned": LayerRecorder(pruned)}
    for iteration in range(num_warmup + num_iterations):
        for recorder in records.values():
            recorder.run(example_input, keep=iteration >= num_warmup)
    seen = {key: recorder.records() for key, recorder in records.items()}
    names = [name for name in seen["dense"] if name in seen["pruned"]]
    layers = tuple(_row(name, seen["dense"][name], seen["pruned"][name]) for name in names)
    modules = dict(pruned.named_modules())
    layers = tuple(_with_gain(layer, modules[layer.name], seen["pruned"][layer.name]) for layer in layers)
    flops = [sum(values) for values in zip(*((row.dense_flops, row.pruned_flops) for row in layers), strict=True)]
    return SlownessReport(
        layers,
        sum(layer.dense_ms for layer in layers),
        sum(layer.pruned_ms for layer in layers),
        1 - flops[1] / flops[0] if flops and flops[0] else 0.0,
    )


def slowness_table(report: SlownessReport, rows: int = 20) -> Table:
    """Return the modules that cost most time beyond what their FLOPs promise, as a table.

    Args:
        report: What was measured.
        rows: At most so many modules.
    """
    title = (
        f"{100 * report.flops_removed:.0f} % of the FLOPs removed, {100 * report.time_removed:.0f} % of the time; "
        "most of the rest is in"
    )
    columns = (
        *("layer", "channels", "FLOPs", Column("time", "+.0f", 100, unit=" %"), Column("ms", ".2f"), "rounding gains"),
        Column("reason", align="left"),
    )
    lines: list[list[Value]] = [
        [
            layer.name,
            "" if layer.channels is None else f"{layer.channels[0]} -> {layer.channels[1]}",
            f"-{100 * layer.flops_removed:.0f} %" if layer.dense_flops else "",
            *(-layer.time_removed, layer.pruned_ms),
            f"{layer.rounding_gain_ms:.2f} ms (x{layer.rounding})" if layer.rounding else "",
            layer.reason,
        ]
        for layer in sorted(report.layers, key=lambda layer: -layer.pruned_ms)[:rows]
    ]
    return Table(title, columns, lines)


def _row(name: str, dense: LayerRecord, pruned: LayerRecord) -> LayerSlowness:
    return LayerSlowness(
        name,
        pruned.kind,
        pruned.sizes,
        dense.sizes,
        dense.flops,
        pruned.flops,
        dense.ms,
        pruned.ms,
        reason_of(dense, pruned),
    )


def reason_of(dense: LayerRecord, pruned: LayerRecord) -> str:
    """Return why a layer's time did not fall as its FLOPs did: the first of the reasons that applies.

    Args:
        dense: What was seen of the layer in the dense network.
        pruned: The same in the pruned one.
    """
    if pruned.sizes is None:
        return NO_WEIGHTS
    if pruned.sizes == dense.sizes:
        return UNPRUNED
    assert dense.sizes is not None
    removed, gone = 1 - pruned.flops / dense.flops, 1 - pruned.ms / dense.ms
    if gone >= FAIR_SHARE * removed:
        return FINE
    if pruned.depthwise:
        return DEPTHWISE
    if any(size % BLOCK and size != full for size, full in zip(pruned.sizes, dense.sizes, strict=True)):
        return ODD
    if pruned.flops < SMALL_GEMM:
        return SMALL
    if pruned.flops < LOW_INTENSITY * pruned.moved_bytes:
        return MEMORY
    return NEIGHBOUR if pruned.sizes[0] == dense.sizes[0] or pruned.sizes[1] == dense.sizes[1] else OVERHEAD


def _with_gain(layer: LayerSlowness, module: nn.Module, seen: LayerRecord) -> LayerSlowness:
    """The row with what rounding its channels would gain."""
    if layer.dense_channels is None or seen.groups > 1 or layer.channels == layer.dense_channels:
        return layer
    gain = rounding_gain(module, seen, layer.dense_channels)
    return layer if gain is None else replace(layer, rounding=gain[0], rounding_gain_ms=gain[1])


def _check_pair(dense: nn.Module, pruned: nn.Module, num_iterations: int, num_warmup: int) -> None:
    if num_iterations < 1 or num_warmup < 0:
        raise ValueError(f"num_iterations >= 1 and num_warmup >= 0 are needed, got {num_iterations} and {num_warmup}")
    names = [name for name, _ in dense.named_modules()]
    others = [name for name, _ in pruned.named_modules()]
    if names != others:
        odd = sorted(set(names) ^ set(others))[:3]
        raise ValueError(f"the networks do not have the same modules ({', '.join(map(repr, odd))} in only one of them)")
    if module_device(dense) != module_device(pruned):
        raise ValueError(
            f"the dense network is on {module_device(dense)}, the pruned one on {module_device(pruned)}; move one"
        )

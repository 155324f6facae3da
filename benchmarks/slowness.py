"""Why isn't it faster? Layer by layer, FLOPs removed against time removed, with the reason and what rounding gains.

Every module without children is timed inside the running network (hooks around it), dense and pruned in turns. Where a
weighted layer gives back less time than FLOPs, the reason is read from its shape; what rounding would gain is measured,
by timing the layer alone on its own input shape with its channels at multiples of 8, 16 and 32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor, nn

from hessian.channels import CONV_TYPES, is_depthwise
from prune_gym.device import module_device
from prune_gym.timing import compare_interleaved, inference, make_clock

WEIGHTED = (*CONV_TYPES, nn.Linear)
ROUNDINGS = (8, 16, 32)
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
    records = {"dense": _Recorder(dense), "pruned": _Recorder(pruned)}
    for iteration in range(num_warmup + num_iterations):
        for recorder in records.values():
            recorder.run(example_input, keep=iteration >= num_warmup)
    seen = {key: recorder.summary() for key, recorder in records.items()}
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
    """The modules that cost most time beyond what their FLOPs promise, as a table.

    Args:
        report: What was measured.
        rows: At most so many modules.
    """
    title = (
        f"{100 * report.flops_removed:.0f} % of the FLOPs removed, {100 * report.time_removed:.0f} % of the time; "
        "most of the rest is in"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("layer", no_wrap=True)
    for heading in ("channels", "FLOPs", "time", "ms", "rounding gains"):
        table.add_column(heading, justify="right")
    table.add_column("reason")
    for layer in sorted(report.layers, key=lambda layer: -layer.pruned_ms)[:rows]:
        gain = f"{layer.rounding_gain_ms:.2f} ms (x{layer.rounding})" if layer.rounding else ""
        table.add_row(
            layer.name,
            "" if layer.channels is None else f"{layer.channels[0]} -> {layer.channels[1]}",
            f"-{100 * layer.flops_removed:.0f} %" if layer.dense_flops else "",
            f"{-100 * layer.time_removed:+.0f} %",
            f"{layer.pruned_ms:.2f}",
            gain,
            layer.reason,
        )
    return table


@dataclass(frozen=True)
class _Seen:
    """What was seen of one module while its network ran."""

    kind: str
    sizes: tuple[int, int] | None
    groups: int
    depthwise: bool
    flops: float
    moved_bytes: float
    input_shape: tuple[int, ...]
    channels_last: bool
    ms: float


class _Recorder:
    """Times the modules of a network that have no children."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._clock = make_clock(module_device(model))
        self._leaves = {
            name: module for name, module in model.named_modules() if name and next(module.children(), None) is None
        }
        self._marks: dict[str, Any] = {}
        self._pass: dict[str, list[tuple[Any, Any]]] = {}
        self._samples: dict[str, list[float]] = {}
        self._calls: dict[str, tuple[Tensor, Tensor]] = {}

    def run(self, inputs: Tensor, keep: bool) -> None:
        """Run once; the times count if ``keep``."""
        self._pass = {}
        with self._hooked(), inference(self._model):
            self._model(inputs)
        if keep:
            for name, spans in self._pass.items():
                elapsed = sum(self._clock.elapsed_ms(start, end) for start, end in spans)
                self._samples.setdefault(name, []).append(elapsed)

    def summary(self) -> dict[str, _Seen]:
        """What was seen of every module that ran, in the order of the first call."""
        return {
            name: _seen(self._leaves[name], *self._calls[name], float(np.median(samples)))
            for name, samples in self._samples.items()
        }

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        handles = []
        try:
            for name, module in self._leaves.items():
                handles.append(module.register_forward_pre_hook(self._before(name)))
                handles.append(module.register_forward_hook(self._after(name)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            self._marks[name] = self._clock.mark()

        return hook

    def _after(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            end = self._clock.mark()
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                self._pass.setdefault(name, []).append((self._marks[name], end))
                # Only shapes and strides are asked of them later; storages are not kept alive.
                self._calls[name] = (inputs[0].detach().to("meta"), output.detach().to("meta"))

        return hook


def _seen(module: nn.Module, inputs: Tensor, output: Tensor, ms: float) -> _Seen:
    weighted = isinstance(module, WEIGHTED)
    flops = 0.0
    if isinstance(module, nn.Linear):
        flops = 2.0 * output.numel() * module.in_features
    elif isinstance(module, CONV_TYPES):
        applied = inputs.shape[2:] if module.transposed else output.shape[2:]
        flops = 2.0 * inputs.shape[0] * applied.numel() * module.weight.numel()
    weights = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    return _Seen(
        kind=type(module).__name__,
        sizes=_sizes(module) if weighted else None,
        groups=int(getattr(module, "groups", 1)),
        depthwise=is_depthwise(module),
        flops=flops,
        moved_bytes=float(inputs.element_size() * (inputs.numel() + output.numel() + weights)),
        input_shape=tuple(inputs.shape),
        channels_last=inputs.ndim == 4
        and inputs.is_contiguous(memory_format=torch.channels_last)
        and not inputs.is_contiguous(),
        ms=ms,
    )


def _sizes(module: Any) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return module.in_channels, module.out_channels


def _row(name: str, dense: _Seen, pruned: _Seen) -> LayerSlowness:
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


def reason_of(dense: Any, pruned: Any) -> str:
    """Why a layer's time did not fall as its FLOPs did: the first of the reasons that applies.

    Args:
        dense: What was seen of the layer in the dense network.
        pruned: The same in the pruned one.
    """
    if pruned.sizes is None:
        return NO_WEIGHTS
    if pruned.sizes == dense.sizes:
        return UNPRUNED
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


def _with_gain(layer: LayerSlowness, module: nn.Module, seen: _Seen) -> LayerSlowness:
    """The row with what rounding its channels would gain, timed on the layer alone."""
    if layer.channels is None or seen.groups > 1 or layer.channels == layer.dense_channels:
        return layer
    assert layer.dense_channels is not None
    variants: Mapping[int, tuple[int, int]] = {
        step: _rounded(layer.channels, layer.dense_channels, step) for step in ROUNDINGS
    }
    variants = {step: sizes for step, sizes in variants.items() if sizes != layer.channels}
    if not variants:
        return layer
    calls = {0: _alone(module, seen, layer.channels)}
    calls |= {step: _alone(module, seen, sizes) for step, sizes in variants.items()}
    with torch.inference_mode():
        timings = compare_interleaved(
            {str(step): call for step, call in calls.items()},
            device=module_device(module),
            num_iterations=15,
            num_warmup=3,
        )
    best = min(variants, key=lambda step: timings[str(step)].p50_ms)
    gain = timings["0"].p50_ms - timings[str(best)].p50_ms
    if gain <= 0.02 * timings["0"].p50_ms:
        return layer
    return replace(layer, rounding=best, rounding_gain_ms=gain)


def _rounded(sizes: tuple[int, int], full: tuple[int, int], step: int) -> tuple[int, int]:
    """Both channel counts at the nearest multiple; unpruned ones stay."""
    pairs = zip(sizes, full, strict=True)
    first, second = (
        size if size == whole else min(whole, max(step, round(size / step) * step)) for size, whole in pairs
    )
    return first, second


def _alone(module: Any, seen: _Seen, sizes: tuple[int, int]) -> Any:
    """A call of the layer with other channel counts, on noise of the shape and format it sees in the network."""
    inputs, outputs = sizes
    layer = copy.copy(module)
    layer._parameters, layer._buffers = dict(module._parameters), dict(module._buffers)
    like = module.weight
    if isinstance(module, nn.Linear):
        layer.in_features, layer.out_features = inputs, outputs
        shape: tuple[int, ...] = (outputs, inputs)
        data_shape = (*seen.input_shape[:-1], inputs)
    else:
        layer.in_channels, layer.out_channels = inputs, outputs
        first, second = (inputs, outputs) if module.transposed else (outputs, inputs)
        shape = (first, second, *module.kernel_size)
        data_shape = (seen.input_shape[0], inputs, *seen.input_shape[2:])
    memory_format = torch.channels_last if seen.channels_last else torch.contiguous_format
    weight = torch.randn(shape, device=like.device, dtype=like.dtype)
    layer.weight = nn.Parameter(weight.contiguous(memory_format=memory_format) if weight.ndim == 4 else weight)
    if module.bias is not None:
        layer.bias = nn.Parameter(torch.zeros(outputs, device=like.device, dtype=like.dtype))
    data = torch.randn(data_shape, device=like.device, dtype=like.dtype)
    data = data.contiguous(memory_format=memory_format) if data.ndim == 4 else data
    return lambda: layer(data)


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

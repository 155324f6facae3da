"""Latency of pruned networks from a table measured once: every layer's time by its inputs and outputs.

Each convolution and linear layer is timed alone at a few sizes (:mod:`prune_gym.support.timing`); sizes in between are
interpolated. What the dense network takes beyond the sum of its layers (norms, activations, calls) is charged in
proportion to the channels its layers keep. Lookup tables of this kind are how hardware-aware searches price latency
(ProxylessNAS, Cai et al., ICLR 2019). Measured times differ from run to run; a table that exists does not.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hessian.support.progress import Progress
from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.cost.model import CONVOLUTIONS, CostModel
from prune_gym.support.cache import Metadata, Tensors, cache_path, remember
from prune_gym.support.device import device_name, module_device
from prune_gym.support.files import sha256_of
from prune_gym.support.fingerprint import network_fingerprint
from prune_gym.support.timing import time_callable, time_model

BATCH_SIZE = 32
"""Images a timed call, unless told otherwise."""

SHARES = (0.05, 0.25, 0.5, 0.75, 1.0)
"""Shares of a layer's inputs and outputs that are timed."""

_CALLS = 15


@dataclass(frozen=True, eq=False)
class LayerTimes:
    """Times of one layer.

    Attributes:
        outputs: float64 [R], ascending output counts.
        inputs: float64 [C], ascending input counts.
        milliseconds: float64 [R, C], non-decreasing along both (a larger layer that was measured faster counts as fast
            as the smaller one: a target must not be met by adding channels).
    """

    outputs: FloatArray
    inputs: FloatArray
    milliseconds: FloatArray

    def __post_init__(self) -> None:
        rising = np.maximum.accumulate(np.maximum.accumulate(self.milliseconds, axis=0), axis=1)
        object.__setattr__(self, "milliseconds", rising)

    def __call__(self, outputs: IntArray, inputs: IntArray) -> FloatArray:
        """Milliseconds at sizes [...], bilinear in between and constant outside."""
        row, down = _position(self.outputs, outputs)
        column, right = _position(self.inputs, inputs)
        upper = self.milliseconds[row, column] * (1 - right) + self._at(row, column + 1) * right
        lower = self._at(row + 1, column) * (1 - right) + self._at(row + 1, column + 1) * right
        return upper * (1 - down) + lower * down

    def _at(self, row: IntArray, column: IntArray) -> FloatArray:
        last_row, last_column = (size - 1 for size in self.milliseconds.shape)
        return self.milliseconds[np.minimum(row, last_row), np.minimum(column, last_column)]


def _position(grid: FloatArray, sizes: IntArray) -> tuple[IntArray, FloatArray]:
    """Grid interval and position in it, in [0, 1), of sizes clipped to the grid."""
    clipped = np.clip(np.asarray(sizes, dtype=np.float64), grid[0], grid[-1])
    left = np.searchsorted(grid, clipped, side="right") - 1
    right = np.minimum(left + 1, len(grid) - 1)
    # Beyond the last point is no interval, and its numerator is 0: any divisor does.
    return left, (clipped - grid[left]) / np.where(right > left, grid[right] - grid[left], 1.0)


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Latencies of plans.

    Attributes:
        cost: the network's cost model.
        layers: module name -> its times.
        rest: milliseconds the dense network takes beyond its layers.
        batch_size: images of the timed batch.
    """

    cost: CostModel
    layers: dict[str, LayerTimes]
    rest: float
    batch_size: int = BATCH_SIZE

    def __call__(self, kept: IntArray) -> FloatArray:
        """Milliseconds of a batch: kept int [..., L] -> float64 [...]."""
        kept = np.asarray(kept)
        total = self.rest * kept.sum(axis=-1) / self.cost.units.sum()
        for name, times in self.layers.items():
            total = total + times(*self.cost.module_sizes(name, kept))
        return np.asarray(total)

    def relative(self, kept: IntArray) -> FloatArray:
        """Latency as a share of the dense network's: kept int [..., L] -> float64 [...]."""
        return self(kept) / self(self.cost.units)

    def tensors(self) -> tuple[Tensors, Metadata]:
        """The table as tensors and text, for a file."""
        tensors = {
            f"{name}.{part}": torch.from_numpy(getattr(times, part))
            for name, times in self.layers.items()
            for part in ("outputs", "inputs", "milliseconds")
        }
        return tensors, {"rest": repr(self.rest)}


def latency_table(
    model: nn.Module,
    example_input: torch.Tensor,
    cost: CostModel,
    name: str,
    folder: Path,
    progress: Progress | None,
    batch_size: int = BATCH_SIZE,
) -> LatencyTable:
    """The table of a network on the device it is on, from the cache or measured now (seconds).

    Args:
        model: the dense network.
        example_input: [N, ...], one image of it is used.
        cost: its cost model.
        name: the task's name, for the file.
        folder: the cache.
        progress: called with (description, done, total) while measuring.
        batch_size: images of the timed batch.
    """
    device = module_device(model)
    key = sha256_of(
        network_fingerprint(model),
        list(example_input.shape[1:]),
        str(device),
        device_name(device),
        str(next(model.parameters()).dtype),
        torch.__version__,
        torch.get_num_threads(),
        [platform.machine(), platform.processor(), os.cpu_count() or 0],
        list(SHARES),
        batch_size,
    )

    def restore(tensors: Tensors, metadata: Metadata) -> LatencyTable:
        layers = {
            module: LayerTimes(
                *(tensors[f"{module}.{part}"].double().numpy() for part in ("outputs", "inputs", "milliseconds"))
            )
            for module in cost.input_shapes
        }
        return LatencyTable(cost, layers, float(metadata["rest"]), batch_size)

    def compute() -> tuple[Tensors, Metadata]:
        return measure(model, example_input, cost, progress, batch_size).tensors()

    return remember(cache_path(folder, name, "latency", key), compute, restore)


def measure(
    model: nn.Module,
    example_input: torch.Tensor,
    cost: CostModel,
    progress: Progress | None = None,
    batch_size: int = BATCH_SIZE,
) -> LatencyTable:
    """Time every layer at its grid of sizes, equal layers once, and the dense network as a whole."""
    modules: dict[str, Any] = dict(model.named_modules())
    measured: dict[tuple[Any, ...], LayerTimes] = {}
    layers: dict[str, LayerTimes] = {}
    for done, (name, shape) in enumerate(cost.input_shapes.items(), start=1):
        module = modules[name]
        outputs, inputs = (int(size) for size in cost.module_sizes(name, cost.units))
        fewest = cost.module_sizes(name, np.ones_like(cost.units))
        grids = tuple(
            _grid(full, int(least) < full, getattr(module, "groups", 1))
            for full, least in zip((outputs, inputs), fewest, strict=True)
        )
        key = (repr(module), shape, *(tuple(grid) for grid in grids))
        if key not in measured:
            measured[key] = _time_layer(module, (batch_size, *shape), *grids)
        layers[name] = measured[key]
        if progress is not None:
            progress("measuring latencies", done, len(cost.input_shapes))
    images = example_input[:1].expand(batch_size, *example_input.shape[1:]).contiguous()
    dense = time_model(model, images, num_iterations=_CALLS, num_warmup=3).p50_ms
    own = sum(float(times.milliseconds[-1, -1]) for times in layers.values())
    return LatencyTable(cost, layers, max(0.0, dense - own), batch_size)


def _grid(full: int, varies: bool, groups: int) -> list[int]:
    """Sizes to time: shares of the full one, in whole groups."""
    if not varies:
        return [full]
    whole = groups if full > groups else 1
    return sorted({max(whole, round(share * full / whole) * whole) for share in SHARES})


def _time_layer(module: Any, shape: tuple[int, ...], outputs: list[int], inputs: list[int]) -> LayerTimes:
    """Times of a layer whose dense input is [N, ...] of this shape."""
    device = module.weight.device
    milliseconds = np.empty((len(outputs), len(inputs)))
    for row, rows in enumerate(outputs):
        for column, columns in enumerate(inputs):
            layer, images = _resized(module, shape, rows, columns)
            layer = layer.to(module.weight).eval().requires_grad_(False)
            images = images.to(module.weight)
            call = partial(layer, images)
            timing = time_callable(call, device=device, num_iterations=_CALLS, num_warmup=3)
            milliseconds[row, column] = timing.p50_ms
    return LayerTimes(np.array(outputs, dtype=np.float64), np.array(inputs, dtype=np.float64), milliseconds)


def _resized(module: Any, shape: tuple[int, ...], outputs: int, inputs: int) -> tuple[nn.Module, torch.Tensor]:
    """The layer at other sizes, and a batch for it; ``shape`` [N, C, ...] is the dense layer's input."""
    bias = module.bias is not None
    if not isinstance(module, CONVOLUTIONS):
        return nn.Linear(inputs, outputs, bias), torch.zeros(*shape[:-1], inputs)
    depthwise = module.groups == module.in_channels > 1
    if depthwise:
        inputs = outputs
    convolution: Any = type(module)
    layer = convolution(
        inputs,
        outputs,
        module.kernel_size,
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        groups=inputs if depthwise else module.groups,
        bias=bias,
    )
    return layer, torch.zeros(shape[0], inputs, *shape[2:])

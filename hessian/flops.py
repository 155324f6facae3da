"""FLOPs of a pruned network as a function of the channels each layer has lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hessian.channels import MIXING_TYPES, TRANSPOSED_TYPES, ChannelGroup, channel_extent, is_depthwise
from hessian.layer_calls import layer_input
from hessian.modes import modes_restored

FloatArray = NDArray[np.float64]


def output_positions(model: nn.Module, example_input: Any) -> dict[str, int]:
    """Positions at which every convolution and linear layer is applied to one image, from one forward pass.

    Args:
        model: run in evaluation mode and left as it was.
        example_input: a tensor (or tuple of tensors) the model accepts.

    Returns:
        Module name -> output positions (input positions of a transposed convolution).
    """
    positions: dict[str, int] = {}

    def hook(name: str) -> Any:
        def record(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
            seen = layer_input(args, kwargs) if isinstance(module, TRANSPOSED_TYPES) else output
            axes = seen.shape[1:-1] if isinstance(module, nn.Linear) else seen.shape[2:]
            positions[name] = positions.get(name, 0) + math.prod(axes)

        return record

    watched = [(name, module) for name, module in model.named_modules() if isinstance(module, MIXING_TYPES)]
    handles = [module.register_forward_hook(hook(name), with_kwargs=True) for name, module in watched]
    try:
        with torch.no_grad(), modes_restored(model):
            model.eval()
            model(*example_input) if isinstance(example_input, (tuple, list)) else model(example_input)
    finally:
        for handle in handles:
            handle.remove()
    return positions


class FlopsModel:
    """FLOPs (2 x MACs of convolutions and linear maps, one image) given the channels removed a layer.

    Args:
        model: the dense network.
        groups: its prunable layers.
        positions: from :func:`output_positions`.
    """

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup], positions: Mapping[str, int]) -> None:
        modules: dict[str, Any] = {name: model.get_submodule(name) for name in positions}
        index = {name: row for row, name in enumerate(modules)}
        shape = (len(modules), len(groups))
        self._rows, self._columns = np.zeros(shape), np.zeros(shape)
        for layer, group in enumerate(groups):
            for member in (*group.producers, *group.carriers):
                if member.module in index and member.parameter is None:
                    self._rows[index[member.module], layer] += member.width
            for member in group.consumers:
                self._columns[index[member.module], layer] += member.width
        self._outputs = np.array([channel_extent(module, "out") for module in modules.values()], dtype=np.float64)
        inputs = [1 if is_depthwise(module) else channel_extent(module, "in") for module in modules.values()]
        self._inputs = np.array(inputs, dtype=np.float64)
        self._scale = np.array([2.0 * positions[name] * _taps(module) for name, module in modules.items()])

    def flops(self, removed: FloatArray) -> float:
        """FLOPs when the layers have lost the given numbers of channels [L]."""
        outputs, inputs = self._left(removed)
        return float(self._scale @ (outputs * inputs))

    def savings(self, removed: FloatArray, more: FloatArray) -> FloatArray:
        """FLOPs saved by each layer alone losing more channels: two arrays [L] -> [L]."""
        outputs, inputs = self._left(removed)
        first = (self._scale * inputs) @ self._rows + (self._scale * outputs) @ self._columns
        return first * more - self._scale @ (self._rows * self._columns) * more**2

    def _left(self, removed: FloatArray) -> tuple[FloatArray, FloatArray]:
        return self._outputs - self._rows @ removed, self._inputs - self._columns @ removed


def _taps(module: Any) -> float:
    """Multiplications an output and an input channel share at one position."""
    if isinstance(module, nn.Linear):
        return 1.0
    return math.prod(module.kernel_size) / (1 if is_depthwise(module) else module.groups)

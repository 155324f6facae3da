"""FLOPs of a pruned network as a function of the channels each layer has lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hessian.channels.group import ChannelGroup
from hessian.channels.layer_types import channel_extent, is_depthwise

FloatArray = NDArray[np.float64]


class FlopsModel:
    """FLOPs (2 x MACs of convolutions and linear maps, one image) given the channels removed a layer.

    Args:
        model: the dense network.
        groups: its prunable layers.
        positions: of its layers' calls (:func:`hessian.channels.layer_calls.calls_of_one_input`).
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

"""Records of every layer while a network runs: sizes, FLOPs, bytes, memory format and time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hessian.channels.layer_types import CONV_TYPES, is_depthwise
from prune_gym.surgery.module_times import ModuleCall, ModuleTimer

WEIGHTED = (*CONV_TYPES, nn.Linear)


@dataclass(frozen=True)
class LayerRecord:
    """Record of one module while its network ran.

    Attributes:
        kind: Class name.
        sizes: Input and output channels; None without weights.
        groups: Groups of a convolution, else 1.
        depthwise: Whether it is a depthwise convolution.
        flops: FLOPs of a pass, 0 without weights.
        moved_bytes: Bytes of inputs, outputs and weights of a pass.
        input_shape: Shape of its last input.
        channels_last: Whether that input was channels last.
        ms: Median time inside the module in a pass, in ms.
    """

    kind: str
    sizes: tuple[int, int] | None
    groups: int
    depthwise: bool
    flops: float
    moved_bytes: float
    input_shape: tuple[int, ...]
    channels_last: bool
    ms: float


class LayerRecorder:
    """Runs a network and records the modules of it that have no children.

    Args:
        model: The network; left as it was.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())
        self._timer = ModuleTimer(model)
        self._samples: dict[str, list[float]] = {}
        self._calls: dict[str, list[ModuleCall]] = {}

    def run(self, inputs: Tensor, keep: bool) -> None:
        """Run once; the times count if ``keep``."""
        calls: dict[str, list[ModuleCall]] = {}
        for call in self._timer.run(inputs):
            calls.setdefault(call.name, []).append(call)
        if keep:
            self._calls = calls
            for name, own in calls.items():
                self._samples.setdefault(name, []).append(sum(call.own_ms for call in own))

    def records(self) -> dict[str, LayerRecord]:
        """Name -> what was seen of the module, in the order of the first call."""
        return {
            name: _record(self._modules[name], calls, float(np.median(self._samples[name])))
            for name, calls in self._calls.items()
        }


def _record(module: nn.Module, calls: Iterable[ModuleCall], ms: float) -> LayerRecord:
    *_, last = calls = list(calls)
    weights = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    moved = sum(call.inputs.numel() + call.output.numel() + weights for call in calls)
    inputs = last.inputs
    return LayerRecord(
        kind=type(module).__name__,
        sizes=_sizes(module) if isinstance(module, WEIGHTED) else None,
        groups=int(getattr(module, "groups", 1)),
        depthwise=is_depthwise(module),
        flops=sum(_flops(module, call) for call in calls),
        moved_bytes=float(inputs.element_size() * moved),
        input_shape=tuple(inputs.shape),
        channels_last=inputs.ndim == 4
        and inputs.is_contiguous(memory_format=torch.channels_last)
        and not inputs.is_contiguous(),
        ms=ms,
    )


def _flops(module: nn.Module, call: ModuleCall) -> float:
    if isinstance(module, nn.Linear):
        return 2.0 * call.output.numel() * module.in_features
    if isinstance(module, CONV_TYPES):
        applied = call.inputs.shape[2:] if module.transposed else call.output.shape[2:]
        return 2.0 * call.inputs.shape[0] * applied.numel() * module.weight.numel()
    return 0.0


def _sizes(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    assert isinstance(module, CONV_TYPES)
    return module.in_channels, module.out_channels

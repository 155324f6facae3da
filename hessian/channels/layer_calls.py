"""Arguments that layers are called with, and numbers of calls: seen by hooks during a forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hessian.channels.layer_types import MIXING_TYPES, TRANSPOSED_TYPES, channel_extent
from hessian.support.calling import call_model, first_sample
from hessian.support.modes import modes_restored


def layer_input(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The input of a call of one of PyTorch's layers, given by position or as ``input=``; for hooks with keywords.

    Raises:
        KeyError: neither is there.
    """
    return args[0] if args else kwargs["input"]


@dataclass(frozen=True)
class LayerCalls:
    """The calls of every convolution and linear layer that one input causes.

    Attributes:
        positions: module name -> how often its kernel is applied, over all its calls: output positions (input
            positions of a transposed convolution).
        input_shapes: module name -> shape of what it was last called with, without the batch.
    """

    positions: dict[str, int] = field(default_factory=dict)
    input_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def calls_of_one_input(model: nn.Module, example_input: Any) -> LayerCalls:
    """Watch one forward pass.

    Args:
        model: run in evaluation mode and left as it was.
        example_input: a tensor, tuple of tensors or dict of keywords the model accepts; only its first sample is used.
    """
    calls = LayerCalls()

    def watching(name: str) -> Any:
        def record(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
            given = layer_input(args, kwargs)
            seen, channels = (given, "in") if isinstance(module, TRANSPOSED_TYPES) else (output, "out")
            applied = seen.numel() // channel_extent(module, channels)
            calls.positions[name] = calls.positions.get(name, 0) + applied
            calls.input_shapes[name] = tuple(given.shape[1:])

        return record

    watched = [(name, module) for name, module in model.named_modules() if isinstance(module, MIXING_TYPES)]
    handles = [module.register_forward_hook(watching(name), with_kwargs=True) for name, module in watched]
    try:
        with torch.no_grad(), modes_restored(model):
            call_model(model.eval(), first_sample(example_input))
    finally:
        for handle in handles:
            handle.remove()
    return calls

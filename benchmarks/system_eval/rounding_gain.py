"""Gain of rounding one layer: it is timed alone, on its own input shape, with its channels at multiples."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from benchmarks.system_eval.layer_record import LayerRecord
from prune_gym.support.device import module_device
from prune_gym.support.timing import compare_interleaved

ROUNDINGS = (8, 16, 32)

_NOTICEABLE = 0.02
"""Smallest share of a layer's time that counts as a gain."""
_PASSES = 15


def rounding_gain(module: nn.Module, seen: LayerRecord, full: tuple[int, int]) -> tuple[int, float] | None:
    """Find the multiple of channels at which a pruned layer runs fastest.

    Args:
        module: The pruned layer, a convolution without groups or a linear layer.
        seen: What was seen of it in its network.
        full: Its input and output channels when dense; sides that are whole stay whole.

    Returns:
        The multiple and the ms it saves, or None if none gains noticeably.
    """
    assert seen.sizes is not None
    variants = {step: _rounded(seen.sizes, full, step) for step in ROUNDINGS}
    variants = {step: sizes for step, sizes in variants.items() if sizes != seen.sizes}
    if not variants:
        return None
    calls = {0: _alone(module, seen, seen.sizes)}
    calls |= {step: _alone(module, seen, sizes) for step, sizes in variants.items()}
    with torch.inference_mode():
        timings = compare_interleaved(
            {str(step): call for step, call in calls.items()},
            device=module_device(module),
            num_iterations=_PASSES,
            num_warmup=3,
        )
    best = min(variants, key=lambda step: timings[str(step)].p50_ms)
    gain = timings["0"].p50_ms - timings[str(best)].p50_ms
    return (best, gain) if gain > _NOTICEABLE * timings["0"].p50_ms else None


def _rounded(sizes: tuple[int, int], full: tuple[int, int], step: int) -> tuple[int, int]:
    """Both channel counts at the nearest multiple; unpruned ones stay."""
    pairs = zip(sizes, full, strict=True)
    first, second = (
        size if size == whole else min(whole, max(step, round(size / step) * step)) for size, whole in pairs
    )
    return first, second


def _alone(module: Any, seen: LayerRecord, sizes: tuple[int, int]) -> Any:
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

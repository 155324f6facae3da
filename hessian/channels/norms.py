"""The normalisation that directly follows a layer: it can absorb a constant shift of the layer's outputs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from hessian.channels.layer_calls import layer_input
from hessian.channels.layer_types import MIXING_TYPES
from hessian.support.batches import run_example
from hessian.support.modes import modes_restored

BATCH_NORM = nn.modules.batchnorm._BatchNorm

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def is_frozen_norm(module: nn.Module) -> bool:
    """Return whether a module is a batch norm of buffers only, weights and statistics (torchvision, detectron2, timm).

    By the name of its class: every library has one of its own.
    """
    kinds = (kind.__name__ for kind in type(module).__mro__)
    return any(name.startswith("FrozenBatchNorm") for name in kinds) and "running_mean" in module._buffers


def is_plain_norm(module: nn.Module) -> bool:
    """Return whether a module is a batch norm and nothing more: libraries derive classes with an activation inside."""
    return type(module) in _PLAIN or type(module).__name__ == "FrozenBatchNorm2d"


def shift_absorbing_norms(model: nn.Module, example_input: Any) -> dict[str, str]:
    """Bias-free layers whose output goes straight into a BatchNorm with running statistics, frozen or not.

    Such a layer can be refitted as if it had a bias b: subtracting b from the BatchNorm's running mean has exactly the
    same effect. A BatchNorm that other layers go through too cannot absorb what is one layer's alone.

    Args:
        model: the network, on the example's device.
        example_input: a tensor, tuple of tensors or dict of keywords the model accepts.

    Returns:
        Layer name -> BatchNorm name.
    """
    names = {id(module): name for name, module in model.named_modules()}
    producers: dict[int, tuple[str, Tensor]] = {}
    found: dict[str, str] = {}
    calls: Counter[str] = Counter()
    own: Counter[str] = Counter()

    def remember(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        producers[id(output)] = (names[id(module)], output)

    def match(module: nn.Module, args: Any, kwargs: Any) -> None:
        calls[names[id(module)]] += 1
        given = id(layer_input(args, kwargs))
        if given in producers:
            layer = producers[given][0]
            found[layer] = names[id(module)]
            own[layer] += 1

    handles = []
    for module in model.modules():
        if isinstance(module, MIXING_TYPES) and module.bias is None:
            handles.append(module.register_forward_hook(remember))
        elif (isinstance(module, BATCH_NORM) and module.track_running_stats) or is_frozen_norm(module):
            handles.append(module.register_forward_pre_hook(match, with_kwargs=True))
    try:
        with torch.no_grad(), modes_restored(model):
            model.eval()
            run_example(model, example_input)
    finally:
        for handle in handles:
            handle.remove()
    return {layer: norm for layer, norm in found.items() if own[layer] == calls[norm]}

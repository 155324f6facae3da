"""Which normalisation directly follows a layer: it can absorb a constant shift of the layer's outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hessian.channels.layer_calls import layer_input
from hessian.channels.layer_types import MIXING_TYPES
from hessian.support.calling import call_model
from hessian.support.modes import modes_restored

BATCH_NORM = nn.modules.batchnorm._BatchNorm


def shift_absorbing_norms(model: nn.Module, example_input: Any) -> dict[str, str]:
    """Bias-free layers whose output goes straight into a BatchNorm with running statistics.

    Such a layer can be refitted as if it had a bias b: subtracting b from the BatchNorm's running mean has exactly the
    same effect.

    Args:
        model: the network, on the example's device.
        example_input: a tensor (or tuple of tensors) the model accepts.

    Returns:
        Layer name -> BatchNorm name.
    """
    names = {id(module): name for name, module in model.named_modules()}
    producers: dict[int, tuple[str, Tensor]] = {}
    found: dict[str, str] = {}

    def remember(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        producers[id(output)] = (names[id(module)], output)

    def match(module: nn.Module, args: Any, kwargs: Any) -> None:
        given = id(layer_input(args, kwargs))
        if given in producers:
            found[producers[given][0]] = names[id(module)]

    handles = []
    for module in model.modules():
        if isinstance(module, MIXING_TYPES) and module.bias is None:
            handles.append(module.register_forward_hook(remember))
        elif isinstance(module, BATCH_NORM) and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(match, with_kwargs=True))
    try:
        with torch.no_grad(), modes_restored(model):
            model.eval()
            call_model(model, example_input)
    finally:
        for handle in handles:
            handle.remove()
    return found

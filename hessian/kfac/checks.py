"""Checks of what a user brings, before work is spent on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hessian.channels.layer_types import MIXING_TYPES
from hessian.support.batches import model_device
from hessian.support.names import unknown


def check_model(model: nn.Module) -> None:
    """Raise unless the weights are finite ordinary tensors, of one type and on one device.

    Raises:
        ValueError: the offending layers are named.
    """
    model_device(model)
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "the model's tensors were made under torch.inference_mode, and no gradient passes through them; give "
            "copy.deepcopy(model), made outside of it"
        )
    dtypes: dict[torch.dtype, str] = {}
    state = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    for name, tensor in state.items():
        dtypes.setdefault(tensor.dtype, name.rpartition(".")[0])
    for name, finite in zip(state, all_finite(list(state.values())), strict=True):
        if not finite:
            raise ValueError(f"layer {name.rpartition('.')[0]!r} has NaN or infinite values in {name!r}")
    if len(dtypes) > 1:
        found = ", ".join(f"{dtype} in {layer!r}" for dtype, layer in dtypes.items())
        raise ValueError(f"the model mixes types ({found}); convert it with model.float() or model.double() first")


def all_finite(tensors: Sequence[Tensor]) -> list[bool]:
    """Return of every tensor whether it is free of NaN and infinity; the host waits for the device once."""
    if not tensors:
        return []
    device = tensors[0].device
    finite: list[bool] = torch.stack([torch.isfinite(tensor).all().to(device) for tensor in tensors]).tolist()
    return finite


def check_inputs(model: nn.Module, inputs: Tensor) -> None:
    """Raise unless floating-point images have the model's type.

    Raises:
        ValueError: both types are named.
    """
    expected = next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    if inputs.is_floating_point() and inputs.dtype != expected:
        raise ValueError(f"the images are {inputs.dtype} but the model's weights {expected}; convert one of them")


def layers_to_watch(model: nn.Module, layers: Sequence[str] | None) -> dict[str, Any]:
    """Convolutions and linear layers by name: the given ones, or all.

    Raises:
        ValueError: an unknown name, or one of another kind of module.
    """
    modules = dict(model.named_modules())
    available = {name: module for name, module in modules.items() if isinstance(module, MIXING_TYPES)}
    if layers is None:
        return available
    for name in layers:
        if name in modules and name not in available:
            kind = type(modules[name]).__name__
            raise ValueError(f"layer {name!r} is a {kind}; factors exist for convolutions and linear layers only")
        if name not in available:
            raise ValueError(unknown("layer", name, available))
    return {name: available[name] for name in layers}

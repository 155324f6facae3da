"""A network from a plain state dict: sizes are read off the tensors, and the dense network is shrunk to them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from hessian.channels.layer_types import is_depthwise
from prune_gym.surgery.sizes import broken_promises, channel_table, resize_tensor, set_sizes, size_attributes

_PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and ``torch.compile`` put before every name."""


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a plain state dict: safetensors, or PyTorch's format with tensors only. No code of the file is run.

    Args:
        path: ``*.safetensors``, or any file of ``torch.save(model.state_dict(), path)``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds more than tensors, or no tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file ({error})") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged or not a plain state dict; save one with torch.save(model.state_dict(), path) "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds a {type(state).__name__}, not tensors by name")
    return {_bare(name): tensor for name, tensor in state.items()}


def shrink_to(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Give a dense network the sizes of a pruned one's state dict, and its weights, in place.

    Args:
        model: The dense network.
        state: Tensors by name, of the same network with fewer channels; every grouped convolution that is not depthwise
            keeps its number of groups.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: If the state is not one of this network with fewer channels; what differs is named.
    """
    _check_names(model, state)
    modules = dict(model.named_modules())
    for name, sizes in channel_table(model).items():
        module = modules[name]
        tensors = {suffix: state[f"{name}.{suffix}" if name else suffix] for suffix in sizes.shapes}
        for suffix, full in sizes.shapes.items():
            shape = list(tensors[suffix].shape)
            if len(shape) != len(full) or any(cut > whole for cut, whole in zip(shape, full, strict=True)):
                raise ValueError(
                    f"the checkpoint is of another network: {name}.{suffix} is {shape}, dense it is {full}"
                )
        set_sizes(module, _inferred(module, tensors))
        for suffix, tensor in tensors.items():
            resize_tensor(module, suffix, tuple(tensor.shape), tensor.dtype)
    problems = broken_promises(model)
    if problems:
        raise ValueError(f"the checkpoint contradicts itself: {'; '.join(problems[:3])}")
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(state[name])
    return model.eval()


def _inferred(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, int | list[int]]:
    """Size attributes of a module according to its tensors."""
    sizes = size_attributes(module)
    if not sizes or not tensors:
        return sizes
    shape = list((tensors["weight"] if "weight" in tensors else next(iter(tensors.values()))).shape)
    if isinstance(module, nn.modules.conv._ConvNd):
        groups = max(shape[0], 1) if is_depthwise(module) else module.groups
        inputs, outputs = (shape[0], shape[1] * groups) if module.transposed else (shape[1] * groups, shape[0])
        return {"in_channels": inputs, "out_channels": outputs, "groups": groups}
    if isinstance(module, nn.Linear):
        return {"in_features": shape[1], "out_features": shape[0]}
    if isinstance(module, nn.LayerNorm):
        return {"normalized_shape": shape}
    if isinstance(module, nn.GroupNorm):
        return {"num_channels": shape[0], "num_groups": module.num_groups}
    return dict.fromkeys(sizes, shape[0])


def _check_names(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = model.state_dict().keys()
    if own != state.keys():
        odd = sorted(own ^ state.keys())
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        where = [f"{name!r} is {'missing' if name in own else 'unexpected'}" for name in odd[:3]]
        raise ValueError(f"the checkpoint is of another network: {', '.join(where)}{more}")


def _bare(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name

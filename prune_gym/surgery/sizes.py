"""The attributes by which modules declare their sizes, and the tensor shapes those attributes promise.

PyTorch stores a layer's size twice: in attributes (``out_channels``) and in the shapes of its tensors. Surgery must
keep the two equal, and a pruned network is rebuilt by setting both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]

_SIZE_ATTRIBUTES: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], tuple[str, ...]], ...] = (
    (nn.modules.conv._ConvNd, ("in_channels", "out_channels", "groups")),
    (nn.Linear, ("in_features", "out_features")),
    ((nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm), ("num_features",)),
    (nn.LayerNorm, ("normalized_shape",)),
    (nn.GroupNorm, ("num_channels", "num_groups")),
    (nn.PReLU, ("num_parameters",)),
)


@dataclass(frozen=True)
class ModuleSizes:
    """One row of the channel table: a module that holds tensors.

    Attributes:
        type: Class name of the module.
        attributes: Its size attributes (``out_channels``, ``num_features``, ...).
        shapes: Name of each of its own tensors -> shape.
        numbers: Whole numbers (and lists of them) that a module of the network's own keeps; some count channels.
    """

    type: str
    attributes: dict[str, int | list[int]]
    shapes: dict[str, list[int]]
    numbers: dict[str, int | list[int]] = field(default_factory=dict)


def size_attributes(module: nn.Module) -> dict[str, int | list[int]]:
    """Return the attributes that declare a module's sizes, JSON-able; empty for modules without any."""
    for kind, names in _SIZE_ATTRIBUTES:
        if isinstance(module, kind):
            values = {name: getattr(module, name) for name in names}
            return {name: list(value) if isinstance(value, tuple) else int(value) for name, value in values.items()}
    return {}


def channel_table(model: nn.Module) -> dict[str, ModuleSizes]:
    """Return the sizes of every module that holds parameters or persistent buffers of its own, or numbers."""
    stored = model.state_dict().keys()
    table = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        own = {suffix: list(tensor.shape) for suffix, tensor in _own_tensors(module) if prefix + suffix in stored}
        numbers = own_numbers(module)
        if own or numbers:
            table[name] = ModuleSizes(type(module).__name__, size_attributes(module), own, numbers)
    return table


def own_numbers(module: nn.Module) -> dict[str, int | list[int]]:
    """Return the whole numbers, and lists of them, that a module keeps, unless it is one of PyTorch's own kinds."""
    if type(module).__module__.startswith("torch."):
        return {}
    known = size_attributes(module)
    found: dict[str, int | list[int]] = {}
    for name, value in vars(module).items():
        if name in known or name.startswith("_"):
            continue
        if type(value) is int:
            found[name] = value
        elif isinstance(value, (list, tuple)) and value and all(type(number) is int for number in value):
            found[name] = list(value)
    return found


def _own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def promised_shapes(module: nn.Module) -> dict[str, Shape]:
    """Return the shapes of a module's tensors according to its attributes; empty for modules without size attributes.

    Returns:
        Name within the module (``"weight"``, ``"running_mean"``) -> shape, for tensors the module may or may not have.
    """
    if isinstance(module, nn.modules.conv._ConvNd):
        return _conv_shapes(module)
    if isinstance(module, nn.Linear):
        return {"weight": (module.out_features, module.in_features), "bias": (module.out_features,)}
    if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
        return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (module.num_features,))
    if isinstance(module, nn.LayerNorm):
        return dict.fromkeys(("weight", "bias"), tuple(module.normalized_shape))
    if isinstance(module, nn.GroupNorm):
        return dict.fromkeys(("weight", "bias"), (module.num_channels,))
    if isinstance(module, nn.PReLU):
        return {"weight": (module.num_parameters,)}
    return {}


def _conv_shapes(module: nn.modules.conv._ConvNd) -> dict[str, Shape]:
    inputs, outputs = module.in_channels, module.out_channels
    first, second = (inputs, outputs) if module.transposed else (outputs, inputs)
    return {"weight": (first, second // module.groups, *module.kernel_size), "bias": (outputs,)}


def broken_promises(model: nn.Module) -> list[str]:
    """Return one line for every tensor whose shape contradicts its module's attributes, and every uneven group."""
    problems = []
    for name, module in model.named_modules():
        for suffix, promised in promised_shapes(module).items():
            tensor = getattr(module, suffix, None)
            if tensor is not None and tuple(tensor.shape) != promised:
                problems.append(f"{name}.{suffix} is {list(tensor.shape)}, its attributes say {list(promised)}")
        problems += _uneven_groups(name, module)
    return problems


def _uneven_groups(name: str, module: nn.Module) -> list[str]:
    sizes = size_attributes(module)
    groups = sizes.get("groups", sizes.get("num_groups"))
    if not isinstance(groups, int):
        return []
    channels = [sizes[key] for key in ("in_channels", "out_channels", "num_channels") if key in sizes]
    return [
        f"{name} splits {count} channels into {groups} groups"
        for count in channels
        if isinstance(count, int) and count % groups
    ]


def set_sizes(module: nn.Module, attributes: Mapping[str, int | list[int]]) -> None:
    """Set size attributes as `size_attributes` reported them.

    Raises:
        ValueError: If the module does not have exactly these size attributes.
    """
    expected = size_attributes(module)
    if set(attributes) != set(expected):
        raise ValueError(
            f"{type(module).__name__} has the size attributes {sorted(expected)}, not {sorted(attributes)}"
        )
    for name, value in attributes.items():
        setattr(module, name, tuple(value) if isinstance(value, list) else value)


def resize_tensor(module: nn.Module, name: str, shape: Shape, dtype: torch.dtype) -> None:
    """Give a module's parameter or buffer another shape and dtype; its values are lost, device and kind stay.

    Args:
        module: The tensor's owner.
        name: The tensor's name within the module.
        shape: Its new shape.
        dtype: Its new dtype.
    """
    old: Any = getattr(module, name)
    if tuple(old.shape) == shape and old.dtype == dtype:
        return  # kept, so that a parameter shared between modules stays shared
    new: Tensor = torch.empty(shape, dtype=dtype, device=old.device)
    setattr(module, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)

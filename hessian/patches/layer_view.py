"""A layer as it is really called: convolutions of many libraries pad their inputs or standardise their weights first.

PyTorch's own classes are taken as they are. Of a class derived from them, the call its forward makes in the end is
looked at: with which input, weight, stride and padding. What comes out is a layer and an input that fit together like
those of PyTorch's own classes, so that nothing else has to know.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hessian.channels.layer_calls import layer_input
from hessian.channels.layer_types import MIXING_TYPES, TRANSPOSED_TYPES
from hessian.support.batches import run_example
from hessian.support.modes import modes_restored

Finding = TypeVar("Finding")

_NAMES = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear")


@dataclass(frozen=True, eq=False)
class LayerView:
    """A layer's call in terms of PyTorch's own classes.

    Attributes:
        module: convolution or linear layer whose geometry is that of the call; its weight is the layer's own.
        inputs: what it would be called with.
        weight: the weight of the call; the layer's own parameter, or what forward makes of it.
    """

    module: Any
    inputs: Tensor
    weight: Tensor


def exact_layer(module: nn.Module) -> bool:
    """Return whether a module is of one of PyTorch's own classes of convolutions and linear layers."""
    return type(module) in MIXING_TYPES and "weight" in module._parameters


def layer_view(module: Any, inputs: Tensor) -> LayerView:
    """A layer as it is really called.

    Args:
        module: a convolution or linear layer, or of a class derived from one.
        inputs: what it is called with.

    Raises:
        NotImplementedError: its forward is none of a single convolution or linear map.
    """
    if exact_layer(module):
        return LayerView(module, inputs, module.weight)
    call = _call_of(module, inputs)
    if call is None:
        raise NotImplementedError(f"{type(module).__name__} does not call a single convolution or linear map")
    given, weight, stride, padding, dilation, groups = call
    # Shallow: the view shares its parameters with the layer, only its geometry is another.
    view = copy.copy(module)
    if not isinstance(module, nn.Linear):
        axes = weight.ndim - 2
        view.stride, view.dilation, view.groups = _each(stride, axes), _each(dilation, axes), groups
        if not isinstance(module, TRANSPOSED_TYPES):
            amounts = _amounts(padding, view.dilation, view.kernel_size)
            view.padding, view.padding_mode = tuple(low for low, _ in amounts), "zeros"
            # PyTorch keeps padding a second time in the order of F.pad; "same" may be unequal on both sides, which only
            # this form can say.
            view._reversed_padding_repeated_twice = [side for pair in reversed(amounts) for side in pair]
    return LayerView(view, given, weight)


def why_not_refitted(module: Any, inputs: Tensor) -> str | None:
    """Reason why a layer's weight cannot be replaced by a refitted one, or None where it can.

    Args:
        module: a convolution or linear layer.
        inputs: what it is called with.
    """
    if exact_layer(module):
        return None
    try:
        view = layer_view(module, inputs)
    except NotImplementedError as error:
        return str(error)
    own = module._parameters.get("weight")
    if own is None or view.weight.shape != own.shape or not torch.equal(view.weight, own):
        return f"{type(module).__name__} computes its weight from its parameters (standardised or reparametrised)"
    return None


def irreplaceable_layers(model: nn.Module, example_input: Any) -> dict[str, str]:
    """Layers of a network whose weight cannot be replaced by a refitted one.

    Args:
        model: run in evaluation mode.
        example_input: a tensor, tuple of tensors or dict of keywords the model accepts.

    Returns:
        Layer name -> why.
    """
    return found_of_layers(model, example_input, why_not_refitted)


def found_of_layers(
    model: nn.Module, example_input: Any, finding: Callable[[nn.Module, Tensor], Finding | None]
) -> dict[str, Finding]:
    """Findings about the layers of a network that are none of PyTorch's own classes, as they are called.

    Args:
        model: run in evaluation mode.
        example_input: a tensor, tuple of tensors or dict of keywords the model accepts.
        finding: of a layer and the input of a call; None for nothing. Asked until there is one.

    Returns:
        Layer name -> its finding.
    """
    found: dict[str, Finding] = {}

    def watching(name: str) -> Any:
        def look(module: nn.Module, args: Any, kwargs: Any) -> None:
            one = finding(module, layer_input(args, kwargs)) if name not in found else None
            if one is not None:
                found[name] = one

        return look

    handles = [
        module.register_forward_pre_hook(watching(name), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, MIXING_TYPES) and not exact_layer(module)
    ]
    try:
        if handles:
            with torch.no_grad(), modes_restored(model):
                run_example(model.eval(), example_input)
    finally:
        for handle in handles:
            handle.remove()
    return found


def output_shape(module: Any, inputs: Tensor) -> tuple[int, ...]:
    """Shape of what one of PyTorch's own layers gives; sizes are read off its weight, which may be cut."""
    if isinstance(module, nn.Linear):
        return (*inputs.shape[:-1], module.weight.shape[0])
    axes = len(module.kernel_size)
    spatial = inputs.shape[-axes:]
    reach: list[int] = [step * (size - 1) for step, size in zip(module.dilation, module.kernel_size, strict=True)]
    if isinstance(module, TRANSPOSED_TYPES):
        padding: Any = module.padding
        sizes = [
            (spatial[axis] - 1) * module.stride[axis] - 2 * padding[axis] + reach[axis] + extra + 1
            for axis, extra in enumerate(module.output_padding)
        ]
        return (*inputs.shape[: -axes - 1], int(module.weight.shape[1]) * module.groups, *sizes)
    amounts = module._reversed_padding_repeated_twice
    pads = [amounts[2 * (axes - 1 - axis)] + amounts[2 * (axes - 1 - axis) + 1] for axis in range(axes)]
    sizes = [
        (size + pad - far - 1) // step + 1
        for size, pad, far, step in zip(spatial, pads, reach, module.stride, strict=True)
    ]
    return (*inputs.shape[: -axes - 1], module.weight.shape[0], *sizes)


class _Caught(BaseException):
    """Ends a forward at its convolution."""


class _Catch(TorchFunctionMode):
    """Takes the arguments of the first convolution or linear map instead of computing it."""

    def __init__(self) -> None:
        super().__init__()
        self.call: tuple[Any, ...] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name not in _NAMES:
            return func(*args, **kwargs)
        # Positional arguments of transposed convolutions come in another order.
        last = ("output_padding", "groups", "dilation") if "transpose" in name else ("dilation", "groups")
        names = ("input", "weight", "bias", "stride", "padding", *last)
        defaults: dict[str, Any] = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        bound = defaults | dict(zip(names, args, strict=False)) | kwargs
        self.call = tuple(bound[key] for key in ("input", "weight", "stride", "padding", "dilation", "groups"))
        raise _Caught


@torch.no_grad()
def _call_of(module: Any, inputs: Tensor) -> tuple[Any, ...] | None:
    catch = _Catch()
    try:
        with catch:
            # Forward alone and not the call: hooks on the module must not see this run.
            type(module).forward(module, inputs)
    except _Caught:
        pass
    return catch.call


def _each(value: Any, axes: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (int(value),) * axes


def _amounts(padding: Any, dilation: tuple[int, ...], kernel: tuple[int, ...]) -> list[tuple[int, int]]:
    """Zeros before and after every axis."""
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    if padding == "same":
        totals = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(amount, amount) for amount in _each(padding, len(kernel))]


def taps(module: Any) -> int:
    """Entries of a layer's kernel, 1 for a linear layer."""
    return 1 if isinstance(module, nn.Linear) else math.prod(module.kernel_size)

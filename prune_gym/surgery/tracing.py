"""Preparation for tracing and cutting: inputs a network accepts, and copies that gradients can be traced through."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from hessian.support.calling import call_model, tensors_in
from prune_gym.support.device import module_device

_IMAGENET_SHAPE = (1, 3, 224, 224)


def random_image(model: nn.Module) -> Tensor:
    """An input to try when none is given: [1, 3, 224, 224] of the model's dtype, on its device."""
    image = torch.randn(_IMAGENET_SHAPE, generator=torch.Generator().manual_seed(0))
    dtype = next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), image.dtype)
    return image.to(device=module_device(model), dtype=dtype)


def plain(example_input: Any) -> Any:
    """Return the input free of autograd history; an inference tensor could not be traced."""
    return _pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), example_input)


def check_devices(model: nn.Module, example_input: Any) -> None:
    """Check that the input is where the model is.

    Raises:
        ValueError: a tensor of it is on another device.
    """
    device = module_device(model)
    for tensor in _pytree.tree_leaves(example_input):
        if isinstance(tensor, Tensor) and tensor.device != device:
            raise ValueError(
                f"example_input is on {tensor.device} but the model on {device}; pass example_input.to({str(device)!r})"
            )


def trainable_copy(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode whose parameters all require gradients: a frozen one would cut the trace short.

    Raises:
        ValueError: If the model cannot be copied; what to do is said.
    """
    try:
        duplicate = copy.deepcopy(model)
    except RuntimeError as error:
        raise ValueError(
            f"{type(model).__name__} cannot be copied ({error}); remove reparametrisations first "
            "(torch.nn.utils.remove_weight_norm, prune.remove, parametrize.remove_parametrizations)"
        ) from error
    return duplicate.eval().requires_grad_(True)


def restore_properties(pruned: nn.Module, original: nn.Module) -> None:
    """Give a copy what cutting does not keep: modes, ``requires_grad`` and memory format."""
    for module, dense in zip(pruned.modules(), original.modules(), strict=True):
        module.training = dense.training
    parameters = dict(original.named_parameters(remove_duplicate=False))
    for name, parameter in pruned.named_parameters():
        parameter.requires_grad_(parameters[name].requires_grad)
        if is_channels_last(parameters[name]):
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def is_channels_last(tensor: Tensor) -> bool:
    """Return whether a tensor is channels last and not, as a 1x1 kernel is, both formats at once."""
    channels_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return channels_last and not tensor.is_contiguous()


def in_format_of(model: nn.Module, example_input: Any) -> Any:
    """The input in the model's memory format: a mismatch would be converted, and timed, in every pass."""
    if not any(is_channels_last(parameter) for parameter in model.parameters()):
        return example_input
    return _pytree.tree_map_only(
        Tensor,
        lambda tensor: tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor,
        example_input,
    )


def outputs(model: nn.Module, example_input: Any) -> list[Tensor]:
    """All tensors the model returns."""
    return tensors_in(call_model(model, example_input))


def output_shapes(model: nn.Module, example_input: Any) -> list[tuple[int, ...]]:
    """Shapes of all tensors the model returns.

    Raises:
        ValueError: If the model does not run on the input.
    """
    try:
        return [tuple(output.shape) for output in outputs(model, example_input)]
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        shapes = [list(leaf.shape) for leaf in _pytree.tree_leaves(example_input) if isinstance(leaf, Tensor)]
        raise ValueError(
            f"{type(model).__name__} does not run on an example input of shape {shapes}: {error}; "
            "pass example_input=<a batch the model accepts>"
        ) from error


def sizes_depend_on_data(model: nn.Module, example_input: Any) -> bool:
    """Return whether values decide how large some tensor is: a detector's boxes, picked by a mask of their scores."""
    with torch.no_grad(), _SizesFromData() as seen:
        call_model(model, example_input)
    return seen.any


class _SizesFromData(TorchDispatchMode):
    """Looks for operators whose results' sizes depend on values."""

    any = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.dynamic_output_shape in func.tags:
            indices = [leaf for leaf in _pytree.tree_leaves(args) if isinstance(leaf, Tensor)]
            # an index of numbers has the size of these numbers, only one of truth values has not
            self.any |= not func._schema.name.startswith("aten::index") or any(_is_mask(index) for index in indices[1:])
        return func(*args, **(kwargs or {}))


def _is_mask(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.bool, torch.uint8)

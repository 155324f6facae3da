"""Places of tensors in memory: layout of feature maps and convolution weights, copies to a device."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

Layout = Callable[[Tensor], Tensor]


def preferred_layout(tensor: Tensor) -> Tensor:
    """The same tensor as its device computes fastest on narrow layers: channels last for 4-D tensors on CPUs."""
    if tensor.ndim == 4 and tensor.device.type == "cpu":
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor


def runs_on(model: nn.Module, inputs: Tensor) -> bool:
    """Return whether a network runs on inputs as they lie in memory; a ``view`` in it may refuse channels last."""
    try:
        with torch.no_grad():
            model(inputs)
    except RuntimeError:
        return False
    return True


def layout_for(model: nn.Module, example_input: Tensor) -> Layout:
    """:func:`preferred_layout` where a network runs with maps and weights laid out so, else tensors as they are.

    Args:
        model: not modified.
        example_input: a tensor it accepts.
    """
    trial = copy.deepcopy(model).eval()
    for parameter in trial.parameters():
        parameter.data = preferred_layout(parameter.data)
    return preferred_layout if runs_on(trial, preferred_layout(example_input)) else unchanged


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; the host does not wait for a GPU that is still at work.

    For what nobody overwrites meanwhile (indices, images just gathered): PyTorch waits for the whole queue before it
    copies, unless it is told not to. On MPS it would go on before the memory was read.
    """
    return tensor.to(device, non_blocking=device.type == "cuda" and tensor.device.type == "cpu")


def in_float64(tensor: Tensor) -> Tensor:
    """The tensor in float64: where it is, or on the CPU where its device has no such type (MPS)."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def unchanged(tensor: Tensor) -> Tensor:
    """The tensor itself."""
    return tensor

"""Convolutions that add and rectify while they write: a forward pass in fewer walks through memory, on CPUs.

A convolution's result rarely fits a cache, and a sum or a ReLU behind it reads and writes all of it again. The oneDNN
kernels that come with PyTorch do both before the result is written. What is fused:

=======================  ============================================================
convolution, activation  the activation is ReLU, ReLU6, SiLU or Hardswish
convolution, sum         with a tensor of the convolution's output shape
convolution, sum, ReLU   the same, as residual blocks end
=======================  ============================================================

Fuse *after* batch norms are folded away (:mod:`prune_gym.folding`): one in between hides the pattern.
"""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from hessian.channels import UnsupportedStructureError
from hessian.lockstep import is_addition, trace
from prune_gym.device import module_device

_TOLERANCE = 1e-4
"""Largest difference fusing may make to the outputs, relative to their largest entry."""


@dataclass(frozen=True)
class Activation:
    """An elementwise function as oneDNN knows it.

    Attributes:
        name: what oneDNN calls it; ``"none"`` does nothing.
        constants: its bounds.
    """

    name: str
    constants: tuple[float, ...] = ()


_NONE, _RELU = Activation("none"), Activation("relu")
_RELU6, _SILU, _HARDSWISH = Activation("hardtanh", (0.0, 6.0)), Activation("swish"), Activation("hardswish")

_ACTIVATIONS: dict[Any, Activation] = {
    **dict.fromkeys((nn.ReLU, F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), _RELU),
    **dict.fromkeys((nn.ReLU6, F.relu6), _RELU6),
    **dict.fromkeys((nn.SiLU, F.silu), _SILU),
    **dict.fromkeys((nn.Hardswish, F.hardswish), _HARDSWISH),
}
"""Module type, function or method -> what it is."""

_IN_PLACE_SUMS = (operator.iadd, "add_")


class FusedConv2d(nn.Conv2d):
    """A convolution and what directly follows it.

    Args:
        conv: a zero-padded convolution; its parameters are shared.
        activation: what follows.
    """

    def __init__(self, conv: nn.Conv2d, activation: Activation) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            cast("tuple[int, int]", conv.kernel_size),
            cast("tuple[int, int]", conv.stride),
            cast("tuple[int, int]", conv.padding),
            cast("tuple[int, int]", conv.dilation),
            conv.groups,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.activation = activation
        self.train(conv.training)

    def forward(self, input: Tensor, other: Tensor | None = None) -> Tensor:
        """The activation of the convolution, of its sum with the other tensor where there is one.

        Args:
            input: [N, in, H, W].
            other: [N, out, H', W'], as the output.
        """
        operators: Any = torch.ops.mkldnn._convolution_pointwise
        geometry = self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        name, constants = self.activation.name, self.activation.constants
        if other is None:
            return cast("Tensor", operators.default(input, *geometry, name, constants, ""))
        unary = (None, [], None) if self.activation == _NONE else (name, constants, "")
        return cast("Tensor", operators.binary(input, other, *geometry, "add", 1.0, *unary))


def fused(model: nn.Module, example_input: Tensor) -> nn.Module:
    """A network with its convolutions fused where that can be done, else the network itself.

    Its tensors have the same names, and can be swapped as the network's (:func:`hessian.slicing.installed`).

    Args:
        model: a network in evaluation mode; returned as it is unless it is float32 on a CPU, can be traced, uses all
            its parameters and computes the same when fused.
        example_input: a tensor the model accepts.
    """
    images = example_input.to(module_device(model)).repeat(2, *[1] * (example_input.ndim - 1))
    if not (kernels_present() and _is_plain_float(model, images)):
        return model
    try:
        network = trace(model)
    except UnsupportedStructureError:
        return model
    _drop_identities(network)
    with torch.no_grad():
        # Two images: what is as large as one image's maps must not be taken for maps.
        ShapeProp(network).propagate(images.clone())
    if not _fuse_all(network) or network.state_dict().keys() != model.state_dict().keys():
        return model
    return network if _agree(network, model, images) else model


def kernels_present() -> bool:
    """Whether this PyTorch has oneDNN's fused convolutions and may use them."""
    usable = torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled()
    return bool(usable and hasattr(torch.ops.mkldnn, "_convolution_pointwise"))


def _is_plain_float(model: nn.Module, images: Tensor) -> bool:
    return all(
        tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in (images, *model.parameters())
    )


@torch.no_grad()
def _agree(network: nn.Module, model: nn.Module, images: Tensor) -> bool:
    """Whether both compute the same: not where an operation in place changes what a later convolution reads."""
    expected, given = model(images.clone()), network(images.clone())
    return bool((given - expected).abs().max() <= _TOLERANCE * expected.abs().max())


# ---------------------------------------------------------------------- finding


@dataclass(frozen=True, eq=False)
class _Pattern:
    """Nodes that become one: a convolution, what follows it, and the other operand of its sum."""

    conv: fx.Node
    followers: tuple[fx.Node, ...]
    other: fx.Node | None
    activation: Activation


def _pattern(conv: fx.Node, modules: dict[str, nn.Module]) -> _Pattern | None:
    follower = _only_user(conv)
    if follower is None:
        return None
    activation = _activation(follower, modules)
    if activation is not None:
        return _Pattern(conv, (follower,), None, activation)
    if not _is_sum_of_maps(follower):
        return None
    first, second = cast("tuple[fx.Node, fx.Node]", follower.args)
    other = second if first is conv else first
    last = _only_user(follower)
    if last is not None and _activation(last, modules) == _RELU:
        return _Pattern(conv, (follower, last), other, _RELU)
    return _Pattern(conv, (follower,), other, _NONE)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _activation(node: fx.Node, modules: dict[str, nn.Module]) -> Activation | None:
    kind = type(modules[str(node.target)]) if node.op == "call_module" else node.target
    if node.op not in ("call_module", "call_function", "call_method") or len(node.args) != 1:
        return None
    return _ACTIVATIONS.get(kind) if node.kwargs.keys() <= {"inplace"} else None


def _is_sum_of_maps(node: fx.Node) -> bool:
    """Whether a node adds two different tensors of one shape and changes neither that anything else reads."""
    if not is_addition(node) or node.kwargs or len(node.args) != 2:
        return False
    first, second = cast("tuple[fx.Node, fx.Node]", node.args)
    if node.target in _IN_PLACE_SUMS and len(first.users) > 1:
        return False
    shapes = [getattr(operand.meta.get("tensor_meta"), "shape", None) for operand in (first, second)]
    return first is not second and shapes[0] is not None and shapes[0] == shapes[1]


# ---------------------------------------------------------------------- replacing


def _drop_identities(network: fx.GraphModule) -> None:
    """Take out what does nothing in evaluation mode: folding leaves an Identity where a batch norm was."""
    modules = dict(network.named_modules())
    for node in list(network.graph.nodes):
        if node.op == "call_module" and isinstance(modules[node.target], (nn.Identity, nn.Dropout)):
            node.replace_all_uses_with(node.all_input_nodes[0])
            network.graph.erase_node(node)
    network.recompile()


def _fuse_all(network: fx.GraphModule) -> bool:
    """Fuse in place, in execution order; whether there was anything to fuse."""
    modules = dict(network.named_modules())
    calls = Counter(node.target for node in network.graph.nodes if node.op == "call_module")
    found = False
    for node in list(network.graph.nodes):
        if node.op == "call_module" and calls[node.target] == 1 and _is_plain_convolution(node, modules):
            pattern = _pattern(node, modules)
            if pattern is not None:
                _replace(network, pattern)
                found = True
    network.graph.lint()
    network.recompile()
    return found


def _is_plain_convolution(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node does to one tensor [N, in, H, W] what a zero-padded ``nn.Conv2d`` does, and nothing else."""
    conv = modules[str(node.target)]
    return (
        type(conv) is nn.Conv2d
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and not (conv._forward_hooks or conv._forward_pre_hooks)
        and len(node.args) == 1
        and len(node.meta["tensor_meta"].shape) == 4
    )


def _replace(network: fx.GraphModule, pattern: _Pattern) -> None:
    """Put one fused call where the pattern's sum is (or its convolution, where there is none)."""
    target = str(pattern.conv.target)
    owner, _, name = target.rpartition(".")
    conv = cast("nn.Conv2d", network.get_submodule(target))
    setattr(network.get_submodule(owner), name, FusedConv2d(conv, pattern.activation))
    arguments = pattern.conv.args if pattern.other is None else (*pattern.conv.args, pattern.other)
    with network.graph.inserting_before(pattern.followers[0]):
        call = network.graph.call_module(target, arguments)
    call.meta = pattern.conv.meta
    pattern.followers[-1].replace_all_uses_with(call)
    for node in (*reversed(pattern.followers), pattern.conv):
        network.graph.erase_node(node)

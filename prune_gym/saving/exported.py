"""A network out of a ``torch.export`` archive: its operators become modules again, which can be pruned.

An exported graph calls operators with weights as arguments. Here every convolution, linear map and batch norm of the
graph is a module of its kind again, under the name its weights have; everything else stays the operator it is.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

ATEN = torch.ops.aten

CONVOLUTIONS: dict[Any, Callable[..., nn.Module]] = {
    ATEN.conv1d.default: nn.Conv1d,
    ATEN.conv2d.default: nn.Conv2d,
    ATEN.conv3d.default: nn.Conv3d,
}
_PLAIN = {ATEN.relu_.default: ATEN.relu.default, ATEN.add_.Tensor: ATEN.add.Tensor}
"""Operators that write into their input, and those that do not."""


class ExportedError(ValueError):
    """An archive that no network can be made of."""


def exported_network(path: str | os.PathLike[str]) -> nn.Module:
    """The network of an archive that ``torch.export.save`` wrote.

    ``torch.export.load`` unpickles parts of the file and may so run code in it: read only files you trust.

    Args:
        path: ``*.pt2``.

    Returns:
        A network in evaluation mode, with the weights' names of the one that was exported.

    Raises:
        FileNotFoundError: no such file.
        ExportedError: not such an archive, or a graph without convolutions.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no archive {os.fspath(path)}")
    if not zipfile.is_zipfile(path):
        raise ExportedError(
            f"{os.fspath(path)} cannot be read as a torch.export archive: it is no zip file, or cut short"
        )
    try:
        program = torch.export.load(path)
    except (RuntimeError, ValueError, KeyError, AttributeError, OSError) as error:
        raise ExportedError(f"{os.fspath(path)} cannot be read as a torch.export archive: {error}") from error
    return network_of(program)


def network_of(program: torch.export.ExportedProgram) -> nn.Module:
    """The network of an exported program, with modules for what has weights.

    Raises:
        ExportedError: the graph has no convolution or linear map.
    """
    model: Any = program.module()
    found = 0
    for node in list(model.graph.nodes):
        if node.op == "call_module" and "guard" in str(node.target):
            model.graph.erase_node(node)  # checks of input shapes that the export made
        elif node.op == "call_function":
            node.target = _PLAIN.get(node.target, node.target)
            module = _module_of(model, node)
            if module is not None:
                found += 1
                _replace(model, node, *module)
    if not found:
        raise ExportedError("the exported graph has no convolution or linear map with weights of its own")
    model.graph.eliminate_dead_code()
    network = fx.GraphModule(model, model.graph)
    network.delete_all_unused_submodules()
    network.train(False)
    # Counters of batch norms are no arguments of the operators.
    own = network.state_dict()
    network.load_state_dict({name: value for name, value in program.state_dict.items() if name in own}, strict=False)
    return network


def _module_of(model: nn.Module, node: fx.Node) -> tuple[str, nn.Module] | None:
    """Name and module that compute what a node does; None where it has no weights of its own."""
    given = node.args
    if len(given) < 2 or not isinstance(given[1], fx.Node) or given[1].op != "get_attr":
        return None
    name, _, _ = str(given[1].target).rpartition(".")
    if node.target in CONVOLUTIONS:
        return name, _convolution(model, node)
    if node.target == ATEN.linear.default:
        weight, bias = _tensor(model, given[1]), _tensor(model, _at(node, 2))
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
        return name, _filled(linear, weight=weight, bias=bias)
    if node.target == ATEN.batch_norm.default:
        weight, bias, mean, variance = (_tensor(model, _at(node, place)) for place in range(1, 5))
        norm = nn.BatchNorm2d(len(weight), eps=float(_at(node, 7)), momentum=float(_at(node, 6)))
        return name, _filled(norm, weight=weight, bias=bias, running_mean=mean, running_var=variance)
    return None


def _convolution(model: nn.Module, node: fx.Node) -> nn.Module:
    weight, bias = _tensor(model, node.args[1]), _tensor(model, _at(node, 2))
    groups = int(_at(node, 6, 1))
    layer = CONVOLUTIONS[node.target](
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=_sizes(node, 3, 1),
        padding=_sizes(node, 4, 0),
        dilation=_sizes(node, 5, 1),
        groups=groups,
        bias=bias is not None,
    )
    return _filled(layer, weight=weight, bias=bias)


def _at(node: fx.Node, place: int, default: Any = None) -> Any:
    return node.args[place] if len(node.args) > place else default


def _sizes(node: fx.Node, place: int, default: int) -> Any:
    value = _at(node, place, default)
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _tensor(model: nn.Module, node: Any) -> Any:
    """The weights a node names; None for none."""
    if not isinstance(node, fx.Node):
        return None
    found: Any = model
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found


@torch.no_grad()
def _filled(module: nn.Module, **tensors: Tensor | None) -> nn.Module:
    for name, tensor in tensors.items():
        if tensor is not None:
            getattr(module, name).copy_(tensor)
    return module.eval()


def _replace(model: Any, node: fx.Node, name: str, module: nn.Module) -> None:
    """Call the module in place of the operator."""
    model.add_submodule(name, module)
    with model.graph.inserting_before(node):
        call = model.graph.call_module(name, (node.args[0],))
    node.replace_all_uses_with(call)
    model.graph.erase_node(node)

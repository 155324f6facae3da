"""A network as a two-level computational graph: operations, and the blocks they make up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from hessian.channels.group import ChannelGroup, UnsupportedStructureError
from hessian.channels.layer_types import CONV_TYPES, NORM_TYPES, is_depthwise
from hessian.channels.slicing import NetworkSlicer
from prune_gym.cost.limits import FloatArray
from prune_gym.cost.model import CostModel

KINDS = ("convolution", "depthwise", "linear", "norm", "sum", "concatenation", "other")
NUM_FEATURES = len(KINDS) + 4
ADDITIONS = ("add", "add_", "iadd")


@dataclass(frozen=True, eq=False)
class NetworkGraph:
    """Operations and blocks of a network.

    Attributes:
        operations: [N, N], normalised adjacency ``D^-1/2 (A + I) D^-1/2`` of operations (Kipf & Welling, ICLR 2017).
        blocks: [B, B], the same of blocks: modules that hold operations directly.
        membership: [B, N], row b averages over the operations of block b.
        kinds: [N, len(KINDS)], one-hot.
        width: [N], logarithm of the operation's output channels, 0 for parameter-free ones.
        out_layer: [N], layer of its output channels, or -1.
        in_layers: [N, L], share each layer has in its inputs.
        flops: [N], share of the dense network's FLOPs.
    """

    operations: Tensor
    blocks: Tensor
    membership: Tensor
    kinds: Tensor
    width: Tensor
    out_layer: FloatArray
    in_layers: FloatArray
    flops: FloatArray

    def features(self, kept: FloatArray) -> Tensor:
        """State of the graph at some kept shares: [L] -> float [N, NUM_FEATURES].

        What an operation is, how wide it was, which shares of its inputs and outputs are left, and its share of the
        FLOPs.
        """
        outputs = np.where(self.out_layer >= 0, kept[self.out_layer.astype(int)], 1.0)
        inputs = np.where(self.in_layers.any(axis=1), self.in_layers @ kept, 1.0)
        left = self.flops * inputs * outputs
        columns = np.stack([outputs, inputs, left / max(left.sum(), 1e-12)], axis=1)
        return torch.cat([self.kinds, self.width[:, None], torch.from_numpy(columns).float()], dim=1)


def network_graph(model: nn.Module, groups: Sequence[ChannelGroup], cost: CostModel) -> NetworkGraph:
    """Trace a network into its graph.

    Raises:
        UnsupportedStructureError: its forward cannot be traced.
    """
    nodes = list(trace(model).graph.nodes)
    modules = dict(model.named_modules())
    index = {node: position for position, node in enumerate(nodes)}
    edges = [(index[source], index[node]) for node in nodes for source in node.all_input_nodes]
    homes = _blocks(nodes)
    names = sorted(set(homes))
    home = np.array([names.index(name) for name in homes])
    membership = np.zeros((len(names), len(nodes)))
    membership[home, np.arange(len(nodes))] = 1.0
    membership /= membership.sum(axis=1, keepdims=True)
    kinds = torch.zeros(len(nodes), len(KINDS))
    for position, node in enumerate(nodes):
        kinds[position, KINDS.index(_kind(node, modules))] = 1.0
    out_layer, in_layers = _layers(nodes, model, groups)
    return NetworkGraph(
        operations=_normalised(edges, len(nodes)),
        blocks=_normalised([(home[a], home[b]) for a, b in edges], len(names)),
        membership=torch.from_numpy(membership).float(),
        kinds=kinds,
        width=torch.tensor([_log_width(modules.get(str(node.target))) for node in nodes]),
        out_layer=out_layer,
        in_layers=in_layers,
        flops=_flops(nodes, modules, cost),
    )


def _blocks(nodes: Sequence[fx.Node]) -> list[str]:
    """The module each operation belongs to; a plain function belongs where its first input does."""
    homes: dict[fx.Node, str] = {}
    for node in nodes:
        if node.op in ("call_module", "get_attr"):
            homes[node] = str(node.target).rpartition(".")[0]
        else:
            homes[node] = next((homes[source] for source in node.all_input_nodes), "")
    return list(homes.values())


def _kind(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    if is_addition(node):
        return "sum"
    if node.op == "call_function" and getattr(node.target, "__name__", "") in ("cat", "concat"):
        return "concatenation"
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, CONV_TYPES):
        return "depthwise" if is_depthwise(module) else "convolution"
    if isinstance(module, nn.Linear):
        return "linear"
    return "norm" if isinstance(module, NORM_TYPES) else "other"


def _log_width(module: nn.Module | None) -> float:
    weight = getattr(module, "weight", None)
    return float(np.log(len(weight))) if isinstance(weight, Tensor) and weight.ndim else 0.0


def _layers(
    nodes: Sequence[fx.Node], model: nn.Module, groups: Sequence[ChannelGroup]
) -> tuple[FloatArray, FloatArray]:
    slicer = NetworkSlicer(model, groups)
    order = {group.name: position for position, group in enumerate(groups)}
    out_layer, in_layers = np.full(len(nodes), -1.0), np.zeros((len(nodes), len(groups)))
    for position, node in enumerate(nodes):
        if node.op != "call_module":
            continue
        made = slicer.producing_layers(str(node.target))
        out_layer[position] = order[made[0]] if made else -1.0
        read = slicer.feeding_layers(str(node.target))
        for layer in read:
            in_layers[position, order[layer]] += 1.0 / len(read)
    return out_layer, in_layers


def _flops(nodes: Sequence[fx.Node], modules: dict[str, nn.Module], cost: CostModel) -> FloatArray:
    """Share of the dense FLOPs of every operation, from the sizes of its weights and of its output."""
    shares = np.zeros(len(nodes))
    for position, node in enumerate(nodes):
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, (*CONV_TYPES, nn.Linear)):
            shares[position] = 2.0 * module.weight.numel() * cost.positions.get(str(node.target), 1)
    return shares / cost.dense_flops


def _normalised(edges: Sequence[tuple[int, int]], count: int) -> Tensor:
    adjacency = torch.eye(count)
    for source, sink in edges:
        adjacency[source, sink] = adjacency[sink, source] = 1.0
    scale = adjacency.sum(dim=1).rsqrt()
    return scale[:, None] * adjacency * scale


class _LayerTracer(fx.Tracer):
    """Keeps layers with parameters whole, also those defined outside ``torch.nn``."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        has_parameters = next(m.parameters(recurse=False), None) is not None
        is_layer = has_parameters and next(m.children(), None) is None
        return is_layer or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.GraphModule:
    """The network as a graph of operations; put it in evaluation mode first.

    Raises:
        UnsupportedStructureError: its forward has data-dependent control flow.
    """
    try:
        return fx.GraphModule(model, _LayerTracer().trace(model))
    except (fx.proxy.TraceError, RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedStructureError(
            f"{type(model).__name__} cannot be traced into a graph of operations ({error}), which this method reads"
        ) from error


def is_addition(node: fx.Node) -> bool:
    """Return whether a node adds two tensors."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    operands = [argument for argument in node.args if isinstance(argument, fx.Node)]
    return node.op in ("call_function", "call_method") and name in ADDITIONS and len(operands) == 2

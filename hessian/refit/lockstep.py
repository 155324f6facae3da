"""Run two networks of the same architecture side by side, operation by operation, over a whole calibration set.

The networks are traced once (``torch.fx``). Every operation is executed for all calibration batches before the next one
starts, and values are dropped after their last use, so one walk costs one forward pass of each network whatever its
depth, and memory holds only the values that are alive at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn

from hessian.channels.group import UnsupportedStructureError
from hessian.channels.layer_types import MIXING_TYPES
from hessian.support.layout import preferred_layout

ADDITIONS = ("add", "add_", "iadd")
TRANSPARENT_NAMES = ("Dropout", "Identity", "StochasticDepth")


class _LayerTracer(fx.Tracer):
    """Keeps layers with parameters whole, also those defined outside ``torch.nn``.

    What their forward reads of themselves (``normalized_shape``, ...) changes between walks.
    """

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
            f"{type(model).__name__} cannot be traced into a graph of operations ({error}); use the closed-form refit"
        ) from error


def is_addition(node: fx.Node) -> bool:
    """Whether a node adds two tensors."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name in ADDITIONS and len(_tensor_args(node)) == 2


def weighted_depth(node: fx.Node, modules: dict[str, nn.Module], memo: dict[fx.Node, int]) -> int:
    """Largest number of weighted layers on a path from the input to a node."""
    stack = [node]
    while stack:
        current = stack[-1]
        missing = [parent for parent in current.all_input_nodes if parent not in memo]
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        own = int(current.op == "call_module" and isinstance(modules[str(current.target)], MIXING_TYPES))
        memo[current] = own + max((memo[parent] for parent in current.all_input_nodes), default=0)
    return memo[node]


def execution_order(graph: fx.Graph, modules: dict[str, nn.Module]) -> list[fx.Node]:
    """Topological order in which the shallower operand of every sum is ready before the deeper one is finished."""
    memo: dict[fx.Node, int] = {}
    order: list[fx.Node] = []
    done: set[fx.Node] = set()
    outputs = [node for node in graph.nodes if node.op == "output"]
    stack: list[tuple[fx.Node, bool]] = [(node, False) for node in outputs]
    while stack:
        node, expanded = stack.pop()
        if node in done:
            continue
        if expanded:
            done.add(node)
            order.append(node)
            continue
        stack.append((node, True))
        parents = sorted(node.all_input_nodes, key=lambda parent: weighted_depth(parent, modules, memo), reverse=True)
        stack.extend((parent, False) for parent in parents if parent not in done)
    return order


def closing_sum(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[str | None, fx.Node] | None:
    """The residual sum that a layer's output goes straight into, if its own branch is the deeper operand.

    Args:
        node: the layer's node.
        modules: modules by qualified name.

    Returns:
        (name of the BatchNorm in between or None, the other operand), or None where there is no such sum.
    """
    norm: str | None = None
    current = node
    while len(current.users) == 1:
        (user,) = current.users
        if is_addition(user):
            first, second = _tensor_args(user)
            other = second if first is current else first
            memo: dict[fx.Node, int] = {}
            deeper = weighted_depth(current, modules, memo) > weighted_depth(other, modules, memo)
            return (norm, other) if deeper else None
        if user.op != "call_module":
            return None
        module = modules[str(user.target)]
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and norm is None and current is node:
            norm = str(user.target)
        elif not type(module).__name__.startswith(TRANSPARENT_NAMES):
            return None
        current = user
    return None


def _tensor_args(node: fx.Node) -> list[fx.Node]:
    return [argument for argument in node.args if isinstance(argument, fx.Node)]


class Walker:
    """Values of one network at the current operation, for every batch.

    Args:
        model: the network; its modules are called live, so weights may change during the walk.
        order: the nodes to execute, from a graph of the same architecture.
        batches: network inputs.
    """

    def __init__(self, model: nn.Module, order: Sequence[fx.Node], batches: Sequence[Tensor]) -> None:
        self.modules: dict[str, Any] = dict(model.named_modules())
        self.constants = dict(model.named_parameters()) | dict(model.named_buffers())
        self.batches = batches
        self.values: list[dict[fx.Node, Any]] = [{} for _ in batches]
        self._last_use: dict[fx.Node, list[fx.Node]] = {}
        last = {parent: node for node in order for parent in node.all_input_nodes}
        for parent, node in last.items():
            self._last_use.setdefault(node, []).append(parent)

    def value(self, node: fx.Node) -> list[Any]:
        """What an executed node gave, batch by batch."""
        return [values[node] for values in self.values]

    def has(self, node: fx.Node) -> bool:
        """Whether a node is executed and its value still alive."""
        return all(node in values for values in self.values)

    def step(self, node: fx.Node) -> None:
        """Execute a node for every batch."""
        for batch, values in zip(self.batches, self.values, strict=True):
            values[node] = self._call(node, values, batch)

    def release(self, node: fx.Node) -> None:
        """Drop values whose last use was this node."""
        for values in self.values:
            for parent in self._last_use.get(node, []):
                values.pop(parent, None)

    def live_bytes(self) -> int:
        """Memory held by live values."""
        return sum(
            value.numel() * value.element_size()
            for values in self.values
            for value in values.values()
            if isinstance(value, Tensor)
        )

    def _call(self, node: fx.Node, values: dict[fx.Node, Any], batch: Tensor) -> Any:
        if node.op == "placeholder":
            return batch
        if node.op == "get_attr":
            return self.constants[str(node.target)]
        arguments = fx.node.map_arg(node.args, values.__getitem__)
        keywords = fx.node.map_arg(node.kwargs, values.__getitem__)
        if node.op == "call_module":
            return self.modules[str(node.target)](*arguments, **keywords)
        if node.op == "call_method":
            return getattr(arguments[0], str(node.target))(*arguments[1:], **keywords)
        if node.op == "output":
            return arguments[0]
        assert callable(node.target)
        return node.target(*arguments, **keywords)


class ValueStore:
    """Values of chosen nodes of a fixed network, computed in one walk and kept.

    Args:
        model: the network.
        order: the nodes to execute.
        batches: network inputs.
        wanted: nodes whose values are kept.
        limit: bytes; past it nothing is kept and :attr:`complete` is False.
    """

    def __init__(
        self, model: nn.Module, order: Sequence[fx.Node], batches: Sequence[Tensor], wanted: set[fx.Node], limit: int
    ) -> None:
        self.complete = True
        self._kept: dict[fx.Node, list[Any]] = {}
        walker, size = Walker(model, order, batches), 0
        for node in order:
            walker.step(node)
            if node in wanted:
                # Cloned: later in-place operations may overwrite the tensor.
                self._kept[node] = [preferred_layout(value.clone()) for value in walker.value(node)]
                size += sum(value.numel() * value.element_size() for value in self._kept[node])
            walker.release(node)
            if size > limit:
                self.complete, self._kept = False, {}
                return

    def value(self, node: fx.Node) -> list[Any]:
        """The node's values, batch by batch."""
        return self._kept[node]

    def has(self, node: fx.Node) -> bool:
        """Whether the node was kept."""
        return node in self._kept

    def step(self, node: fx.Node) -> None:
        """Nothing to do: everything wanted is there."""

    def release(self, node: fx.Node) -> None:
        """Nothing to drop."""

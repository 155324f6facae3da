"""One run of a network: what it calls, in which order, and which dimensions depend on each other."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from hessian.channels.group import UnsupportedStructureError
from hessian.channels.layer_types import MIXING_TYPES


def execution_order(model: nn.Module, example_input: Any, ignored: set[str]) -> dict[str, int]:
    """Rank of every weighted module's first call; refuses modules that run more than once."""
    calls: dict[str, int] = {}
    order: dict[str, int] = {}

    def record(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            order.setdefault(name, len(order))

        return hook

    handles = [
        module.register_forward_pre_hook(record(name))
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    try:
        with torch.no_grad():
            model(*example_input) if isinstance(example_input, (tuple, list)) else model(example_input)
    finally:
        for handle in handles:
            handle.remove()
    repeated = [name for name, count in calls.items() if count > 1 and name not in ignored]
    if repeated:
        raise UnsupportedStructureError(
            f"module {repeated[0]!r} runs {calls[repeated[0]]} times in one forward pass; its channels cannot be "
            f"priced independently. Put it in ignored_layers={repeated!r}"
        )
    return order


def refuse_attention(model: nn.Module, ignored: set[str]) -> None:
    """Refuse fused attention outside the ignored modules: its projections cannot be cut."""
    fused = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    fused = [name for name in fused if name not in ignored]
    if fused:
        raise UnsupportedStructureError(
            f"{fused[0]!r} is fused attention (nn.MultiheadAttention), which is not pruned. "
            f"Put it in ignored_layers={fused!r}"
        )


def _build_graph(model: nn.Module, example_input: Any) -> Any:
    import torch_pruning as tp

    # A bare tensor would first be tried as *x, one image an argument.
    example_input = (example_input,) if isinstance(example_input, Tensor) else tuple(example_input)
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return tp.DependencyGraph().build_dependency(model, example_inputs=example_input, verbose=False)
        except ZeroDivisionError as error:
            culprits = _static_reshapes(model)
            raise UnsupportedStructureError(
                "the network reshapes its channel dimension with sizes fixed in code (a channel shuffle, as in "
                f"{culprits or type(model).__name__}): its channels cannot be removed one by one. Prune a part of the "
                "network without such blocks instead (ignored_layers cannot help: the trace itself is inconsistent)"
            ) from error


def _static_reshapes(model: nn.Module) -> str:
    kinds = {type(module).__name__ for module in model.modules() if "shuffl" in type(module).__name__.lower()}
    return ", ".join(sorted(kinds))


def coupled_dimensions(model: nn.Module, example_input: Any) -> list[Any]:
    """torch-pruning's groups of dimensions that must be cut together, one a layer.

    They refer to the very modules of ``model``.

    Raises:
        UnsupportedStructureError: a channel dimension reshaped with sizes fixed in code.
    """
    graph = _build_graph(model, example_input)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(graph.get_all_groups(root_module_types=list(MIXING_TYPES)))

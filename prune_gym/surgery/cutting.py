"""Cutting channels out of a network with torch-pruning, and the checks that make its result trustworthy.

torch-pruning cuts each group of coupled channels in place and validates little. Two habits keep that safe here. All
groups are read from the *untouched* network and merged into one cut: every dimension of every module is cut once, in
the dense network's numbering, and the order of layers cannot matter. And every tensor of the result is compared with
the slices the channel groups predict.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hessian.channels.group import ChannelGroup, UnsupportedStructureError
from prune_gym.surgery.sizes import broken_promises


def remove_channels(
    model: nn.Module, example_input: Any, groups: Sequence[ChannelGroup], plan: Mapping[str, Sequence[int]]
) -> None:
    """Remove channels in place.

    Args:
        model: The network; all its parameters must require gradients, and autograd must be on.
        example_input: An input the network accepts.
        groups: Its prunable layers.
        plan: Layer name -> removed channel indices, checked beforehand.

    Raises:
        UnsupportedStructureError: If torch-pruning fails to cut a module.
    """
    modules = dict(model.named_modules())
    # Its own chatter about bare parameters and unknown operations: what matters of it is checked afterwards.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = _build_graph(model, example_input)
        raw_groups = [
            graph.get_pruning_group(
                modules[group.name],
                graph.get_pruner_of_module(modules[group.name]).prune_out_channels,
                group.producers[0].indices[list(plan[group.name])].reshape(-1).tolist(),
            )
            for group in groups
            if group.name in plan
        ]
        try:
            _merge(graph, raw_groups).prune(record_history=False)
        except (RuntimeError, IndexError, AssertionError, AttributeError) as error:
            raise UnsupportedStructureError(surgery_failed(f"torch-pruning failed: {error}")) from error


def check_against_prediction(model: nn.Module, predicted: Mapping[str, Tensor]) -> None:
    """Compare every tensor of a pruned network with the slices predicted from the channel groups.

    Args:
        model: The pruned network, not refitted yet.
        predicted: The expected state dict.

    Raises:
        UnsupportedStructureError: If a tensor is missing or differs in shape or value, or attributes contradict
            weights.
    """
    state = model.state_dict()
    problems = [f"{name} is {'missing' if name in predicted else 'unexpected'}" for name in state.keys() ^ predicted]
    for name in state.keys() & predicted:
        actual, expected = state[name], predicted[name]
        if actual.shape != expected.shape:
            problems.append(f"{name} became {list(actual.shape)} instead of {list(expected.shape)}")
        elif not _same_values(actual, expected):
            problems.append(f"{name} kept other channels than the plan says")
    problems = sorted(problems) + broken_promises(model)
    if problems:
        raise UnsupportedStructureError(surgery_failed("; ".join(problems[:3])))


def _same_values(actual: Tensor, expected: Tensor) -> bool:
    if torch.equal(actual, expected):
        return True
    return actual.is_floating_point() and torch.allclose(actual, expected, rtol=0, atol=0, equal_nan=True)


def surgery_failed(reason: str) -> str:
    """Return the message of a failed surgery, with what the user can do."""
    return (
        f"this network cannot be cut consistently by torch-pruning, so nothing was changed: {reason}. "
        "Put the layers concerned in ignored_layers"
    )


def _build_graph(model: nn.Module, example_input: Any) -> Any:
    import torch_pruning

    # Always a tuple: a bare tensor would first be tried unpacked, one image as one argument.
    inputs = tuple(example_input) if isinstance(example_input, (tuple, list)) else (example_input,)
    return torch_pruning.DependencyGraph().build_dependency(model, example_inputs=inputs, verbose=False)


def _merge(graph: Any, raw_groups: Sequence[Any]) -> Any:
    """Unite groups into one that cuts every dimension of every module once."""
    from torch_pruning.dependency import Group

    indices: dict[tuple[int, Any], set[int]] = {}
    dependencies: dict[tuple[int, Any], Any] = {}
    for raw in raw_groups:
        for dependency, positions in raw.items:
            key = (id(dependency.target), dependency.handler)
            dependencies.setdefault(key, dependency)
            indices.setdefault(key, set()).update(positions)
    merged = Group()
    merged._DG = graph
    for key, dependency in dependencies.items():
        merged.add_dep(dependency, sorted(indices[key]))
    return merged

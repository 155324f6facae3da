"""Calling a network on an example, and leaving it as it was."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree


def call_model(model: nn.Module, example_input: Any) -> Any:
    """Call a network: a tuple or list holds its arguments; so does a mapping whose keys are names of its parameters.

    Args:
        model: the network.
        example_input: a tensor, a tuple of arguments, a mapping of keyword arguments, or any other single argument.
    """
    if isinstance(example_input, (tuple, list)) and not hasattr(example_input, "_fields"):
        if _takes_one_list(model, example_input):
            return model(example_input)
        return model(*example_input)
    if isinstance(example_input, Mapping) and _are_keywords(model, example_input):
        return model(**example_input)
    return model(example_input)


def _takes_one_list(model: nn.Module, given: Any) -> bool:
    """Return whether a list is what the network calls its one input (torchvision's detectors: a list of images)."""
    if not isinstance(given, list):
        return False
    required = [
        parameter
        for parameter in inspect.signature(model.forward).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return bool(required) and "list" in str(required[0].annotation).lower()


def _are_keywords(model: nn.Module, given: Mapping[Any, Any]) -> bool:
    parameters = inspect.signature(model.forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return all(isinstance(key, str) for key in given)
    return set(given) <= set(parameters)


def first_sample(example_input: Any) -> Any:
    """The example with only the first sample of every batch in it; a list of images keeps its first image."""
    if isinstance(example_input, Tensor):
        return example_input[:1] if example_input.ndim else example_input
    if isinstance(example_input, list):
        return example_input[:1] if _holds_images(example_input) else [*map(first_sample, example_input)]
    if isinstance(example_input, tuple) and not hasattr(example_input, "_fields"):
        return tuple(map(first_sample, example_input))
    if isinstance(example_input, Mapping):
        return {key: first_sample(value) for key, value in example_input.items()}
    return example_input


def _holds_images(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, Tensor) and value.ndim == 3 for value in values)


@contextmanager
def state_kept(model: nn.Module) -> Iterator[None]:
    """Inside, the network may run in any mode; afterwards buffers, modes and random numbers are as they were.

    Automatic casts (``torch.autocast``) are off: they differ by more than what is compared, and are remembered.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=[device.index or 0 for device in devices]), _full_precision():
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            for module, name, buffer, _ in buffers:
                module._buffers[name] = buffer
            _restore([(buffer, value) for *_, buffer, value in buffers if buffer.shape == value.shape])


@torch.no_grad()
def _restore(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Give tensors their values back, those that changed; looked at together, as a look waits for the device."""
    if not pairs:
        return
    device = pairs[0][0].device
    changed = torch.stack([(tensor != value).any().to(device) for tensor, value in pairs]).tolist()
    for (tensor, value), differs in zip(pairs, changed, strict=True):
        if differs:
            tensor.copy_(value)


@contextmanager
def _full_precision() -> Iterator[None]:
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


@contextmanager
def training_outside_leaves(model: nn.Module) -> Iterator[None]:
    """Inside, modules with children think that they train, and leaves (normalisations, dropout) that they do not.

    So heads that run in training only do run, and nothing is random or estimated anew.
    """
    containers = [module for module in model.modules() if next(module.children(), None) is not None]
    before = [(module, module.training) for module in containers]
    try:
        for module in containers:
            module.training = True
        yield
    finally:
        for module, training in before:
            module.training = training


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in a nest of containers (dataclasses and other objects too)."""
    found: list[Tensor] = []
    seen: set[int] = set()
    queue = list(_pytree.tree_leaves(value))
    while queue:
        leaf = queue.pop()
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif hasattr(leaf, "__dict__") and id(leaf) not in seen and not callable(leaf):
            seen.add(id(leaf))
            queue.extend(_pytree.tree_leaves(vars(leaf)))
    return found

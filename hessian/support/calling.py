"""Calling a network on an example, and leaving it as it was."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


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
    """Whether a list is what the network calls its one input (torchvision's detectors: a list of images)."""
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


@contextmanager
def state_kept(model: nn.Module) -> Iterator[None]:
    """Inside, the network may run in any mode; afterwards buffers, modes and random numbers are as they were."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=[device.index or 0 for device in devices]):
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    module._buffers[name] = buffer
                    if buffer.shape == value.shape and not torch.equal(buffer, value):
                        buffer.copy_(value)


@contextmanager
def training_outside_leaves(model: nn.Module) -> Iterator[bool]:
    """Inside, modules with children think that they train, and leaves (normalisations, dropout) that they do not.

    So heads that run in training only do run, and nothing is random or estimated anew.

    Yields:
        Whether any module has a reason to behave otherwise than in evaluation mode.
    """
    containers = [module for module in model.modules() if next(module.children(), None) is not None]
    custom = [module for module in containers if not isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))]
    before = [(module, module.training) for module in containers]
    try:
        for module in containers:
            module.training = True
        yield bool(custom)
    finally:
        for module, training in before:
            module.training = training

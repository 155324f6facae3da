"""Training and evaluation mode, put back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Inside, any module may change mode; afterwards each is in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def frozen_evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without weight gradients; both restored on exit."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with modes_restored(model):
            model.eval().requires_grad_(False)
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)

"""Which layers lie in front of a ReLU, straight or through a BatchNorm and a residual sum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from hessian.refit.lockstep import TRANSPARENT_NAMES, is_addition

_FUNCTIONS: dict[Any, float] = {
    F.relu: math.inf,
    torch.relu: math.inf,
    F.relu_: math.inf,
    torch.relu_: math.inf,
    F.relu6: 6.0,
}
_METHODS: dict[Any, float] = {"relu": math.inf, "relu_": math.inf}


@dataclass(frozen=True)
class Rectifier:
    """The ReLU behind a layer.

    Attributes:
        norm: name of the BatchNorm on the way, or None.
        summed: whether the layer's output is added to something on the way.
        ceiling: where the activation is flat again: ``math.inf`` for a ReLU, 6 for a ReLU6.
    """

    norm: str | None
    summed: bool
    ceiling: float


def rectifier_behind(node: fx.Node, modules: dict[str, nn.Module]) -> Rectifier | None:
    """The ReLU that all of a layer's output goes into, or None.

    Args:
        node: the layer's node.
        modules: modules by qualified name.
    """
    norm: str | None = None
    summed, current = False, node
    while len(current.users) == 1:
        (user,) = current.users
        ceiling = _ceiling(user, modules)
        if ceiling is not None:
            return Rectifier(norm, summed, ceiling)
        if is_addition(user):
            if summed:
                return None
            summed = True
        elif user.op == "call_module":
            module = modules[str(user.target)]
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and current is node and module.track_running_stats:
                norm = str(user.target)
            elif not type(module).__name__.startswith(TRANSPARENT_NAMES):
                return None
        else:
            return None
        current = user
    return None


def _ceiling(node: fx.Node, modules: dict[str, nn.Module]) -> float | None:
    """Where a ReLU's output stops growing; None where the node is no ReLU."""
    if node.op == "call_function":
        return _FUNCTIONS.get(node.target)
    if node.op == "call_method":
        return _METHODS.get(node.target)
    module = modules[str(node.target)] if node.op == "call_module" else None
    if isinstance(module, nn.ReLU):
        return math.inf
    if isinstance(module, nn.Hardtanh) and module.min_val == 0:  # ReLU6 is one
        return float(module.max_val)
    return None

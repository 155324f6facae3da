"""A target: what is limited, and by how much it has to fall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessian.support.names import unknown
from prune_gym.cost.budgeted import BudgetedCost

QUANTITIES = ("flops", "params", "latency")
"""Names of the quantities a target can limit."""

ARGUMENTS = {
    "flops": "target_flops_reduction",
    "params": "target_params_reduction",
    "latency": "target_latency",
}
"""Quantity -> the argument of the environments that limits it."""


@dataclass(frozen=True)
class Target:
    """A reduction to reach.

    Attributes:
        quantity: ``"flops"``, ``"params"``, ``"latency"`` (of batches of 32 images, measured on the device), or a cost
            of one's own.
        reduction: a fraction in (0, 1), a range (low, high) of such, or None for the task's default.

    Raises:
        ValueError: another quantity, or a reduction that is none.
    """

    quantity: str | BudgetedCost = "flops"
    reduction: float | tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.quantity, str) and self.quantity not in QUANTITIES:
            raise ValueError(unknown("quantity", self.quantity, QUANTITIES))
        if self.reduction is not None:
            object.__setattr__(self, "reduction", bounds("reduction", self.reduction))

    @property
    def name(self) -> str:
        """Name of what is limited."""
        return self.quantity if isinstance(self.quantity, str) else self.quantity.quantity

    @classmethod
    def of_arguments(
        cls,
        target: Target | None,
        flops_reduction: Any = None,
        params_reduction: Any = None,
        latency: Any = None,
    ) -> Target:
        """The target that an environment's arguments name; FLOPs by the task's default where none does.

        Args:
            target: as it is.
            flops_reduction: FLOPs to remove, a fraction or a range.
            params_reduction: parameters to remove, a fraction or a range.
            latency: what may be left of the dense network's latency, a share or a range.

        Raises:
            ValueError: several are given, or one is out of its range.
        """
        given = {"flops": flops_reduction, "params": params_reduction, "latency": latency}
        named = [quantity for quantity, value in given.items() if value is not None]
        if len(named) + (target is not None) > 1:
            listed = ", ".join([*(ARGUMENTS[quantity] for quantity in named), *(["target"] if target else [])])
            raise ValueError(f"an environment has one target; got {listed}")
        if target is not None:
            return target
        if not named:
            return cls()
        low, high = bounds(ARGUMENTS[named[0]], given[named[0]])
        return cls(named[0], (1.0 - high, 1.0 - low) if named[0] == "latency" else (low, high))


def bounds(name: str, given: float | Sequence[float]) -> tuple[float, float]:
    """Both ends of a fraction in (0, 1), or of an ascending pair of such.

    Raises:
        ValueError: it is neither.
    """
    pair: list[Any] = [given, given] if np.ndim(given) == 0 else np.asarray(given).tolist()
    numbers = all(isinstance(bound, (int, float, np.number)) and not isinstance(bound, bool) for bound in pair)
    if not numbers or len(pair) != 2 or not 0.0 < pair[0] <= pair[1] < 1.0:
        raise ValueError(
            f"{name} is a fraction in (0, 1), for example 0.9, or a range (low, high) of such; got {given!r}"
        )
    return float(pair[0]), float(pair[1])

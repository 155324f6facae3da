"""Networks and measured plans of the bench, as the amortised models and the studies of them see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from agents.amortised.examples import MeasuredNetwork
from prune_gym.bench.networks import BenchNetwork, load_networks
from prune_gym.bench.plans import NetworkPlans, load_plans
from prune_gym.bench.problem import BenchProblem
from prune_gym.problem.view import NetworkView


@dataclass(frozen=True)
class Family:
    """Networks with measured plans.

    Attributes:
        folder: with ``networks.safetensors`` and ``plans.parquet``; None: those of the package.
    """

    folder: Path | None = None

    @cached_property
    def networks(self) -> dict[str, BenchNetwork]:
        """Networks that have plans, by name."""
        found = load_networks(None if self.folder is None else self.folder / "networks.safetensors")
        return {name: network for name, network in found.items() if name in self.plans}

    @cached_property
    def plans(self) -> dict[str, NetworkPlans]:
        """Measured plans by network."""
        return dict(load_plans(None if self.folder is None else self.folder / "plans.parquet"))

    def names(self, *splits: str) -> list[str]:
        """Names of the networks of some splits, sorted."""
        return [name for name, network in sorted(self.networks.items()) if network.split in splits]

    def problem(self, name: str) -> BenchProblem:
        """The problem of a network."""
        return BenchProblem(self.networks[name])

    def measured(self, names: Sequence[str]) -> list[MeasuredNetwork]:
        """Networks with their plans, to learn from."""
        return [self._measured(name) for name in names]

    def _measured(self, name: str) -> MeasuredNetwork:
        plans = self.plans[name]
        # Targets are kept as float32; what a plan was asked for has three digits.
        return MeasuredNetwork(
            NetworkView(self.problem(name)), plans.kept, plans.target.round(4), plans.metrics[:, 1].copy()
        )

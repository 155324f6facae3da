"""PruneBench: measured plans of many small networks, as a table, a surrogate and an environment; no PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from prune_gym.bench.networks import BenchNetwork, load_networks, network_names, write_networks
    from prune_gym.bench.plans import NetworkPlans, load_plans, write_plans
    from prune_gym.bench.problem import BenchProblem
    from prune_gym.bench.surrogate import Surrogate

__all__ = [
    "BenchNetwork",
    "BenchProblem",
    "NetworkPlans",
    "Surrogate",
    "load_networks",
    "load_plans",
    "network_names",
    "write_networks",
    "write_plans",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "BenchNetwork": "networks",
        "BenchProblem": "problem",
        "NetworkPlans": "plans",
        "Surrogate": "surrogate",
        "load_networks": "networks",
        "load_plans": "plans",
        "network_names": "networks",
        "write_networks": "networks",
        "write_plans": "plans",
    },
)

"""Agents that choose pruning budgets: R-SPAR, and the searches it is judged against.

Nothing heavy is imported until a name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from agents.interface.monitor import until
    from agents.rspar.agent import RSPARAgent
    from agents.search.annealing import AnnealingSearch
    from agents.search.base import RandomSearch
    from agents.search.evolution import CEMSearch, CMAESSearch
    from agents.search.gaussian_process import GPSearch, ScaledGPSearch
    from agents.search.level_switch import LevelSwitchSearch
    from agents.search.start_plans import KnapsackSearch, UniformSearch

__all__ = [
    "AnnealingSearch",
    "CEMSearch",
    "CMAESSearch",
    "GPSearch",
    "KnapsackSearch",
    "LevelSwitchSearch",
    "RSPARAgent",
    "RandomSearch",
    "ScaledGPSearch",
    "UniformSearch",
    "until",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AnnealingSearch": "search.annealing",
        "CEMSearch": "search.evolution",
        "CMAESSearch": "search.evolution",
        "GPSearch": "search.gaussian_process",
        "KnapsackSearch": "search.start_plans",
        "LevelSwitchSearch": "search.level_switch",
        "RSPARAgent": "rspar.agent",
        "RandomSearch": "search.base",
        "ScaledGPSearch": "search.gaussian_process",
        "UniformSearch": "search.start_plans",
        "until": "interface.monitor",
    },
)

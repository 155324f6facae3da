"""Agents that choose pruning budgets: R-SPAR, and the searches it is judged against."""

from agents.annealing import AnnealingSearch
from agents.evolution import CEMSearch, CMAESSearch
from agents.gp_search import GPSearch
from agents.rspar import RSPARAgent
from agents.search import RandomSearch
from agents.start_plans import KnapsackSearch, UniformSearch

__all__ = [
    "AnnealingSearch",
    "CEMSearch",
    "CMAESSearch",
    "GPSearch",
    "KnapsackSearch",
    "RSPARAgent",
    "RandomSearch",
    "UniformSearch",
]

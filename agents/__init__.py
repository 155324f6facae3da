"""Agents that choose pruning budgets: R-SPAR, and the searches it is judged against."""

from agents.rspar import RSPARAgent
from agents.search import KnapsackSearch, RandomSearch, UniformSearch

__all__ = ["KnapsackSearch", "RSPARAgent", "RandomSearch", "UniformSearch"]

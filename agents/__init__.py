"""Agents that choose pruning budgets: R-SPAR, and the searches it is judged against."""

from agents.rspar import RSPARAgent

__all__ = ["RSPARAgent"]

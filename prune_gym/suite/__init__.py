"""The whole bench at once: an environment that draws a network an episode, and the export of episodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from prune_gym.suite.family import HOBSPruneFamilyEnv
    from prune_gym.suite.minari import to_minari

__all__ = ["HOBSPruneFamilyEnv", "to_minari"]

__getattr__, __dir__ = lazy_names(__name__, {"HOBSPruneFamilyEnv": "family", "to_minari": "minari"})

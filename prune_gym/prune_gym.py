"""Entry points of the environments, in a module of the package's name.

``gymnasium.pprint_registry()`` heads the ids of a module ``package.NAME`` with ``NAME``, so these stand together under
``prune_gym``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from prune_gym.envs.hobs_prune import HOBSPruneEnv
    from prune_gym.envs.layerwise import HOBSPruneLayerwiseEnv
    from prune_gym.envs.vector import HOBSPruneVectorEnv
    from prune_gym.suite.family import HOBSPruneFamilyEnv

__all__ = ["HOBSPruneEnv", "HOBSPruneFamilyEnv", "HOBSPruneLayerwiseEnv", "HOBSPruneVectorEnv"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "HOBSPruneEnv": ".envs.hobs_prune",
        "HOBSPruneFamilyEnv": ".suite.family",
        "HOBSPruneLayerwiseEnv": ".envs.layerwise",
        "HOBSPruneVectorEnv": ".envs.vector",
    },
)

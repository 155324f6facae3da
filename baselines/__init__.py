"""Published pruning methods under one signature, to compare with.

Every method is called ``<method>_prune(model, dataloader, pruning_ratio=0.5, **options) -> nn.Module``; the options
all of them share are documented at :func:`baselines.registry.register`. Nothing heavy is imported until a name is
used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baselines.adaprune import adaprune_prune
    from baselines.amc import amc_prune
    from baselines.autocompress import autocompress_prune
    from baselines.controls import magnitude_prune, random_prune, unpruned
    from baselines.dep_graph import dep_graph_prune
    from baselines.gnn import gnn_prune
    from baselines.hrank import hrank_prune
    from baselines.registry import PruneInfo, available, get, register
    from baselines.taylor import taylor_prune
    from baselines.workbench import Outcome, Workbench

__all__ = [
    "Outcome",
    "PruneInfo",
    "Workbench",
    "adaprune_prune",
    "amc_prune",
    "autocompress_prune",
    "available",
    "dep_graph_prune",
    "get",
    "gnn_prune",
    "hrank_prune",
    "magnitude_prune",
    "random_prune",
    "register",
    "taylor_prune",
    "unpruned",
]

_LOCATIONS = {
    "Outcome": "workbench",
    "PruneInfo": "registry",
    "Workbench": "workbench",
    "adaprune_prune": "adaprune",
    "amc_prune": "amc",
    "autocompress_prune": "autocompress",
    "available": "registry",
    "dep_graph_prune": "dep_graph",
    "get": "registry",
    "gnn_prune": "gnn",
    "hrank_prune": "hrank",
    "magnitude_prune": "controls",
    "random_prune": "controls",
    "register": "registry",
    "taylor_prune": "taylor",
    "unpruned": "controls",
}


def __getattr__(name: str) -> Any:
    if name not in _LOCATIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LOCATIONS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

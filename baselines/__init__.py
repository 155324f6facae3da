"""Published pruning methods under one signature, to compare with.

Every method is called ``<method>_prune(model, dataloader, pruning_ratio=0.5, **options) -> nn.Module``; the options
all of them share are documented at :func:`baselines.workshop.registry.register`. Nothing heavy is imported until a name
is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from baselines.methods.adaprune import adaprune_prune
    from baselines.methods.amc import amc_prune
    from baselines.methods.autocompress import autocompress_prune
    from baselines.methods.controls import magnitude_prune, random_prune, unpruned
    from baselines.methods.dep_graph import dep_graph_prune
    from baselines.methods.gnn import gnn_prune
    from baselines.methods.hrank import hrank_prune
    from baselines.methods.taylor import taylor_prune
    from baselines.workshop.registry import PruneInfo, available, get, register
    from baselines.workshop.workbench import Outcome, Workbench

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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Outcome": "workshop.workbench",
        "PruneInfo": "workshop.registry",
        "Workbench": "workshop.workbench",
        "adaprune_prune": "methods.adaprune",
        "amc_prune": "methods.amc",
        "autocompress_prune": "methods.autocompress",
        "available": "workshop.registry",
        "dep_graph_prune": "methods.dep_graph",
        "get": "workshop.registry",
        "gnn_prune": "methods.gnn",
        "hrank_prune": "methods.hrank",
        "magnitude_prune": "methods.controls",
        "random_prune": "methods.controls",
        "register": "workshop.registry",
        "taylor_prune": "methods.taylor",
        "unpruned": "methods.controls",
    },
)

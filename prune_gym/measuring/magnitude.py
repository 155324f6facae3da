"""``selection="magnitude"``: units leave by the size of their filters, without any curvature.

The tables an H-OBS analysis fills from Kronecker factors are filled from weights alone: the elimination order is that
of Li et al., "Pruning Filters for Efficient ConvNets" (ICLR 2017), smallest L2 norm first, and the *curve* of a layer
is the share of its squared norm that has left. Curves rank cuts, and so serve searches as H-OBS curves do, but they are
fractions, not nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from hessian import HOBSSensitivityAnalyzer
from hessian.channels.group import ChannelGroup
from hessian.patches.filter_norms import filter_norms
from hessian.support.progress import Progress
from prune_gym.measuring.curvature_cache import CurvatureSettings
from prune_gym.tasks.task import PruningTask


def rank_by_magnitude(
    task: PruningTask,
    settings: CurvatureSettings,
    folder: Path | None = None,
    progress: Progress | None = None,
    groups: Sequence[ChannelGroup] | None = None,
) -> HOBSSensitivityAnalyzer:
    """An analysis of a task's network whose prices, orders and curves come from filter norms; it has no factors.

    Args:
        task: the network.
        settings: only the damping is used, by refits.
        folder: the cache; nothing is kept, for this takes milliseconds.
        progress: not called.
        groups: the network's prunable layers where they are known; else they are found.
    """
    analysis = HOBSSensitivityAnalyzer(
        task.model,
        settings.damping,
        example_input=task.example_input[:1],
        ignored_layers=task.ignored_layers,
        groups=groups,
    )
    modules = dict(task.model.named_modules())
    for group in analysis.groups:
        energy = filter_norms(group, modules).square()
        shares = energy / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)
        order = shares.argsort(stable=True)
        curve = torch.cat([shares.new_zeros(1), shares[order].cumsum(0)[:-1]])
        analysis.prices[group.name], analysis.orders[group.name] = shares, order
        analysis.curves[group.name] = analysis.obd_curves[group.name] = curve
    return analysis

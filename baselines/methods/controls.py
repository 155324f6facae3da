"""Controls: what any method has to beat."""

from __future__ import annotations

import torch

from baselines.workshop.registry import register
from baselines.workshop.removal import everything, keep_best
from baselines.workshop.workbench import Outcome, Workbench
from hessian.patches.filter_norms import filter_norms


@register("unpruned", "the dense network", needs_labels=False)
def unpruned(bench: Workbench) -> Outcome:
    """A copy of the network in evaluation mode; the arguments are checked as everyone else's and nothing is removed."""
    return Outcome(everything(bench.groups))


@register("random-channels", "random channels, the same pruning ratio in every layer", needs_labels=False)
def random_prune(bench: Workbench) -> Outcome:
    """Random channels at the same pruning ratio in every layer (the usual "random" row of pruning tables)."""
    generator = bench.generator()
    scores = [torch.rand(group.num_units, generator=generator) for group in bench.groups]
    return Outcome(keep_best(scores, bench.target.uniform()))


@register("magnitude", "the smallest filters, the same pruning ratio in every layer", needs_labels=False)
def magnitude_prune(bench: Workbench) -> Outcome:
    """Filters with the smallest norm, at the same pruning ratio in every layer.

    Li et al., "Pruning Filters for Efficient ConvNets" (ICLR 2017). The paper ranks by the L1 norm and finds L2 the
    same; here it is L2, over all convolutions that make a shared channel.
    """
    return Outcome(keep_best([filter_norms(group, bench.modules) for group in bench.groups], bench.target.uniform()))

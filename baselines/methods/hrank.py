"""HRank: channels whose feature maps have low rank go (Lin et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from baselines.workshop.registry import register
from baselines.workshop.removal import keep_best
from baselines.workshop.taps import gated, per_unit, watched
from baselines.workshop.workbench import Outcome, Workbench
from hessian.channels.group import ChannelGroup
from hessian.support.names import suggest
from prune_gym.cost.limits import IntArray

NUM_SAMPLES = 640
"""Five batches of 128, as in the authors' code."""


@register("hrank", "HRank: lowest average rank of the feature maps, fixed rates a layer")
def hrank_prune(
    bench: Workbench,
    *,
    num_samples: int = NUM_SAMPLES,
    layer_ratios: Mapping[str, float] | None = None,
    layer_epochs: int = 1,
    lr: float = 0.01,
) -> Outcome:
    """HRank (Lin et al., "HRank: Filter Pruning Using High-Rank Feature Map", CVPR 2020).

    A channel's score is the rank of its post-activation feature map, averaged over images (5 batches of 128 in the
    authors' code) and over the places where a shared channel is read. Every layer keeps its highest-ranking channels at
    a rate fixed by hand; then layers are cut one after the other in execution order, with fine-tuning after each.

    Deviations: rates are uniform unless given, and moved onto the target by one common shift in logit space. The
    authors fine-tune 30 epochs (15 by default in their script) after every layer (in ResNet-50 after every block), at
    0.01, a tenth after 5 and after 10 epochs, and keep the epoch that is best on the test images; here ``layer_epochs``
    passes of a one-cycle rate, of which the last is kept. Maps are read where the next convolution
    reads them, so behind a pooling where there is one. A residual stream has one score, the mean over the places where
    it is read; the authors' code cuts each of its convolutions by ranks of its own. Maps of hidden linear layers are
    1 x 1: their rank is whether the unit fires.

    Args:
        bench: the workbench.
        num_samples: images the ranks are averaged over, at most.
        layer_ratios: layer name -> pruning ratio; layers left out get the global one.
        layer_epochs: passes over the images after each layer; 0 leaves all weights alone.
        lr: peak learning rate of that fine-tuning, the authors'.
    """
    scores = feature_ranks(bench, num_samples)
    kept = bench.target.uniform() if layer_ratios is None else _given_rates(bench, layer_ratios)
    selection = keep_best(scores, kept)
    model = bench.copy_dense()
    gates = bench.gates(selection) if layer_epochs > 0 else {}
    for done in range(1, len(gates) + 1):
        with gated(model, bench.groups, dict(list(gates.items())[:done])):
            bench.train(model, epochs=layer_epochs, lr=lr, description=f"fine-tuning {done}/{len(gates)}")
    return Outcome(selection, model)


@torch.no_grad()
def feature_ranks(bench: Workbench, num_samples: int = NUM_SAMPLES) -> list[Tensor]:
    """Average rank of every unit's feature maps, [num_units] a layer.

    Raises:
        ValueError: fewer than one sample.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is at least 1; got {num_samples}")
    sums = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in bench.groups}
    places = dict.fromkeys(sums, 0)

    def visit(group: ChannelGroup, maps: Tensor) -> None:
        sums[group.name] += torch.linalg.matrix_rank(maps.float().cpu()).sum(dim=0)
        places[group.name] += len(maps)

    images = bench.data.images[:num_samples]
    with watched(bench.dense, bench.groups, visit):
        for start in range(0, len(images), bench.batch_size):
            bench.dense(images[start : start + bench.batch_size])
            bench.report("feature ranks", min(start + bench.batch_size, len(images)), len(images))
    bench.spent.images += len(images)
    return [per_unit(group, sums[group.name] / places[group.name]) for group in bench.groups]


def _given_rates(bench: Workbench, layer_ratios: Mapping[str, float]) -> IntArray:
    names = [group.name for group in bench.groups]
    for name, ratio in layer_ratios.items():
        if name not in names:
            raise ValueError(f"layer_ratios names {name!r}, which is no prunable layer{suggest(name, names)}")
        if not 0.0 <= ratio < 1.0:
            raise ValueError(f"layer_ratios holds pruning ratios in [0, 1); got {ratio!r} for {name!r}")
    return bench.target.project(np.array([layer_ratios.get(name, bench.target.ratio) for name in names]))

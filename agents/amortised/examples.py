"""Measured plans of many networks as padded arrays, so that one step of training sees them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.amortised.damages import DAMAGES, damage_tables
from agents.interface.protocol import TOLERANCE
from agents.model.reward_model import log_odds
from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.problem.view import NetworkView

FEWEST = 6
"""Plans on a target that are worth comparing."""
LEAST_GAP = 0.005
"""Gains over the knapsack plan are counted in units of the best known one, but of at least this much soft accuracy."""


@dataclass(frozen=True, eq=False)
class MeasuredNetwork:
    """A network and plans that were measured.

    Attributes:
        view: the network.
        kept: int64 [N, L], the plans.
        target: float64 [N], FLOPs reduction each was made for.
        soft: float64 [N], soft accuracy on the reward split.
    """

    view: NetworkView
    kept: IntArray
    target: FloatArray
    soft: FloatArray


@dataclass(frozen=True, eq=False)
class Comparison:
    """Plans of one network on one target.

    Attributes:
        network: position of the network.
        target: FLOPs reduction.
        kept: int64 [M, L].
        soft: float64 [M].
        start: position of the plan of least predicted loss.
    """

    network: int
    target: float
    kept: IntArray
    soft: FloatArray
    start: int

    @property
    def gap(self) -> float:
        """Soft accuracy between the start and the best plan."""
        return float(self.soft.max() - self.soft[self.start])


def comparisons(networks: Sequence[MeasuredNetwork]) -> Iterator[Comparison]:
    """Plans of networks that are on the target they were made for, a target at a time."""
    for position, network in enumerate(networks):
        reduction = 1.0 - np.exp(network.view.log_rest(network.kept))
        loss = np.logaddexp.reduce(network.view.log_losses(network.kept), axis=-1)
        on_target = (reduction >= network.target - 1e-4) & (reduction <= network.target + TOLERANCE)
        for target in np.unique(network.target):
            rows = np.flatnonzero(on_target & (network.target == target))
            if len(rows) >= FEWEST:
                start = int(loss[rows].argmin())
                yield Comparison(position, float(target), network.kept[rows], network.soft[rows], start)


class Examples:
    """Comparisons of many networks, padded: G comparisons of at most M plans, N networks of at most L layers.

    Args:
        networks: measured networks.

    Attributes:
        comparisons: what is compared.
        inputs: float32 [N, L, len(LAYER_INPUTS)], not standardised, 0 where there is no layer.
        present: bool [N, L].
        network: int64 [G], of every comparison.
        log_rest: float32 [G], logarithm of the share of FLOPs left on the target.
        damages: float32 [G, M, L, len(DAMAGES)].
        counted: float32 [G, M], 1 where there is a plan.
        log_odds: float32 [G, M], of the soft accuracy.
        gains: float32 [G, M], over the start plan, in units of the best one's.
        gaps: float32 [G], soft accuracy that can be gained.

    Raises:
        ValueError: no network has plans to compare.
    """

    def __init__(self, networks: Sequence[MeasuredNetwork]) -> None:
        self.networks = list(networks)
        self.comparisons = list(comparisons(networks))
        if not self.comparisons:
            raise ValueError(f"no network of {len(self.networks)} has {FEWEST} measured plans on one target")
        layers = max(network.view.num_layers for network in networks)
        plans = max(len(found.soft) for found in self.comparisons)
        width = networks[0].view.layers.shape[1]
        self.inputs = torch.zeros(len(networks), layers, width)
        self.present = torch.zeros(len(networks), layers, dtype=torch.bool)
        for row, network in enumerate(networks):
            count = network.view.num_layers
            self.inputs[row, :count] = torch.as_tensor(network.view.layers, dtype=torch.float32)
            self.present[row, :count] = True
        tables = [damage_tables(network.view.log_curves) for network in networks]
        count = len(self.comparisons)
        self.network = torch.tensor([found.network for found in self.comparisons])
        self.log_rest = torch.tensor([np.log(1.0 - found.target) for found in self.comparisons]).float()
        self.gaps = torch.tensor([found.gap for found in self.comparisons]).float()
        self.damages = torch.zeros(count, plans, layers, len(DAMAGES))
        self.counted, self.log_odds, self.gains = (torch.zeros(count, plans) for _ in range(3))
        for row, found in enumerate(self.comparisons):
            own = np.stack([t[len(t) - found.kept[:, i]] for i, t in enumerate(tables[found.network])], axis=1)
            self.damages[row, : len(own), : own.shape[1]] = torch.as_tensor(own, dtype=torch.float32)
            self.counted[row, : len(own)] = 1.0
            gains = (found.soft - found.soft[found.start]) / max(found.gap, LEAST_GAP)
            for padded, values in ((self.log_odds, log_odds(found.soft)), (self.gains, gains)):
                padded[row, : len(own)] = torch.as_tensor(values, dtype=torch.float32)

    def layer_inputs(self) -> np.ndarray:
        """Inputs of all layers there are, one below the other."""
        return self.inputs[self.present].numpy()

    def weighted_mean(self, values: Tensor, weights: Tensor) -> Tensor:
        """Means [G, 1] of values [G, M] with weights that are 0 where there is no plan."""
        return (values * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)

"""Amortised models: how much the layers of any network lose, and the plan that loses least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.amortised.damages import DAMAGES, damage_tables
from agents.amortised.networks import USUAL_LOG_REST, DamageNetwork
from prune_gym.allocation.knapsack import knapsack
from prune_gym.cost.budgeted import BudgetedCost
from prune_gym.cost.limits import CountLimits, IntArray
from prune_gym.problem.view import LAYER_INPUTS, NetworkProblem, NetworkView

BOUND = 4.0
"""Standardised inputs are clipped to [-BOUND, BOUND]: a network unlike all others counts as the most unlike known."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of an amortised model.

    Attributes:
        width: of the embeddings; 0: no attention, every layer by itself and in a linear map.
        members: damage networks, trained apart, whose mean is believed.
    """

    width: int = 32
    members: int = 4


DEFAULT_SIZES = Sizes()


class AmortisedModel(nn.Module):
    """Damage networks over standardised inputs of layers.

    Amortised as in few-shot Bayesian optimisation (Wistuba & Grabocka 2021): what many tasks have in common is learned
    before the task at hand is seen.

    Args:
        sizes: of the networks.
        seed: of the initial weights; the global generators are not used.

    Attributes:
        rewards: the damage networks.
        trust: weight of what was learned in proposed plans, in [0, 1]; the rest is the predicted loss. A plan that is
            best by learned curves is best by their errors too, and these differ from those of the prediction.
        trained_on: what it was trained on, what JSON can say.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, sizes: Sizes = DEFAULT_SIZES, seed: int = 0) -> None:
        super().__init__()
        self.sizes, self.trust = sizes, 1.0
        self.trained_on: dict[str, Any] = {}
        self.register_buffer("centre", torch.zeros(len(LAYER_INPUTS)))
        self.register_buffer("spread", torch.ones(len(LAYER_INPUTS)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = [DamageNetwork(len(LAYER_INPUTS), len(DAMAGES), sizes.width) for _ in range(sizes.members)]
            self.rewards = nn.ModuleList(networks)
        self.eval()

    @property
    def parameter_count(self) -> int:
        """Trained numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def standardise(self, inputs: np.ndarray) -> None:
        """Set the scale of the inputs by those of the layers of many networks [N, len(LAYER_INPUTS)]."""
        self.centre.copy_(torch.as_tensor(inputs.mean(axis=0)))
        self.spread.copy_(torch.as_tensor(inputs.std(axis=0) + 1e-6))

    def scaled(self, inputs: Tensor) -> Tensor:
        """Standardised inputs [..., len(LAYER_INPUTS)] of layers."""
        return ((inputs - self.centre) / self.spread).clamp(-BOUND, BOUND)

    def at(self, problem: NetworkProblem) -> KnownNetwork:
        """The model at the network of a problem."""
        return KnownNetwork(self, NetworkView(problem))


class KnownNetwork:
    """An amortised model at one network (an :class:`agents.model.reward_model.Prior`).

    Args:
        model: what is known of all networks.
        view: the network.
    """

    def __init__(self, model: AmortisedModel, view: NetworkView) -> None:
        self.model, self.view = model, view
        inputs = model.scaled(torch.as_tensor(view.layers, dtype=torch.float32)[None])
        present = torch.ones(inputs.shape[:2], dtype=torch.bool)
        with torch.no_grad():
            parts = [reward(inputs, present) for reward in model.rewards]
        level, slope = (torch.cat(part).double().numpy() for part in zip(*parts, strict=True))
        self._level, self._slope = level, np.tanh(slope)
        self._tables = damage_tables(view.log_curves)

    def opinions(self, kept: IntArray) -> np.ndarray:
        """Log-odds of the soft accuracy [members, N] of plans [N, L], each member's up to a constant of its own."""
        damages = np.stack([table[len(table) - kept[:, i]] for i, table in enumerate(self._tables)], axis=1)
        return -np.stack(
            [(weights * damages).sum(axis=(-2, -1)) for weights in self._weights(self.view.log_rest(kept))]
        )

    def expected(self, damages: np.ndarray | None, kept: np.ndarray | None = None) -> np.ndarray:
        """Log-odds [N] of plans `kept` [N, L], up to a constant; the reward model's own inputs are not looked at.

        Raises:
            ValueError: the plans are not given.
        """
        if kept is None:
            raise ValueError("an amortised model judges plans by their kept units; pass kept")
        return np.asarray(self.opinions(kept).mean(axis=0))

    def curves(self, target: float) -> list[np.ndarray]:
        """Log-odds that layers are expected to lose [units] by units removed, under plans on a target."""
        weights = self._weights(np.log(1.0 - np.array([target]))).mean(axis=0)[0]
        return [table @ weights[layer] for layer, table in enumerate(self._tables)]

    def plan(self, target: float, cost: BudgetedCost, limits: CountLimits) -> IntArray:
        """The plan [L] on a target that is expected to lose least, as far as what was learned is trusted.

        Nothing is measured. Predicted losses are brought to the scale of the learned curves at the knapsack's plan.
        """
        learned, trust = self.curves(target), self.model.trust
        losses = [np.exp(curve) - np.exp(curve[0]) for curve in self.view.log_curves]
        start = knapsack(losses, cost, target, limits=limits)
        scale = _summed(learned, start) / max(_summed(losses, start), 1e-12)
        mixed = [trust * own + (1.0 - trust) * scale * loss for own, loss in zip(learned, losses, strict=True)]
        return knapsack(mixed, cost, target, limits=limits)

    def _weights(self, log_rest: np.ndarray) -> np.ndarray:
        """Weights [members, N, L, damages], see :func:`agents.amortised.networks.damage_weights`."""
        depth = (log_rest - USUAL_LOG_REST)[:, None, None]
        return np.logaddexp(0.0, self._level[:, None] + self._slope[:, None] * depth)

    def __deepcopy__(self, memo: dict[int, Any]) -> KnownNetwork:
        """Itself: nothing of it ever changes."""
        return self


def _summed(curves: list[np.ndarray], kept: IntArray) -> float:
    return float(sum(curve[len(curve) - count] for curve, count in zip(curves, kept, strict=True)))

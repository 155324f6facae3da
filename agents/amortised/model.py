"""What is known of plans for any network: what layers lose, and a policy; and how both look at one network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.amortised.damages import DAMAGES, damage_tables
from agents.amortised.networks import USUAL_LOG_REST, DamageNetwork, PolicyNetwork
from prune_gym.allocation.knapsack import knapsack
from prune_gym.cost.budgeted import BudgetedCost
from prune_gym.cost.limits import CountLimits, IntArray
from prune_gym.problem.view import LAYER_INPUTS, PLAN_INPUTS, NetworkProblem, NetworkView

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
    """Damage networks and a policy over standardised inputs of layers.

    Amortised as in few-shot Bayesian optimisation (Wistuba & Grabocka 2021): what many tasks have in common is learned
    before the task at hand is seen.

    Args:
        sizes: of the networks.
        seed: of the initial weights; the global generators are not used.

    Attributes:
        rewards: the damage networks.
        policy: the policy; None without attention.
        trained_on: what it was trained on, what JSON can say.
    """

    layer_centre: Tensor
    layer_spread: Tensor
    plan_centre: Tensor
    plan_spread: Tensor

    def __init__(self, sizes: Sizes = DEFAULT_SIZES, seed: int = 0) -> None:
        super().__init__()
        self.sizes = sizes
        self.trained_on: dict[str, Any] = {}
        for name, count in (("layer", len(LAYER_INPUTS)), ("plan", len(PLAN_INPUTS))):
            self.register_buffer(f"{name}_centre", torch.zeros(count))
            self.register_buffer(f"{name}_spread", torch.ones(count))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = [DamageNetwork(len(LAYER_INPUTS), len(DAMAGES), sizes.width) for _ in range(sizes.members)]
            self.rewards = nn.ModuleList(networks)
            self.policy = PolicyNetwork(len(LAYER_INPUTS) + len(PLAN_INPUTS), sizes.width) if sizes.width else None
        self.eval()

    def standardise(self, name: str, values: np.ndarray) -> None:
        """Set the scale of the inputs ``"layer"`` or ``"plan"`` by those of many networks [N, inputs]."""
        getattr(self, f"{name}_centre").copy_(torch.as_tensor(values.mean(axis=0)))
        getattr(self, f"{name}_spread").copy_(torch.as_tensor(values.std(axis=0) + 1e-6))

    def layer_inputs(self, view: NetworkView) -> Tensor:
        """Standardised inputs of a network's layers [L, len(LAYER_INPUTS)]."""
        return _scaled(view.layers, self.layer_centre, self.layer_spread)

    def plan_inputs(self, view: NetworkView, kept: IntArray) -> Tensor:
        """Standardised inputs of plans [N, L], those of the layers among them: [N, L, all inputs]."""
        plans = _scaled(view.plans(kept), self.plan_centre, self.plan_spread)
        return torch.cat([self.layer_inputs(view).expand(len(kept), -1, -1), plans], dim=-1)

    def at(self, problem: NetworkProblem) -> KnownNetwork:
        """How the model looks at the network of a problem."""
        return KnownNetwork(self, NetworkView(problem))


class KnownNetwork:
    """An amortised model at one network (an :class:`agents.model.reward_model.Prior`).

    Args:
        model: what is known of all networks.
        view: the network.
    """

    def __init__(self, model: AmortisedModel, view: NetworkView) -> None:
        self.model, self.view = model, view
        inputs = model.layer_inputs(view)[None]
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
        """The plan [L] on a target that is expected to lose least; nothing is measured."""
        return knapsack(self.curves(target), cost, target, limits=limits)

    def _weights(self, log_rest: np.ndarray) -> np.ndarray:
        """Weights [members, N, L, damages], see :func:`agents.amortised.networks.damage_weights`."""
        depth = (log_rest - USUAL_LOG_REST)[:, None, None]
        return np.logaddexp(0.0, self._level[:, None] + self._slope[:, None] * depth)

    def __deepcopy__(self, memo: dict[int, Any]) -> KnownNetwork:
        """Itself: nothing of it ever changes."""
        return self

    @torch.no_grad()
    def actions(self, start: IntArray, count: int, generator: torch.Generator) -> np.ndarray:
        """Moves from a start plan [L] that the policy proposes: its mode and samples, float32 [count, L].

        Raises:
            ValueError: a model without a policy.
        """
        if self.model.policy is None:
            raise ValueError("a model without attention has no policy")
        inputs = self.model.plan_inputs(self.view, start[None])
        policy = self.model.policy(inputs, torch.ones(inputs.shape[:2], dtype=torch.bool))
        noise = torch.randn((count, len(start)), generator=generator)
        noise[0] = 0.0
        return torch.tanh(policy.sample(noise)).numpy()


def _scaled(values: np.ndarray, centre: Tensor, spread: Tensor) -> Tensor:
    return ((torch.as_tensor(values, dtype=torch.float32) - centre) / spread).clamp(-BOUND, BOUND)

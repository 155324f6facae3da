"""Training of amortised models on measured plans of a family of networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agents.amortised.examples import Examples
from agents.amortised.model import AmortisedModel
from agents.amortised.networks import DamageNetwork, damage_weights


@dataclass(frozen=True)
class RewardTraining:
    """Settings of the training of damage networks.

    Attributes:
        steps: gradient steps, each on all examples.
        lr: largest learning rate, of a one-cycle schedule.
        weight_decay: of AdamW.
        share: of the networks that a member of several sees: where members differ, networks do.
        choice: weight of the choice among plans, beside the regression of their log-odds.
        temperature: of that choice, in standard deviations of a comparison.
    """

    steps: int = 300
    lr: float = 2e-3
    weight_decay: float = 0.1
    share: float = 0.75
    choice: float = 3.0
    temperature: float = 0.15


LINEAR_TRAINING = RewardTraining(lr=1e-2)
"""For networks without attention, which have few weights to learn."""
NOTICED_GAP, LEAST_WORTH = 0.03, 0.1
"""Comparisons count in full from a gap of so much soft accuracy, and at least by so much."""
LEAST_SPREAD = 0.08
"""Log-odds that plans of a comparison differ by at least, for its scale: noise is not fitted as if it were more."""


def train_rewards(model: AmortisedModel, examples: Examples, settings: RewardTraining, seed: int = 0) -> list[float]:
    """Train the damage networks of a model, each from its own random numbers; sets the scale of layers' inputs.

    Args:
        model: changed in place.
        examples: measured plans of the family.
        settings: how.
        seed: of dropout.

    Returns:
        The last loss of every network.
    """
    model.standardise(examples.layer_inputs())
    inputs = model.scaled(examples.inputs) * examples.present[..., None]
    with torch.random.fork_rng(devices=[]):
        losses = []
        for member, network in enumerate(model.rewards):
            torch.manual_seed(seed + 1000 * member)
            assert isinstance(network, DamageNetwork)
            count = len(examples.networks)
            seen = torch.ones(count, dtype=torch.bool)
            if len(model.rewards) > 1:
                seen[torch.randperm(count)[: int((1.0 - settings.share) * count)]] = False
            weights = seen[examples.network].float()
            losses.append(_train(network, inputs, examples, settings, weights))
    model.eval()
    return losses


def _train(
    network: DamageNetwork, inputs: Tensor, examples: Examples, settings: RewardTraining, weights: Tensor
) -> float:
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=settings.steps)
    network.train()
    for _ in range(settings.steps):
        loss = reward_loss(predicted(network, inputs, examples), examples, settings, weights)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return float(loss.detach())


def predicted(network: DamageNetwork, inputs: Tensor, examples: Examples) -> Tensor:
    """Log-odds [G, M] of all plans, up to a constant of the network; of what is no plan, any number."""
    level, slope = network(inputs, examples.present)
    weights = damage_weights(level[examples.network], slope[examples.network], examples.log_rest)
    return -torch.einsum("gmld,gld->gm", examples.damages, weights)


def reward_loss(found: Tensor, examples: Examples, settings: RewardTraining, weights: Tensor) -> Tensor:
    """Distance of predictions [G, M] from what was measured, and what choosing plans by them would lose.

    Plans are compared with those of their own comparison only: by the squared error of centred log-odds, better plans
    counting more, and by the expected gain of a choice with the softmax of the predictions (ListNet's top one, Cao et
    al. 2007, of gains).

    Args:
        found: predicted log-odds [G, M].
        examples: what was measured.
        settings: weight and temperature of the choice.
        weights: of comparisons [G].
    """
    counted = examples.counted
    centred = examples.log_odds - examples.weighted_mean(examples.log_odds, counted)
    spread = examples.weighted_mean(centred.square(), counted).sqrt().clamp_min(LEAST_SPREAD)
    worth = torch.exp((centred / spread).clamp(-4.0, 3.0)) * counted
    wanted = examples.log_odds - examples.weighted_mean(examples.log_odds, worth)
    found = found - examples.weighted_mean(found, worth)
    error = examples.weighted_mean(((found - wanted) / spread).square(), worth)[:, 0]
    logits = (found / spread / settings.temperature).masked_fill(counted == 0.0, -torch.inf)
    gain = (torch.softmax(logits, dim=1) * examples.gains.clamp(-2.0, 1.0)).sum(dim=1)
    losses = error - settings.choice * gain * (examples.gaps / NOTICED_GAP).clamp(LEAST_WORTH, 1.0)
    return (losses * weights).sum() / weights.sum()

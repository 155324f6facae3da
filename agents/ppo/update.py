"""Proximal policy optimisation (Schulman et al. 2017, clipped objective): one update from one batch.

The details are those that matter in practice: advantages normalised in each minibatch, gradient norm clipped, early
stop when the policy has moved too far, no clipping of the value loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from agents.ppo.networks import ActorCritic
from agents.ppo.rollout import Batch
from hessian.support.layout import sent


@dataclass(frozen=True)
class PPOSettings:
    """Hyper-parameters of an update, named as in Stable-Baselines3.

    Attributes:
        clip_range: the probability ratio counts up to 1 +- clip_range.
        ent_coef: weight of the entropy bonus.
        vf_coef: weight of the value loss.
        max_grad_norm: gradients are scaled down to this norm.
        target_kl: stop the update at 1.5 times this approximate KL divergence (nats); None: never.
    """

    clip_range: float = 0.2
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    target_kl: float | None = None


def normalise(advantages: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit standard deviation; a single advantage is left alone (its deviation is undefined)."""
    if len(advantages) < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


DIAGNOSTICS = (
    "train/policy_gradient_loss",
    "train/value_loss",
    "train/entropy_loss",
    "train/approx_kl",
    "train/clip_fraction",
    "train/loss",
    "train/std",
)
"""Diagnostics of a minibatch, by SB3's names."""


def ppo_loss(
    network: ActorCritic, batch: Batch, noise: torch.Tensor, settings: PPOSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of one minibatch.

    Args:
        network: policy and value function.
        batch: N actions.
        noise: standard normal [N, L], for the entropy.
        settings: clip range and weights.

    Returns:
        (scalar loss, its :data:`DIAGNOSTICS`), both on the device: reading them waits for it.
    """
    policy = network.policy(batch.observations).select(batch.state_index)
    log_ratio = policy.log_prob(batch.pre_squash) - batch.log_probs
    ratio = log_ratio.exp()
    advantages = normalise(batch.advantages)
    clipped = ratio.clamp(1 - settings.clip_range, 1 + settings.clip_range)
    policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()

    values = network.value(batch.observations)[batch.state_index]
    value_loss = torch.nn.functional.mse_loss(values, batch.returns)
    # Sampled, as a squashed Gaussian's entropy has no closed form; fresh samples only where a gradient is wanted.
    entropy = -policy.log_prob(policy.sample(noise) if settings.ent_coef else batch.pre_squash).mean()
    loss = policy_loss - settings.ent_coef * entropy + settings.vf_coef * value_loss
    with torch.no_grad():
        approx_kl = ((ratio - 1) - log_ratio).mean()
        clip_fraction = ((ratio - 1).abs() > settings.clip_range).float().mean()
        std = policy.log_std.exp().mean()
        diagnostics = torch.stack([policy_loss, value_loss, -entropy, approx_kl, clip_fraction, loss, std])
    return loss, diagnostics


def explained_variance(values: torch.Tensor, returns: torch.Tensor) -> float:
    """1 - Var(returns - values) / Var(returns); NaN where the returns do not vary."""
    variance = returns.var(unbiased=False)
    return float(1 - (returns - values).var(unbiased=False) / variance) if variance > 0 else math.nan


def ppo_update(
    network: ActorCritic,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    settings: PPOSettings,
    *,
    batch_size: int,
    epochs: int,
    generator: torch.Generator,
) -> dict[str, float]:
    """Several epochs of shuffled minibatches over `batch`; with a ``target_kl`` each is waited for, without one none.

    Args:
        network: changed in place.
        optimizer: over the network's parameters.
        batch: what the policy did.
        settings: hyper-parameters.
        batch_size: actions a minibatch.
        epochs: passes over the batch.
        generator: CPU generator of the shuffles and of the entropy's noise.

    Returns:
        SB3-named diagnostics: means over the minibatches; ``train/approx_kl`` of the last epoch that ran.
    """
    taken: list[torch.Tensor] = []
    device = batch.pre_squash.device
    where = batch.state_index.cpu()
    stop = False
    for _ in range(epochs):
        divergences: list[torch.Tensor] = []
        for index in torch.randperm(len(batch), generator=generator).split(batch_size):
            minibatch = batch.select(index, where)
            noise = sent(torch.randn(minibatch.pre_squash.shape, generator=generator), device)
            loss, diagnostics = ppo_loss(network, minibatch, noise, settings)
            divergences.append(diagnostics[DIAGNOSTICS.index("train/approx_kl")])
            if settings.target_kl is not None and divergences[-1] > 1.5 * settings.target_kl:
                stop = True
                break
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
            optimizer.step()
            taken.append(diagnostics)
        if stop:
            break
    columns = zip(*torch.stack(taken).tolist(), strict=True) if taken else ()
    means = {name: sum(column) / len(taken) for name, column in zip(DIAGNOSTICS, columns, strict=False)}
    means["train/approx_kl"] = sum(torch.stack(divergences).tolist()) / len(divergences)
    means["train/explained_variance"] = explained_variance(batch.values, batch.returns)
    means["train/clip_range"] = settings.clip_range
    return means

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


def ppo_loss(
    network: ActorCritic, batch: Batch, noise: torch.Tensor, settings: PPOSettings
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of one minibatch.

    Args:
        network: policy and value function.
        batch: N actions.
        noise: standard normal [N, L], for the entropy.
        settings: clip range and weights.

    Returns:
        (scalar loss, diagnostics with SB3's names).
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
        diagnostics = {
            "train/policy_gradient_loss": policy_loss,
            "train/value_loss": value_loss,
            "train/entropy_loss": -entropy,
            "train/approx_kl": approx_kl,
            "train/clip_fraction": clip_fraction,
            "train/loss": loss,
            "train/std": policy.log_std.exp().mean(),
        }
        # Read together: every look waits for the device.
        numbers = torch.stack(list(diagnostics.values())).tolist()
    return loss, dict(zip(diagnostics, numbers, strict=True))


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
    """Several epochs of shuffled minibatches over `batch`.

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
    totals: dict[str, float] = {}
    count = 0
    device = batch.pre_squash.device
    stop = False
    for _ in range(epochs):
        divergences = []
        for index in torch.randperm(len(batch), generator=generator).split(batch_size):
            minibatch = batch.select(sent(index, device))
            noise = sent(torch.randn(minibatch.pre_squash.shape, generator=generator), device)
            loss, diagnostics = ppo_loss(network, minibatch, noise, settings)
            divergences.append(diagnostics["train/approx_kl"])
            if settings.target_kl is not None and divergences[-1] > 1.5 * settings.target_kl:
                stop = True
                break
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
            optimizer.step()
            totals = {key: totals.get(key, 0.0) + value for key, value in diagnostics.items()}
            count += 1
        if stop:
            break
    means = {key: value / max(count, 1) for key, value in totals.items()}
    means["train/approx_kl"] = sum(divergences) / len(divergences)
    means["train/explained_variance"] = explained_variance(batch.values, batch.returns)
    means["train/clip_range"] = settings.clip_range
    return means

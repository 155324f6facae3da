"""The policy and value networks: one set of weights for any number of layers.

A flat observation ``[layer features L*F | current ratios L | 5 globals]`` is cut into one token a layer (its F
features, its current pruning ratio, the 5 globals). Every token goes through the same encoder; what the other layers
look like reaches it as the mean and the maximum over all of them. Nothing depends on L, so a policy trained on one
network acts on another.

The policy is a Gaussian squashed by ``tanh``. Everything that learns handles the *pre-squash* value ``u`` (the action
is ``tanh(u)``): inverting a saturated ``tanh`` loses the log-probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

NUM_GLOBALS = 5
"""Globals at the end of an observation: accuracy drop, FLOPs reduction, target, lambda, progress."""

LOG_STD_RANGE = (-5.0, 1.0)
"""Bounds of the pre-squash log standard deviation: beyond them tanh saturates or exploration stops."""


def observation_size(num_layers: int, layer_feature_dim: int) -> int:
    """Length of the flat observation of `num_layers` layers with `layer_feature_dim` features each."""
    return num_layers * (layer_feature_dim + 1) + NUM_GLOBALS


def layer_tokens(observations: torch.Tensor, num_layers: int, layer_feature_dim: int) -> torch.Tensor:
    """Cut flat observations into one token a layer.

    Args:
        observations: [..., L*F + L + 5].
        num_layers: L.
        layer_feature_dim: F.

    Returns:
        Tokens [..., L, F + 1 + 5]: the layer's features, its current ratio, the globals.
    """
    features, ratios, global_part = observations.split(
        [num_layers * layer_feature_dim, num_layers, NUM_GLOBALS], dim=-1
    )
    features = features.unflatten(-1, (num_layers, layer_feature_dim))
    global_part = global_part.unsqueeze(-2).expand(*features.shape[:-1], NUM_GLOBALS)
    return torch.cat([features, ratios.unsqueeze(-1), global_part], dim=-1)


@dataclass(frozen=True)
class SquashedGaussian:
    """Independent Gaussians per layer, squashed into (-1, 1) by tanh.

    Attributes:
        mean: pre-squash means [..., L].
        log_std: pre-squash log standard deviations [..., L].
    """

    mean: torch.Tensor
    log_std: torch.Tensor

    def sample(self, noise: torch.Tensor) -> torch.Tensor:
        """Pre-squash sample [..., L] from standard normal `noise` of the same (or a broadcastable) shape."""
        return self.mean + self.log_std.exp() * noise

    def log_prob(self, pre_squash: torch.Tensor) -> torch.Tensor:
        """Exact log-density of the actions ``tanh(pre_squash)``.

        The log-determinant ``log(1 - tanh(u)^2)`` is computed as ``2 (log 2 - u - softplus(-2 u))``, which stays
        exact where tanh saturates.

        Args:
            pre_squash: u, [..., L].

        Returns:
            [...]: summed over the layers, in nats.
        """
        standardised = (pre_squash - self.mean) * (-self.log_std).exp()
        gaussian = -0.5 * standardised.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        log_det = 2 * (math.log(2) - pre_squash - nn.functional.softplus(-2 * pre_squash))
        return (gaussian - log_det).sum(-1)

    def select(self, index: torch.Tensor) -> SquashedGaussian:
        """The distributions at `index` along the first dimension."""
        return SquashedGaussian(self.mean[index], self.log_std[index])


def _linear(inputs: int, outputs: int, gain: float, generator: torch.Generator) -> nn.Linear:
    """Linear layer with orthogonal weights and zero bias, drawn from `generator` alone."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    with torch.no_grad():
        nn.init.orthogonal_(layer.weight, gain, generator=generator)
        layer.bias.zero_()
    return layer


class LayerEncoder(nn.Module):
    """Embeds every layer's token in the context of all layers.

    Args:
        token_dim: length of a token.
        hidden_dim: width of the embeddings.
        generator: source of the initial weights.
    """

    def __init__(self, token_dim: int, hidden_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        gain = math.sqrt(2)
        self.embed = _linear(token_dim, hidden_dim, gain, generator)
        self.own = _linear(hidden_dim, hidden_dim, gain, generator)
        self.context = _linear(2 * hidden_dim, hidden_dim, gain, generator)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [..., L, token_dim] to embeddings [..., L, hidden_dim]."""
        embedded = torch.tanh(self.embed(tokens))
        pooled = torch.cat([embedded.mean(-2), embedded.amax(-2)], dim=-1)
        return torch.tanh(self.own(embedded) + self.context(pooled).unsqueeze(-2))


class ActorCritic(nn.Module):
    """Policy and value function over flat observations.

    At initialisation the policy's mean is 0 up to a hundredth (stay at the start plan) and its pre-squash standard
    deviation is `initial_std` for every layer.

    Args:
        layer_feature_dim: F.
        hidden_dim: width of both encoders.
        initial_std: initial pre-squash standard deviation of an action.
        generator: source of the initial weights.
    """

    def __init__(self, layer_feature_dim: int, hidden_dim: int, initial_std: float, generator: torch.Generator) -> None:
        super().__init__()
        self.layer_feature_dim = layer_feature_dim
        token_dim = layer_feature_dim + 1 + NUM_GLOBALS
        self.actor = LayerEncoder(token_dim, hidden_dim, generator)
        self.action_head = _linear(hidden_dim, 2, 0.01, generator)
        self.critic = LayerEncoder(token_dim, hidden_dim, generator)
        self.value_head = _linear(hidden_dim, 1, 1.0, generator)
        with torch.no_grad():
            self.action_head.bias[1] = math.log(initial_std)

    def _tokens(self, observations: torch.Tensor) -> torch.Tensor:
        num_layers = (observations.shape[-1] - NUM_GLOBALS) // (self.layer_feature_dim + 1)
        return layer_tokens(observations, num_layers, self.layer_feature_dim)

    def policy(self, observations: torch.Tensor) -> SquashedGaussian:
        """Action distributions [..., L] for observations [..., L*F + L + 5]."""
        mean, log_std = self.action_head(self.actor(self._tokens(observations))).unbind(-1)
        return SquashedGaussian(mean, log_std.clamp(*LOG_STD_RANGE))

    def value(self, observations: torch.Tensor) -> torch.Tensor:
        """State values [...] for observations [..., L*F + L + 5]."""
        return self.value_head(self.critic(self._tokens(observations)).mean(-2)).squeeze(-1)

"""Networks over the set of a network's layers: attention lets every layer look at all others, whatever their number."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """A block of a set transformer (Lee et al. 2019) with the normalisation in front (Xiong et al. 2020).

    Args:
        width: of the embeddings.
        heads: attention heads; they divide the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_update = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.update = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, layers: Tensor, present: Tensor) -> Tensor:
        """Embeddings [N, L, width] in the context of the layers that are present, bool [N, L]; [N, L, width]."""
        projected = self.query_key_value(self.before_attention(layers))
        query, key, value = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=present[:, None, None, :])
        layers = layers + self.output(seen.transpose(1, 2).flatten(-2))
        return layers + self.update(self.before_update(layers))


class LayerTransformer(nn.Module):
    """Embeds the inputs of all layers.

    Args:
        inputs: numbers a layer.
        width: of the embeddings.
        heads: attention heads.
        blocks: attention blocks.
    """

    def __init__(self, inputs: int, width: int, heads: int = 4, blocks: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(SelfAttention(width, heads) for _ in range(blocks))
        self.normalise = nn.LayerNorm(width)

    def forward(self, inputs: Tensor, present: Tensor) -> Tensor:
        """Inputs [N, L, inputs] and which layers are there, bool [N, L], to embeddings [N, L, width]."""
        layers = self.embed(inputs)
        for block in self.blocks:
            layers = block(layers, present)
        return self.normalise(layers)


class DamageNetwork(nn.Module):
    """Weights of a layer's damages, a linear map of its inputs, and with attention a correction in their context.

    Args:
        inputs: numbers a layer.
        damages: damages a layer (:mod:`agents.amortised.damages`).
        width: of the embeddings; 0: the linear map alone.
        dropout: share of inputs and embeddings left out in training.
    """

    def __init__(self, inputs: int, damages: int, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 2 * damages)
        self.layers = LayerTransformer(inputs, width) if width else None
        self.correction = nn.Linear(width, 2 * damages) if width else None
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.bias[:damages].fill_(FIRST_WEIGHT)
            self.linear.bias[damages:].zero_()
            if self.correction is not None:
                self.correction.weight.mul_(0.1)
                self.correction.bias.zero_()

    def forward(self, inputs: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [N, L, inputs] of networks to the parts of :func:`damage_weights`, [N, L, damages] each."""
        parts = self.linear(inputs)
        if self.layers is not None and self.correction is not None:
            parts = parts + self.correction(self.dropout(self.layers(self.dropout(inputs), present)))
        level, slope = parts.chunk(2, dim=-1)
        return level, slope


FIRST_WEIGHT = -2.0
"""Level every weight begins at, before the softplus."""
USUAL_LOG_REST = -1.6
"""Logarithm of the share of FLOPs that a plan leaves (20 %) at which the slope does not count."""


def damage_weights(level: Tensor, slope: Tensor, log_rest: Tensor) -> Tensor:
    """Weights of damages, at least 0, for plans that leave a share of the FLOPs.

    Args:
        level: [..., L, damages].
        slope: [..., L, damages], how they change with the depth of the cut.
        log_rest: [...], logarithm of the share of FLOPs left.
    """
    depth = (log_rest - USUAL_LOG_REST)[..., None, None]
    return nn.functional.softplus(level + torch.tanh(slope) * depth)

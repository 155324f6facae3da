"""Outputs of networks, and the distance between those of two; any nesting of tensors will do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax
from torch.utils import _pytree

from prune_gym.reconstruction.settings import Loss, Reconstruction


def call(model: nn.Module, inputs: Any) -> Any:
    """Run a network on a batch: a tuple or list is its arguments."""
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def float_outputs(outputs: Any) -> list[Tensor]:
    """The floating-point tensors in what a network returns, in their order."""
    leaves = _pytree.tree_leaves(outputs)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


@dataclass(frozen=True, eq=False)
class Matching:
    """The loss: how far a network's outputs are from the dense network's, summed over the outputs.

    ``T^2 KL(dense_T || pruned_T)`` over dimension 1 for logits (Hinton et al., 2015), the squared error relative to the
    variance of the dense output for values; both are means over images and positions.

    Attributes:
        losses: one for each floating-point output.
        scales: variance of each dense output.
        temperature: T.
    """

    losses: tuple[Loss, ...]
    scales: tuple[float, ...]
    temperature: float

    @classmethod
    def of(cls, dense: Sequence[Tensor], settings: Reconstruction) -> Matching:
        """The loss that fits a dense network's outputs.

        Args:
            dense: its floating-point outputs on some images.
            settings: says how they are matched.

        Raises:
            ValueError: the settings name another number of losses than there are outputs, or ask for the KL divergence
                of an output that has no two channels.
        """
        losses = _losses(dense, settings)
        for loss, output in zip(losses, dense, strict=True):
            if loss == "kl" and not _has_channels(output):
                raise ValueError(
                    f"loss='kl' needs logits of two or more channels [N, C, ...]; the network has an output "
                    f"{list(output.shape)}; say loss='mse' for it"
                )
        return cls(losses, tuple(_variance(output) for output in dense), settings.temperature)

    def __call__(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Mean loss of a batch, a scalar."""
        terms = [
            self._divergence(output, target) if loss == "kl" else (output.float() - target).square().mean() / scale
            for loss, scale, output, target in zip(self.losses, self.scales, outputs, targets, strict=True)
        ]
        return torch.stack(terms).sum()

    def _divergence(self, logits: Tensor, target_logits: Tensor) -> Tensor:
        student = log_softmax(logits.float() / self.temperature, dim=1)
        target = log_softmax(target_logits / self.temperature, dim=1)
        return self.temperature**2 * (target.exp() * (target - student)).sum(dim=1).mean()


def _losses(dense: Sequence[Tensor], settings: Reconstruction) -> tuple[Loss, ...]:
    if settings.loss == "auto":
        return tuple("kl" if _has_channels(output) else "mse" for output in dense)
    if isinstance(settings.loss, str):
        return (settings.loss,) * len(dense)
    if len(settings.loss) != len(dense):
        raise ValueError(
            f"loss names {len(settings.loss)} outputs, the network has {len(dense)} floating-point ones: "
            f"{[list(output.shape) for output in dense]}"
        )
    return settings.loss


def _has_channels(output: Tensor) -> bool:
    return output.ndim >= 2 and output.shape[1] >= 2


def _variance(output: Tensor) -> float:
    """Of a dense output's values; 1 where they are all the same."""
    variance = float(output.float().var(correction=0))
    return variance if variance > 0 else 1.0

"""The loss whose curvature is taken where the user names none: it follows from what the network gives.

==========================================  ==================================================================
outputs                                     default loss of a sample
==========================================  ==================================================================
one tensor ``[N, C, ...]`` with C > 1       cross-entropy over the C classes, averaged over positions; with
                                            float labels that are no distributions, mean squared error
any other tensor (``[N]``, ``[N, 1]``)      mean squared error
several tensors (tuple, dict, nested)       the sum of every tensor's mean squared error
==========================================  ==================================================================

Neither curvature depends on labels, so none are needed: the generalised Gauss-Newton matrix of a softmax is a function
of the outputs, that of a squared error the identity. A container with one tensor in it counts as that tensor.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def has_classes(outputs: Tensor) -> bool:
    """Return whether a tensor looks like logits: classes on dimension 1, at one position or many."""
    return outputs.ndim >= 2 and outputs.shape[1] > 1


def default_loss(outputs: Tensor, labels: Any) -> Any:
    """:func:`torch.nn.functional.cross_entropy` or :func:`torch.nn.functional.mse_loss`, by the table above.

    Args:
        outputs: [N, ...].
        labels: what came with the images; None where nothing did.

    Raises:
        ValueError: labels that fit neither loss.
    """
    if labels is None:
        return F.cross_entropy if has_classes(outputs) else F.mse_loss
    if not isinstance(labels, Tensor):
        raise ValueError(_misfit(outputs, type(labels).__name__))
    if has_classes(outputs):
        if not labels.is_floating_point():
            if labels.shape == outputs.shape[:1] + outputs.shape[2:]:
                return F.cross_entropy
        elif labels.shape == outputs.shape and _distributions(labels):
            return F.cross_entropy
    if labels.is_floating_point() and labels.numel() == outputs.numel():
        return F.mse_loss
    raise ValueError(_misfit(outputs, f"{labels.dtype} {list(labels.shape)}"))


def _distributions(labels: Tensor) -> bool:
    total = labels.sum(dim=1)
    return bool((labels >= 0).all() and torch.allclose(total, torch.ones_like(total), atol=1e-3))


def _misfit(outputs: Tensor, labels: str) -> str:
    """Message about labels that fit neither loss."""
    return (
        f"labels ({labels}) fit neither cross-entropy nor squared error of outputs {list(outputs.shape)}; pass "
        "criterion=<your loss>, or images without labels"
    )

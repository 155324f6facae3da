"""What to back-propagate so that output gradients carry the curvature of the loss.

For one sample with network output z the loss has the Hessian H(z). Any random v with ``E[v v^T] = H`` makes the
second moment of the back-propagated v the (generalised Gauss-Newton) curvature. The choices:

* ``sketch``: ``v = S e`` with ``S S^T = H`` and random signs e. One backward pass, lowest variance of the one-pass
  estimators (for a softmax ``S = diag(sqrt p) - p sqrt(p)^T``).
* ``mc``: the gradient at a label drawn from the model's own distribution (the Monte-Carlo Fisher).
* ``type-2``: every column of S in turn: exact, one backward pass a class.
* ``empirical``: the gradient at the true label. Vanishes on a converged network; for comparison only.

The convention is per-sample and unaveraged: the loss of one sample is ``criterion(z_n, y_n)``. Where a sample has
several output positions, as in dense prediction, that loss is their mean or their sum, as the criterion's ``reduction``
says; positions whose label is its ``ignore_index`` take no part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Criterion = Callable[[Tensor, Tensor], Tensor]
FISHER_TYPES = ("sketch", "mc", "type-2", "empirical")

IGNORE_INDEX = -100
"""PyTorch's default label of positions that cross-entropy leaves out."""


def backpropagated_vectors(
    outputs: Tensor, labels: Tensor, criterion: Criterion | None, fisher: str, generator: torch.Generator
) -> Iterator[Tensor]:
    """Vectors of the outputs' shape; the sum of their outer products estimates the loss Hessian a sample.

    Args:
        outputs: [N, C] or [N, C, *positions] network outputs (no gradient needed).
        labels: what the criterion compares with.
        criterion: loss of (outputs, labels), averaged or summed to a scalar; None is cross-entropy.
        fisher: one of ``FISHER_TYPES``.
        generator: source of the random signs or labels, on the outputs' device.

    Raises:
        ValueError: unknown type, or one that the criterion does not define.
    """
    outputs = outputs.detach()
    if fisher == "empirical":
        yield _loss_gradients(outputs, labels, criterion)
    elif _is_cross_entropy(criterion):
        yield from _softmax_vectors(outputs, _position_scale(criterion, outputs, labels), fisher, generator)
    elif _is_mse(criterion):
        scale = math.sqrt(2.0 * _mse_weight(criterion, outputs))
        yield from _isotropic_vectors(outputs, scale, fisher, generator)
    elif fisher in ("sketch", "type-2"):
        yield from _generic_vectors(outputs, labels, criterion, fisher, generator)
    elif fisher == "mc":
        raise ValueError(
            "fisher='mc' needs cross-entropy or mean squared error; use fisher='sketch' for this criterion"
        )
    else:
        raise ValueError(f"unknown fisher type {fisher!r}; choose one of {', '.join(FISHER_TYPES)}")


def check_criterion(criterion: Criterion | None, outputs: Tensor, labels: Tensor) -> Tensor:
    """The criterion's value on a batch, after checking that it is one number.

    Raises:
        ValueError: the criterion returns a tensor that is not a scalar.
    """
    loss = (criterion or F.cross_entropy)(outputs, labels)
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the criterion must return a scalar loss, got {shape}; use reduction='mean' or 'sum'")
    return loss


def _is_cross_entropy(criterion: Criterion | None) -> bool:
    # The very class: what a subclass computes is not known.
    if type(criterion) is nn.CrossEntropyLoss:
        return criterion.weight is None
    return criterion is None or criterion is F.cross_entropy


def _is_mse(criterion: Criterion | None) -> bool:
    return criterion is F.mse_loss or type(criterion) is nn.MSELoss


def _mse_weight(criterion: Criterion | None, outputs: Tensor) -> float:
    summed = isinstance(criterion, nn.MSELoss) and criterion.reduction == "sum"
    return 1.0 if summed else 1.0 / outputs[0].numel()


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    bits = torch.randint(0, 2, like.shape, generator=generator, device=like.device, dtype=torch.int8)
    return bits.to(like.dtype) * 2 - 1


def _position_scale(criterion: Criterion | None, outputs: Tensor, labels: Tensor) -> Tensor | float:
    """Square root of every position's weight in its sample's cross-entropy: a number, or [N, 1, *positions]."""
    summed, ignore_index = False, IGNORE_INDEX
    if isinstance(criterion, nn.CrossEntropyLoss):
        summed, ignore_index = criterion.reduction == "sum", criterion.ignore_index
    if not labels.is_floating_point():  # class indices; probabilities ignore nothing
        counted = labels.long() != ignore_index
        if not counted.all():
            scale = counted.to(outputs.dtype).view(len(outputs), 1, *outputs.shape[2:])
            return scale if summed else F.normalize(scale.flatten(1), dim=1).view_as(scale)
    return 1.0 if summed else 1.0 / math.sqrt(outputs[0].numel() / outputs.shape[1])


def _softmax_vectors(
    outputs: Tensor, scale: Tensor | float, fisher: str, generator: torch.Generator
) -> Iterator[Tensor]:
    """Classes on dimension 1; ``scale`` is the square root of every position's weight."""
    classes = outputs.shape[1]
    p = torch.softmax(outputs, dim=1)
    root = p.sqrt()
    if fisher == "sketch":
        signed = root * _signs(outputs, generator)
        yield (signed - p * signed.sum(dim=1, keepdim=True)) * scale
    elif fisher == "mc":
        flat = p.movedim(1, -1).reshape(-1, classes)
        drawn = torch.multinomial(flat, 1, generator=generator)[:, 0].view(p.movedim(1, -1).shape[:-1])
        yield (p - F.one_hot(drawn, classes).movedim(-1, 1)) * scale
    elif fisher == "type-2":
        if outputs[0].numel() > classes:
            raise ValueError("fisher='type-2' is exact only for one output position a sample; use 'sketch'")
        for index in range(classes):
            column = -p * root[:, index : index + 1]
            column[:, index] += root[:, index]
            yield column * scale
    else:
        raise ValueError(f"unknown fisher type {fisher!r}; choose one of {', '.join(FISHER_TYPES)}")


def _isotropic_vectors(outputs: Tensor, scale: float, fisher: str, generator: torch.Generator) -> Iterator[Tensor]:
    if fisher == "sketch":
        yield scale * _signs(outputs, generator)
    elif fisher == "mc":
        noise = torch.randn(outputs.shape, generator=generator, device=outputs.device, dtype=outputs.dtype)
        yield scale * noise
    elif fisher == "type-2":
        for index in range(outputs[0].numel()):
            column = outputs.new_zeros(outputs.shape)
            column.view(len(outputs), -1)[:, index] = scale
            yield column
    else:
        raise ValueError(f"unknown fisher type {fisher!r}; choose one of {', '.join(FISHER_TYPES)}")


def _loss_gradients(outputs: Tensor, labels: Tensor, criterion: Criterion | None) -> Tensor:
    """Gradient of every sample's own loss, [N, ...]."""
    leaf = outputs.clone().requires_grad_()
    with torch.enable_grad():
        losses = [check_criterion(criterion, leaf[n : n + 1], labels[n : n + 1]) for n in range(len(leaf))]
        (gradient,) = torch.autograd.grad(torch.stack(losses).sum(), leaf)
    return gradient


def _generic_vectors(
    outputs: Tensor, labels: Tensor, criterion: Criterion | None, fisher: str, generator: torch.Generator
) -> Iterator[Tensor]:
    """Square roots of every sample's output Hessian by automatic differentiation; negative curvature is dropped."""
    loss = criterion or F.cross_entropy

    def sample_loss(z: Tensor, y: Tensor) -> Tensor:
        return check_criterion(loss, z[None], y[None])

    hessians = torch.stack(
        [
            torch.func.hessian(sample_loss)(z, y).reshape(z.numel(), z.numel())
            for z, y in zip(outputs, labels, strict=True)
        ]
    )
    if not torch.isfinite(hessians).all():
        raise ValueError(
            "the criterion's second derivative has NaN or infinite values on this batch; check the criterion, the "
            "labels and the network's outputs"
        )
    values, vectors = torch.linalg.eigh(hessians)
    roots = vectors * values.clamp_min(0).sqrt()[:, None, :]
    if fisher == "sketch":
        signs = _signs(outputs.reshape(len(outputs), -1), generator)
        yield torch.einsum("nij,nj->ni", roots, signs).view_as(outputs)
    else:
        for index in range(roots.shape[2]):
            yield roots[:, :, index].reshape(outputs.shape)

"""Vectors to back-propagate so that output gradients carry the curvature of the loss.

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

Outputs may be nested; v then has one tensor for each tensor of theirs. Cross-entropy, squared error and binary
cross-entropy have closed forms that need no labels; of any other loss the Hessian is taken by automatic
differentiation, whole where a sample has few outputs (:data:`DENSE_OUTPUTS`), else by products with vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hessian.kfac.default_loss import default_loss
from hessian.support.layout import in_float64
from hessian.support.nested import map_tensors, nested_tensors

Criterion = Callable[[Any, Any], Tensor]
FISHER_TYPES = ("sketch", "mc", "type-2", "empirical")

IGNORE_INDEX = -100
"""PyTorch's default label of positions that cross-entropy leaves out."""

DENSE_OUTPUTS = 512
"""Outputs a sample up to which the Hessian of an unknown loss is formed as a matrix."""

LANCZOS_STEPS = 24
"""Products with the Hessian that a square root of it is built from, past that."""


def curvature_vectors(
    outputs: Any, labels: Any, criterion: Criterion | None, fisher: str, generator: torch.Generator
) -> Iterator[list[Tensor]]:
    """Vectors for the differentiable tensors of any outputs; see :func:`backpropagated_vectors`.

    Args:
        outputs: what the network returned: tensors in any containers.
        labels: what the criterion compares with; None where there is nothing.
        criterion: loss of (outputs, labels); None is the default loss (:mod:`hessian.kfac.default_loss`).
        fisher: one of ``FISHER_TYPES``.
        generator: source of the random signs or labels, on the outputs' device.

    Raises:
        ValueError: unknown type, labels that do not fit the outputs, or none where the criterion needs them.
    """
    leaves = differentiable(outputs)
    known = criterion is None or _has_closed_form(criterion)
    if len(leaves) == 1 and (known or outputs is leaves[0]):
        for vector in backpropagated_vectors(leaves[0], labels, criterion, fisher, generator):
            yield [vector]
    elif criterion is None and fisher != "empirical":
        scales = [math.sqrt(2.0 / _outputs_of_a_sample(leaf, leaves)) for leaf in leaves]
        for index, leaf in enumerate(leaves):
            for vector in _isotropic_vectors(leaf.detach(), scales[index], fisher, generator):
                yield [vector if other is leaf else torch.zeros_like(other) for other in leaves]
    elif criterion is None:
        raise ValueError("fisher='empirical' of several outputs needs a criterion: pass criterion=<your loss>")
    else:
        require_labels(criterion, labels, fisher)
        flat = FlatOutputs(outputs, labels)
        vectors = (
            [_loss_gradients(flat.values, flat, criterion)]
            if fisher == "empirical"
            else _generic_vectors(flat.values, flat, criterion, fisher, generator)
        )
        for vector in vectors:
            yield flat.parts(vector)


def differentiable(outputs: Any) -> list[Tensor]:
    """The tensors of outputs that a gradient can be sent back from."""
    return [leaf for leaf in nested_tensors(outputs) if leaf.is_floating_point() and leaf.requires_grad]


def require_labels(criterion: Criterion | None, labels: Any, fisher: str) -> None:
    """Raise where labels are needed and there are none.

    Raises:
        ValueError: a loss without a closed form, or the empirical Fisher, on images alone.
    """
    if labels is not None:
        return
    if fisher == "empirical":
        raise ValueError("fisher='empirical' needs labels, but the data is images alone; use fisher='sketch'")
    if criterion is not None and not _has_closed_form(criterion):
        raise ValueError(
            "this criterion needs labels, but the data is images alone; give (images, labels) batches, or leave "
            "criterion out: the curvature of the outputs' default loss needs none"
        )


def _has_closed_form(criterion: Criterion) -> bool:
    return _is_cross_entropy(criterion) or _is_mse(criterion) or _is_binary(criterion)


def _outputs_of_a_sample(leaf: Tensor, leaves: Sequence[Tensor]) -> int:
    """Entries of a tensor that belong to one sample; tensors that do not lead with the samples are one sample's."""
    samples = len(leaves[0]) if leaves[0].ndim else 1
    shared = leaf.ndim > 0 and len(leaf) == samples
    return max(1, leaf.numel() // samples if shared else leaf.numel())


class FlatOutputs:
    """Nested outputs as rows of numbers, one a sample, and losses of single samples.

    Args:
        outputs: tensors in any containers, samples first.
        labels: tensors in any containers, samples first.

    Attributes:
        values: [N, M], the differentiable outputs of every sample.

    Raises:
        ValueError: a differentiable output does not lead with the samples.
    """

    def __init__(self, outputs: Any, labels: Any) -> None:
        self._outputs, self._labels = outputs, labels
        self._leaves = differentiable(outputs)
        samples = len(self._leaves[0]) if self._leaves[0].ndim else 0
        if samples == 0 or any(leaf.ndim == 0 or len(leaf) != samples for leaf in self._leaves):
            shapes = [list(leaf.shape) for leaf in self._leaves]
            raise ValueError(
                "a criterion's curvature is taken sample by sample, so outputs must lead with the samples; got "
                f"{shapes}"
            )
        self.values = torch.cat([leaf.detach().reshape(samples, -1) for leaf in self._leaves], dim=1)

    def loss(self, criterion: Criterion | None, sample: int, row: Tensor) -> Tensor:
        """The criterion's value for one sample whose differentiable outputs are ``row`` [M]."""
        pieces = iter(self.parts(row[None]))
        chosen = {id(leaf) for leaf in self._leaves}

        def replaced(tensor: Tensor) -> Tensor:
            return next(pieces) if id(tensor) in chosen else self._of_sample(tensor, sample)

        labels = map_tensors(self._labels, lambda tensor: self._of_sample(tensor, sample))
        if isinstance(self._labels, list) and len(self._labels) == len(self.values):
            labels = [self._labels[sample]]  # one entry a sample, as detection targets come
        return check_criterion(criterion, map_tensors(self._outputs, replaced), labels)

    def parts(self, rows: Tensor) -> list[Tensor]:
        """Rows [N, M] as tensors of the differentiable outputs' shapes."""
        split = rows.split([leaf[0].numel() for leaf in self._leaves], dim=1)
        return [part.reshape(len(rows), *leaf.shape[1:]) for part, leaf in zip(split, self._leaves, strict=True)]

    def _of_sample(self, tensor: Tensor, sample: int) -> Tensor:
        leads = tensor.ndim > 0 and len(tensor) == len(self.values)
        return tensor[sample : sample + 1] if leads else tensor


def backpropagated_vectors(
    outputs: Tensor, labels: Any, criterion: Criterion | None, fisher: str, generator: torch.Generator
) -> Iterator[Tensor]:
    """Vectors of the outputs' shape; the sum of their outer products estimates the loss Hessian a sample.

    Args:
        outputs: [N, C] or [N, C, *positions] network outputs (no gradient needed).
        labels: what the criterion compares with; None where there is nothing.
        criterion: loss of (outputs, labels), averaged or summed to a scalar; None is the default loss.
        fisher: one of ``FISHER_TYPES``.
        generator: source of the random signs or labels, on the outputs' device.

    Raises:
        ValueError: unknown type, or one that the criterion does not define.
    """
    outputs = outputs.detach()
    if criterion is None:
        criterion = default_loss(outputs, labels)
    require_labels(criterion, labels, fisher)
    if fisher == "empirical":
        flat = FlatOutputs(outputs.requires_grad_(), labels)
        yield flat.parts(_loss_gradients(flat.values, flat, criterion))[0]
    elif _is_cross_entropy(criterion):
        yield from _softmax_vectors(outputs, _position_scale(criterion, outputs, labels), fisher, generator)
    elif _is_mse(criterion):
        scale = math.sqrt(2.0 * _mse_weight(criterion, outputs))
        yield from _isotropic_vectors(outputs, scale, fisher, generator)
    elif _is_binary(criterion):
        yield from _bernoulli_vectors(outputs, _mse_weight(criterion, outputs), fisher, generator)
    elif fisher in ("sketch", "type-2"):
        flat = FlatOutputs(outputs.requires_grad_(), labels)
        for rows in _generic_vectors(flat.values, flat, criterion, fisher, generator):
            yield flat.parts(rows)[0]
    elif fisher == "mc":
        raise ValueError(
            "fisher='mc' needs cross-entropy, binary cross-entropy or mean squared error; use fisher='sketch' for this "
            "criterion"
        )
    else:
        raise ValueError(f"unknown fisher type {fisher!r}; choose one of {', '.join(FISHER_TYPES)}")


def check_criterion(criterion: Criterion | None, outputs: Any, labels: Any) -> Tensor:
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


def _is_binary(criterion: Criterion | None) -> bool:
    if type(criterion) is nn.BCEWithLogitsLoss:
        return criterion.weight is None and criterion.pos_weight is None
    return criterion is F.binary_cross_entropy_with_logits


def _mse_weight(criterion: Criterion | None, outputs: Tensor) -> float:
    summed = isinstance(criterion, (nn.MSELoss, nn.BCEWithLogitsLoss)) and criterion.reduction == "sum"
    return 1.0 if summed else 1.0 / outputs[0].numel()


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    bits = torch.randint(0, 2, like.shape, generator=generator, device=like.device, dtype=torch.int8)
    return bits.to(like.dtype) * 2 - 1


def _position_scale(criterion: Criterion | None, outputs: Tensor, labels: Any) -> Tensor | float:
    """Square root of every position's weight in its sample's cross-entropy: a number, or [N, 1, *positions]."""
    summed, ignore_index = False, IGNORE_INDEX
    if isinstance(criterion, nn.CrossEntropyLoss):
        summed, ignore_index = criterion.reduction == "sum", criterion.ignore_index
    if labels is not None and not labels.is_floating_point():  # class indices; probabilities ignore nothing
        counted = labels.long() != ignore_index
        if not counted.all():
            scale = counted.to(outputs.dtype).view(len(outputs), 1, *outputs.shape[2:])
            return scale if summed else F.normalize(scale.flatten(1), dim=1).view_as(scale)
    return 1.0 if summed else 1.0 / math.sqrt(outputs[0].numel() / outputs.shape[1])


def _softmax_vectors(
    outputs: Tensor, scale: Tensor | float, fisher: str, generator: torch.Generator
) -> Iterator[Tensor]:
    """Classes on dimension 1; ``scale`` is the square root of every position's weight.

    Raises:
        ValueError: unknown Fisher type, or ``"type-2"`` with more than one output position a sample.
    """
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


def _bernoulli_vectors(outputs: Tensor, weight: float, fisher: str, generator: torch.Generator) -> Iterator[Tensor]:
    """Independent yes-or-no outputs: the Hessian is the diagonal of ``p (1 - p)``."""
    p = torch.sigmoid(outputs)
    if fisher == "mc":
        drawn = torch.bernoulli(p, generator=generator)
        yield math.sqrt(weight) * (p - drawn)
        return
    root = (weight * p * (1 - p)).sqrt()
    for vector in _isotropic_vectors(outputs, 1.0, fisher, generator):
        yield root * vector


def _loss_gradients(rows: Tensor, flat: FlatOutputs, criterion: Criterion | None) -> Tensor:
    """Gradient of every sample's own loss, [N, M]."""
    leaf = rows.clone().requires_grad_()
    with torch.enable_grad():
        losses = [flat.loss(criterion, n, leaf[n]) for n in range(len(leaf))]
        (gradient,) = torch.autograd.grad(torch.stack(losses).sum(), leaf)
    return gradient


def _generic_vectors(
    rows: Tensor, flat: FlatOutputs, criterion: Criterion | None, fisher: str, generator: torch.Generator
) -> Iterator[Tensor]:
    """Square roots of every sample's output Hessian by automatic differentiation; negative curvature is dropped.

    Yields [N, M] for outputs [N, M].

    Raises:
        ValueError: a Fisher type not defined for the criterion, or ``"type-2"`` with too many outputs.
    """
    if fisher not in ("sketch", "type-2"):
        raise ValueError(f"fisher={fisher!r} is not defined for this criterion; use fisher='sketch'")
    if rows.shape[1] > DENSE_OUTPUTS:
        if fisher == "type-2":
            raise ValueError(
                f"fisher='type-2' of this criterion would take {rows.shape[1]} backward passes; use fisher='sketch'"
            )
        yield root_product(rows, flat, criterion, _signs(rows, generator))
        return
    hessians = torch.stack(
        [torch.func.hessian(lambda z, n=n: flat.loss(criterion, n, z))(row) for n, row in enumerate(rows)]
    )
    _check_finite(hessians)
    values, vectors = torch.linalg.eigh(hessians)
    roots = vectors * values.clamp_min(0).sqrt()[:, None, :]
    if fisher == "sketch":
        yield torch.einsum("nij,nj->ni", roots, _signs(rows, generator))
    else:
        for index in range(roots.shape[2]):
            yield roots[:, :, index]


def root_product(rows: Tensor, flat: FlatOutputs, criterion: Criterion | None, start: Tensor) -> Tensor:
    """``H^(1/2) e`` for every sample's Hessian H, by Lanczos' method; negative curvature is dropped.

    ``|e| Q f(T) e_1`` with the tridiagonal T of :data:`LANCZOS_STEPS` steps (Higham, Functions of Matrices, 13.2.1);
    exact where H has no more distinct eigenvalues than steps.

    Args:
        rows: [N, M], where the Hessians are taken.
        flat: gives every sample's loss.
        criterion: the loss.
        start: e [N, M].

    Returns:
        [N, M].
    """
    leaf = rows.clone().requires_grad_()
    with torch.enable_grad():
        total = torch.stack([flat.loss(criterion, n, leaf[n]) for n in range(len(leaf))]).sum()
        (gradient,) = torch.autograd.grad(total, leaf, create_graph=True)
    norm = start.norm(dim=1, keepdim=True)
    basis = [start / norm]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for _ in range(min(LANCZOS_STEPS, rows.shape[1])):
        (product,) = torch.autograd.grad(gradient, leaf, basis[-1], retain_graph=True, materialize_grads=True)
        _check_finite(product)
        diagonal.append((product * basis[-1]).sum(dim=1))
        for _ in range(2):  # twice is enough: rounding would bring found directions back
            for known in basis:
                product = product - (product * known).sum(dim=1, keepdim=True) * known
        length = product.norm(dim=1)
        beside.append(length)
        alive = length > 1e-6 * (torch.stack(diagonal).abs().amax(dim=0) + torch.finfo(length.dtype).tiny)
        beside[-1] = torch.where(alive, length, torch.zeros_like(length))
        basis.append(torch.where(alive[:, None], product / length.clamp_min(1e-30)[:, None], torch.zeros_like(product)))
    T = torch.diag_embed(torch.stack(diagonal, dim=1))
    steps = torch.arange(len(diagonal) - 1, device=rows.device)
    off = torch.stack(beside[:-1], dim=1) if len(diagonal) > 1 else rows.new_zeros(len(rows), 0)
    T[:, steps, steps + 1] = T[:, steps + 1, steps] = off
    values, vectors = torch.linalg.eigh(in_float64(T))
    first = torch.einsum("nik,nk,nk->ni", vectors, values.clamp_min(0).sqrt(), vectors[:, 0]).to(rows)
    return norm * torch.einsum("knm,nk->nm", torch.stack(basis[:-1]), first)


def _check_finite(curvature: Tensor) -> None:
    if not torch.isfinite(curvature).all():
        raise ValueError(
            "the criterion's second derivative has NaN or infinite values on this batch; check the criterion, the "
            "labels and the network's outputs"
        )

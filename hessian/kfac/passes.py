"""Passes that carry the curvature of the loss to every layer, for hooks to gather."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hessian.kfac.checks import check_inputs
from hessian.kfac.loss_curvature import (
    FISHER_TYPES,
    Criterion,
    check_criterion,
    curvature_vectors,
    differentiable,
    require_labels,
)
from hessian.support.batches import Batch
from hessian.support.layout import Layout, preferred_layout, runs_on, unchanged

FLOAT16_SCALE = 1024.0
"""Gradients of float16 networks are computed so many times as large: the type ends at 6e-8."""


class CurvaturePasses:
    """Forward passes of one network, and backward passes of what has the loss's curvature as its second moment.

    Args:
        model: the network, in the mode and with the frozen weights it is to run in.
        criterion: scalar loss of (outputs, labels); None is the outputs' default loss
            (:mod:`hessian.kfac.default_loss`).
        fisher: what is back-propagated, one of :data:`hessian.kfac.loss_curvature.FISHER_TYPES`.

    Raises:
        ValueError: unknown Fisher type.
    """

    def __init__(self, model: nn.Module, criterion: Criterion | None, fisher: str) -> None:
        if fisher not in FISHER_TYPES:
            raise ValueError(f"unknown fisher type {fisher!r}; choose one of {', '.join(FISHER_TYPES)}")
        self._model = model
        self._criterion = criterion
        self._fisher = fisher
        self._layout: Layout | None = None
        self._dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    @property
    def scale(self) -> float:
        """Factor on the gradients, lest those of float16 networks vanish."""
        return FLOAT16_SCALE if self._dtype is torch.float16 else 1.0

    def prepare(self, batch: Batch) -> None:
        """Choose how tensors are laid out, by a trial pass; to be called before hooks look.

        Raises:
            ValueError: inputs of another type than the weights, or no labels where the criterion needs them.
        """
        require_labels(self._criterion, batch.labels, self._fisher)
        images = batch.images
        if images is None:
            return
        check_inputs(self._model, images)
        if self._layout is None:
            self._layout = preferred_layout if runs_on(self._model, preferred_layout(images[:1])) else unchanged

    def run(self, batch: Batch, generator: torch.Generator) -> None:
        """One batch: forward, then backward for every vector.

        Args:
            batch: on the model's device.
            generator: source of random signs or labels, on the model's device.

        Raises:
            ValueError: no output that a watched layer reaches, labels that do not fit, or a criterion that does not
                give one number.
        """
        outputs = self._forward(batch)
        leaves = differentiable(outputs)
        labels = batch.labels
        vectors = list(curvature_vectors(outputs, labels, self._criterion, self._fisher, generator))
        for index, vector in enumerate(vectors):
            scaled = [(part * self.scale).to(leaf.dtype) for part, leaf in zip(vector, leaves, strict=True)]
            torch.autograd.backward(leaves, scaled, retain_graph=index + 1 < len(vectors))

    def run_forward(self, batch: Batch) -> None:
        """One batch, forward only, for hooks that look at inputs."""
        with torch.no_grad():
            self._laid_out(batch).run(self._model)

    def _forward(self, batch: Batch) -> Any:
        with torch.enable_grad():
            outputs = self._laid_out(batch).run(self._model)
        if not differentiable(outputs):
            raise ValueError("no watched layer reaches the model's output; curvature cannot be measured")
        if self._criterion is not None and batch.labels is not None:
            with torch.no_grad():
                check_criterion(self._criterion, outputs, batch.labels)
        return outputs

    def _laid_out(self, batch: Batch) -> Batch:
        images = batch.images
        if images is None or self._layout is None:
            return batch
        return Batch((self._layout(images),), {}, batch.labels)

"""Passes that carry the curvature of the loss to every layer, for hooks to gather."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hessian.kfac.checks import check_inputs
from hessian.kfac.loss_curvature import FISHER_TYPES, Criterion, backpropagated_vectors, check_criterion
from hessian.support.layout import Layout, preferred_layout, runs_on, unchanged


class CurvaturePasses:
    """Forward passes of one network, and backward passes of what has the loss's curvature as its second moment.

    Args:
        model: the network, in the mode and with the frozen weights it is to run in.
        criterion: scalar loss of (outputs, labels); None is cross-entropy.
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

    def run(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> None:
        """One batch: forward, then backward for every vector.

        Args:
            inputs: [N, ...], on the model's device; the first batch decides how tensors are laid out.
            labels: what the criterion compares with.
            generator: source of random signs or labels, on the model's device.

        Raises:
            ValueError: inputs of another type than the weights, an output that is no tensor or that no watched layer
                reaches, or a criterion that does not give one number.
        """
        check_inputs(self._model, inputs)
        if self._layout is None:
            self._layout = preferred_layout if runs_on(self._model, preferred_layout(inputs[:1])) else unchanged
        outputs = self._forward(self._layout(inputs), labels)
        vectors = list(backpropagated_vectors(outputs, labels, self._criterion, self._fisher, generator))
        for index, vector in enumerate(vectors):
            outputs.backward(vector, retain_graph=index + 1 < len(vectors))

    def _forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        with torch.enable_grad():
            outputs = self._model(inputs)
        if not isinstance(outputs, Tensor):
            raise ValueError(f"the model must return one tensor, got {type(outputs).__name__}")
        if not outputs.requires_grad:
            raise ValueError("no watched layer reaches the model's output; curvature cannot be measured")
        with torch.no_grad():
            check_criterion(self._criterion, outputs, labels)
        return outputs

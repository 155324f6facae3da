"""Outputs of a network: their tensors, the classes they stand for, and targets made of the network's own outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils import _pytree

from hessian.support.modes import modes_restored
from prune_gym.support.device import module_device

Criterion = Callable[[Tensor, Tensor], Tensor]

BATCH_SIZE = 128
"""Images a forward pass."""


def tensors_of(outputs: Any) -> list[Tensor]:
    """The floating-point tensors [N, ...] of an output: a tensor, or a tuple, list or dict of such."""
    leaves = _pytree.tree_leaves(outputs)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def scores_classes(criterion: Criterion) -> bool:
    """Return whether a criterion is cross-entropy, so that dimension 1 of the outputs counts classes."""
    return criterion is cross_entropy or type(criterion) is nn.CrossEntropyLoss


def knows_own_targets(criterion: Criterion) -> bool:
    """Return whether a network's own outputs can stand in for labels: for cross-entropy and squared errors."""
    return scores_classes(criterion) or criterion is mse_loss or type(criterion) is nn.MSELoss


@torch.no_grad()
def outputs_of(model: nn.Module, images: Tensor, batch_size: int = BATCH_SIZE) -> list[Tensor]:
    """All floating-point outputs in evaluation mode: one tensor [N, ...] an output, on the model's device."""
    device = module_device(model)
    with modes_restored(model):
        model.eval()
        batches = [tensors_of(model(part.to(device))) for part in images.split(batch_size)]
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def own_targets(model: nn.Module, images: Tensor, criterion: Criterion) -> Tensor:
    """The network's own outputs as targets: the likeliest class for cross-entropy, else the outputs themselves.

    Args:
        model: the dense network.
        images: [N, ...].
        criterion: what the targets are for.

    Returns:
        Class indices int64 [N, *positions], or the outputs; several outputs as one row [N, D]; where ``images`` are.

    Raises:
        ValueError: cross-entropy of a network that returns several tensors, or only one class.
    """
    outputs = outputs_of(model, images)
    if not scores_classes(criterion):
        targets = outputs[0] if len(outputs) == 1 else torch.cat([output.flatten(1) for output in outputs], dim=1)
    elif len(outputs) == 1 and outputs[0].ndim >= 2 and outputs[0].shape[1] > 1:
        targets = outputs[0].argmax(dim=1)
    else:
        shapes = ", ".join(str(list(output.shape)) for output in outputs)
        raise ValueError(
            f"cross-entropy needs logits [N, classes, ...], and the network returns {shapes}; "
            "pass criterion=torch.nn.functional.mse_loss for outputs that are numbers"
        )
    return targets.to(images.device)


def count_outputs(model: nn.Module, example_input: Tensor, *, classes_only: bool) -> int:
    """Width of the first output, found by running the example.

    Args:
        model: the network.
        example_input: [N, ...].
        classes_only: whether it has to be one tensor of logits [N, num_classes].

    Raises:
        ValueError: the network does not run on the example, or returns something else.
    """
    try:
        with modes_restored(model), torch.no_grad():
            model.eval()
            outputs = model(example_input.to(module_device(model)))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the model does not accept example_input {list(example_input.shape)}: {error}") from error
    given = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if classes_only and not (isinstance(outputs, Tensor) and outputs.ndim == 2 and len(outputs) == len(example_input)):
        raise ValueError(f"the model must return logits [N, num_classes]; it returned {given} (others need a metric)")
    leaves = tensors_of(outputs)
    if not leaves or any(leaf.ndim == 0 or len(leaf) != len(example_input) for leaf in leaves):
        raise ValueError(
            f"the model must return floating-point tensors [N, ...], one row an image; it returned {given}"
        )
    return leaves[0].shape[1] if leaves[0].ndim > 1 else 1

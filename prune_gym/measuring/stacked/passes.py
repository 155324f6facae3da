"""Forward passes of one network with several state dicts at once.

``torch.func.vmap`` makes of a convolution with a stack of weights one grouped convolution, of a linear layer one
batched product, and so on: as many kernels as one network has, each with more to do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from hessian.channels.norms import BATCH_NORM, is_plain_norm
from prune_gym.measuring.stacked.shapes import Stacked


@torch.no_grad()
def outputs(model: nn.Module, stacked: Stacked, images: Tensor) -> Any:
    """Outputs of a network in evaluation mode with every one of several state dicts.

    Args:
        model: the network; sizes that its forward pass reads are those of the stack.
        stacked: [plans, ...] a tensor.
        images: [N, ...], the same for all.

    Returns:
        What the network returns, [plans, N, ...].
    """
    own = _tensors_of(model, stacked)
    with warnings.catch_warnings():
        # Operators that vmap does not know run plan by plan, which is what would be done otherwise.
        warnings.filterwarnings("ignore", "There is a performance drop")
        return vmap(lambda tensors: functional_call(model, tensors, (images,), tie_weights=False))(own)


@torch.no_grad()
def batch_statistics(model: nn.Module, stacked: Stacked, images: Tensor) -> Stacked:
    """Means and variances that the batch norms of a network see on some images, with every one of several state dicts.

    Every batch norm normalises by what it sees, so that those behind it see what they will.

    Args:
        model: the network, in evaluation mode; see :func:`outputs`.
        stacked: [plans, ...] a tensor.
        images: one batch [N, ...].

    Returns:
        Running statistics of every batch norm, [plans, channels]; of one that runs several times, their mean.
    """
    own = _tensors_of(model, stacked)

    def one(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        with _observed(model) as seen:
            functional_call(model, tensors, (images,), tie_weights=False)
        return {
            f"{name}.{statistic}": torch.stack([each[column] for each in calls]).mean(dim=0)
            for name, calls in seen.items()
            for column, statistic in enumerate(("running_mean", "running_var"))
        }

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        return vmap(one)(own)


def recalibrates(model: nn.Module) -> bool:
    """Return whether all batch norms of a network are nothing more than that, as :func:`batch_statistics` asks."""
    return all(is_plain_norm(module) for module in model.modules() if isinstance(module, BATCH_NORM))


def _tensors_of(model: nn.Module, stacked: Stacked) -> Stacked:
    """Those that are held by the network, each once: a module of two names would not get its own back."""
    names = [
        f"{owner}.{name}" if owner else name
        for owner, module in model.named_modules()
        for name in (*module._parameters, *module._buffers)
    ]
    return {name: stacked[name] for name in names if name in stacked}


@contextmanager
def _observed(model: nn.Module) -> Iterator[dict[str, list[tuple[Tensor, Tensor]]]]:
    """Inside, batch norms with running statistics use the batch's; gives mean and variance of all their calls."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    norms: list[Any] = []
    for name, module in model.named_modules():
        if isinstance(module, BATCH_NORM) and module.track_running_stats:
            norms.append(module)
            module.__dict__["forward"] = _observing(module, seen.setdefault(name, []))
    try:
        yield seen
    finally:
        for norm in norms:
            del norm.__dict__["forward"]


def _observing(norm: Any, seen: list[tuple[Tensor, Tensor]]) -> Callable[[Tensor], Tensor]:
    def forward(input: Tensor) -> Tensor:
        axes = [axis for axis in range(input.ndim) if axis != 1]
        variance, mean = torch.var_mean(input, dim=axes, correction=0)
        count = input.numel() // input.shape[1]
        seen.append((mean, variance * (count / (count - 1))))
        gain = torch.rsqrt(variance + norm.eps)
        gain = gain if norm.weight is None else gain * norm.weight
        shape = [1, -1, *[1] * (input.ndim - 2)]
        normalised = (input - mean.view(shape)) * gain.view(shape)
        return normalised if norm.bias is None else normalised + norm.bias.view(shape)

    return forward


def bytes_of_maps(model: nn.Module, images: Tensor) -> float:
    """Bytes an image of the largest inputs and outputs of a module that has no modules inside.

    Args:
        model: the network; run once, as it is.
        images: [N, ...].
    """
    largest = 0

    def see(_module: nn.Module, given: Any, returned: Any) -> None:
        nonlocal largest
        largest = max(largest, sum(tensor.nbytes for tensor in _leaves((given, returned))))

    leaves = [module for module in model.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(see) for module in leaves]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return largest / len(images)


def _leaves(values: Any) -> Sequence[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(values) if isinstance(leaf, Tensor)]

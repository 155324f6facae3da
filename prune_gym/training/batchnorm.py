"""Batch-norm statistics of a network that has changed since they were taken."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hessian.channels.layer_calls import layer_input
from hessian.support.batches import Batch, read_batches, regrouped, run_example
from hessian.support.door import plain_execution, plain_model
from hessian.support.modes import modes_restored
from prune_gym.data.splits import TensorSplit, equal_parts
from prune_gym.support.device import module_device

BN_BATCH_SIZE = 512
"""Largest batch of a recalibration pass when none is asked for."""


@torch.no_grad()
def recalibrate_bn(model: nn.Module, split: TensorSplit | Any, batch_size: int | None = None) -> None:
    """Replace the running statistics of every batch norm by those of the split, in place.

    Only the batch norms see batch statistics; dropout stays off. Statistics are averaged over batches, each counting
    the same, so the split is cut into batches of nearly equal size.

    Args:
        model: On any device; modes and momenta are left as they were. Without batch norms nothing happens.
        split: Images to take the statistics from: a split, a tensor, a dataset or a loader; labels are not used. What
            is not one tensor of images a batch is run batch by batch as it comes.
        batch_size: At most this many images a batch (512 if None).

    Raises:
        ValueError: If the split is empty, or a batch gives a batch norm a single value a channel, which has no
            variance; the statistics are then as they were.
    """
    model = plain_model(model)
    if not _norms(model):
        return
    average_statistics(
        model, _batches(split, module_device(model), BN_BATCH_SIZE if batch_size is None else batch_size, model)
    )


def _batches(data: Any, device: torch.device, batch_size: int, model: nn.Module) -> Iterable[Batch]:
    if isinstance(data, TensorSplit):
        if len(data) == 0:
            raise ValueError("cannot recalibrate batch norms on an empty split")
        images: torch.Tensor = data.images
    else:
        merged = regrouped(read_batches(data, device, model=model), sys.maxsize)
        if len(merged) > 1 or merged[0].images is None:
            return merged
        images = merged[0].images
    return (Batch((images[part].to(device),)) for part in equal_parts(torch.arange(len(images)), batch_size))


@torch.no_grad()
def average_statistics(model: nn.Module, batches: Iterable[Any]) -> None:
    """Replace the running statistics of every batch norm by the mean of the batches' own; see :func:`recalibrate_bn`.

    Args:
        model: On any device.
        batches: Inputs on that device, of nearly equal size; a tuple or list is the network's arguments.

    Raises:
        ValueError: If a batch gives a batch norm a single value a channel.
    """
    norms = _norms(model)
    if not norms:
        return
    with plain_execution(), torch.no_grad(), modes_restored(model), _cumulative_statistics(norms):
        model.eval()
        for norm in norms.values():
            norm.train()
        for inputs in batches:
            run_example(model, inputs)


def _norms(model: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


@contextmanager
def mean_over_batches(norms: Iterable[_BatchNorm]) -> Iterator[None]:
    """Inside, running statistics become the mean over the batches seen, as with a ``momentum`` of None.

    PyTorch reads the number of batches off a tensor then, at every norm and batch, and waits for the device; here it is
    counted.

    Args:
        norms: whose statistics have been reset.
    """
    momenta = [(norm, norm.momentum) for norm in norms]
    seen = dict.fromkeys((norm for norm, _ in momenta), 0)

    def count(norm: Any, _args: Any) -> None:
        seen[norm] += 1
        norm.momentum = 1.0 / seen[norm]

    hooks = [norm.register_forward_pre_hook(count) for norm in seen]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in momenta:
            norm.momentum = momentum


@contextmanager
def _cumulative_statistics(norms: dict[str, _BatchNorm]) -> Iterator[None]:
    """Batch norms start afresh and average over batches; on an error they get their statistics back."""
    saved = {name: {key: value.clone() for key, value in norm.named_buffers()} for name, norm in norms.items()}
    hooks = [norm.register_forward_pre_hook(_variance_check(name), with_kwargs=True) for name, norm in norms.items()]
    try:
        for norm in norms.values():
            norm.reset_running_stats()
        with mean_over_batches(norms.values()):
            yield
    except BaseException:
        for name, norm in norms.items():
            for key, value in saved[name].items():
                norm.get_buffer(key).copy_(value)
        raise
    finally:
        for hook in hooks:
            hook.remove()


def _variance_check(name: str) -> Callable[[nn.Module, Any, Any], None]:
    def check(module: nn.Module, args: Any, kwargs: Any) -> None:
        given = layer_input(args, kwargs)
        values = given.numel() // given.shape[1]
        if values < 2:
            raise ValueError(
                f"batch norm {name!r} gets {values} value a channel from a batch, which has no variance; "
                "use more images or a larger batch_size"
            )

    return check

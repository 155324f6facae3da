"""The conditions a model is measured under: number format, memory format, compilation, threads."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor, nn

from prune_gym.support.device import module_device
from prune_gym.support.timing import inference


class ConditionOptions(TypedDict, total=False):
    """The keyword arguments that measurements take; see :class:`RunConditions`."""

    dtype: torch.dtype | None
    channels_last: bool
    compiled: bool
    num_threads: int | None


@dataclass(frozen=True)
class RunConditions:
    """Conditions under which a model is measured.

    Attributes:
        dtype: Floating-point type of weights and inputs; None means the model's own.
        channels_last: Whether weights and 4-d inputs are stored channels last (NHWC); False leaves them as they are.
        compiled: Whether the model runs through ``torch.compile``; compiling happens in the warm-up.
        num_threads: CPU threads inside an operator; None means what PyTorch is set to.

    Raises:
        TypeError: If ``dtype`` is no ``torch.dtype``.
        ValueError: If ``dtype`` is no floating-point type or ``num_threads`` < 1.
    """

    dtype: torch.dtype | None = None
    channels_last: bool = False
    compiled: bool = False
    num_threads: int | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and not isinstance(self.dtype, torch.dtype):
            raise TypeError(f"dtype must be a torch.dtype such as torch.bfloat16, got {self.dtype!r}")
        if self.dtype is not None and not self.dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, got {self.dtype}")
        if self.num_threads is not None and self.num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {self.num_threads}")

    def prepared(self, model: nn.Module) -> nn.Module:
        """Return the model as it is to be run; a converted copy where conditions ask for another format."""
        if self.dtype is not None or self.channels_last:
            model = copy.deepcopy(model)
            if self.dtype is not None:
                model = model.to(self.dtype)
            if self.channels_last:
                model = model.to(memory_format=torch.channels_last)
        if self.compiled:
            model = torch.compile(model)  # type: ignore[assignment]
        return model

    def formatted(self, inputs: Tensor) -> Tensor:
        """Return inputs in the memory format asked for."""
        if self.channels_last and inputs.ndim == 4:
            return inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Run a block with the number of threads asked for."""
        before = torch.get_num_threads()
        if self.num_threads is not None:
            torch.set_num_threads(self.num_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def floating_dtype(model: nn.Module) -> torch.dtype:
    """The floating-point type of a model's parameters; PyTorch's default for a model without any."""
    floating = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return next(floating, torch.get_default_dtype())


def working_input(model: nn.Module, shape: Sequence[int]) -> Tensor:
    """Return a random batch that the model has been seen to run on, so that later errors are not the model's.

    Args:
        model: Any network.
        shape: [batch, ...].

    Raises:
        ValueError: If the shape is not one of a batch or the model does not run on it.
        MemoryError: If such a batch does not fit into memory; a smaller one is suggested.
    """
    if len(shape) < 2 or any(not isinstance(extent, int) or extent < 1 for extent in shape):
        raise ValueError(
            "an input shape is a batch and at least one more dimension, all positive integers, such as "
            f"(1, 3, 224, 224); got {tuple(shape)}"
        )
    generator = torch.Generator().manual_seed(0)
    try:
        inputs = torch.randn(tuple(shape), generator=generator)
        inputs = inputs.to(device=module_device(model), dtype=floating_dtype(model))
        with inference(model):
            model(inputs)
    except (MemoryError, RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        if _is_out_of_memory(error):
            raise MemoryError(_too_large(shape)) from error
        message = f"{type(model).__name__} does not run on inputs of shape {tuple(shape)}: {error}"
        raise ValueError(message) from error
    return inputs


def batch_shape(batch_size: int, input_shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a batch.

    Raises:
        ValueError: the batch is empty.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return (batch_size, *input_shape)


def _is_out_of_memory(error: Exception) -> bool:
    # The CPU allocator has no exception class of its own.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _too_large(shape: Sequence[int]) -> str:
    batch = shape[0]
    remedy = f"try a batch of {batch // 2} or less" if batch > 1 else "not even one input fits: use smaller inputs"
    return f"a batch of {batch} inputs of shape {tuple(shape[1:])} does not fit into memory; {remedy}"

"""What a network costs to run: latency, throughput, FLOPs, parameters, memory, bytes on disk."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from prune_gym.device import module_device, synchronize
from prune_gym.timing import Timing, inference, time_model


class SystemMetrics:
    """Measurements of one model, as static methods.

    Everything runs in eval and inference mode on the device the model is on, and leaves the model as it was. Inputs are
    standard normal, of the model's floating-point type. A FLOP count is 2 x MACs of the convolution and linear layers
    for *one* input, whatever the batch.
    """

    @staticmethod
    def measure_latency(
        model: nn.Module,
        input_shape: Sequence[int] = (1, 3, 224, 224),
        num_iterations: int = 100,
        *,
        num_warmup: int = 10,
    ) -> tuple[float, float]:
        """Return how long one batch takes.

        Args:
            model: The model.
            input_shape: Shape of a batch, [batch, ...].
            num_iterations: Timed passes, >= 1.
            num_warmup: Untimed passes before them, >= 0.

        Returns:
            Mean and sample standard deviation of the latency, in ms.

        Raises:
            ValueError: If an argument is out of range or the model does not run on such inputs.
            MemoryError: If a batch of this size does not fit into memory.
        """
        timing = SystemMetrics.time(model, input_shape, num_iterations, num_warmup=num_warmup)
        return timing.mean_ms, timing.std_ms

    @staticmethod
    def time(
        model: nn.Module,
        input_shape: Sequence[int] = (1, 3, 224, 224),
        num_iterations: int = 100,
        *,
        num_warmup: int = 10,
    ) -> Timing:
        """Like `measure_latency`, with every sample and its percentiles."""
        inputs = _working_input(model, input_shape)
        return time_model(model, inputs, num_iterations=num_iterations, num_warmup=num_warmup)

    @staticmethod
    def measure_throughput(
        model: nn.Module,
        batch_size: int = 64,
        input_shape: Sequence[int] = (3, 224, 224),
        num_iterations: int = 50,
        *,
        num_warmup: int = 10,
    ) -> float:
        """Return how many inputs a second the model handles in batches.

        Args:
            model: The model.
            batch_size: Inputs in a batch, >= 1.
            input_shape: Shape of one input, without the batch.
            num_iterations: Timed batches, >= 1.
            num_warmup: Untimed batches before them, >= 0.

        Returns:
            Inputs (images) per second: ``batch_size`` over the mean latency.

        Raises:
            ValueError: If an argument is out of range or the model does not run on such inputs.
            MemoryError: If a batch of this size does not fit into memory.
        """
        shape = _batch_shape(batch_size, input_shape)
        mean_ms, _ = SystemMetrics.measure_latency(model, shape, num_iterations, num_warmup=num_warmup)
        return batch_size / (mean_ms / 1e3)

    @staticmethod
    def count_parameters(model: nn.Module) -> int:
        """Return the number of parameters, frozen ones included and shared ones counted once."""
        return sum(parameter.numel() for parameter in model.parameters())

    @staticmethod
    def count_flops(model: nn.Module, input_shape: Sequence[int] = (1, 3, 224, 224)) -> int:
        """Return the FLOPs of one input, 2 x MACs of convolution and linear layers.

        Args:
            model: The model.
            input_shape: Shape of a batch, [batch, ...]; the count is for one input whatever the batch.

        Raises:
            ValueError: If the shape is not one of a batch or the model does not run on such inputs.
        """
        inputs = _working_input(model, (1, *input_shape[1:]))
        counter = FlopCounterMode(display=False)
        with inference(model), counter:
            model(inputs)
        return int(counter.get_total_flops())

    @staticmethod
    def bytes_on_disk(model: nn.Module) -> int:
        """Return the size of the model's state dict as a safetensors file, in bytes."""
        # Cloned, because the format refuses tensors that share storage.
        state = model.state_dict().items()
        stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state}
        return len(safetensors.torch.save(stored))

    @staticmethod
    def peak_memory(model: nn.Module, input_shape: Sequence[int] = (1, 3, 224, 224)) -> tuple[int, str] | None:
        """Return the peak memory while one batch passes through, parameters included.

        Returns:
            Bytes, and what they are: ``"cuda_allocated"`` (tensors on the GPU) or ``"process_rss"`` (the whole process,
            Python and PyTorch included; Linux). None where neither can be measured.

        Raises:
            ValueError: If the model does not run on such inputs.
            MemoryError: If a batch of this size does not fit into memory.
        """
        inputs = _working_input(model, input_shape)
        with inference(model):
            if inputs.device.type == "cuda":
                return _peak_cuda_bytes(lambda: model(inputs), inputs.device), "cuda_allocated"
            if sys.platform == "linux":
                peak = peak_rss_bytes(lambda: model(inputs))
                return None if peak is None else (peak, "process_rss")
        return None

    @staticmethod
    def measure_all(
        model: nn.Module,
        batch_size: int = 64,
        input_shape: Sequence[int] = (3, 224, 224),
        *,
        latency_iterations: int = 100,
        throughput_iterations: int = 50,
        num_warmup: int = 10,
    ) -> dict[str, Any]:
        """Return every measurement of a model.

        Args:
            model: The model.
            batch_size: Inputs in a batch for throughput and peak memory, >= 1; latency is that of a single input.
            input_shape: Shape of one input, without the batch.
            latency_iterations: Timed single inputs, >= 1.
            throughput_iterations: Timed batches, >= 1.
            num_warmup: Untimed passes before each of the two, >= 0.

        Returns:
            ``latency_ms`` (mean), ``latency_std_ms``, ``latency_p50_ms``, ``latency_p90_ms``, ``latency_p99_ms``,
            ``throughput_imgs_per_sec``, ``parameters``, ``flops`` (of one input), ``bytes_on_disk``,
            ``peak_memory_bytes`` and ``peak_memory_kind`` (None where unavailable), and the conditions: ``batch_size``,
            ``input_shape``, ``device``, ``dtype``, ``num_threads``. JSON-able.

        Raises:
            ValueError: If an argument is out of range or the model does not run on such inputs.
            MemoryError: If a batch of this size does not fit into memory.
        """
        batch_shape = _batch_shape(batch_size, input_shape)
        single_shape = (1, *input_shape)
        flops = SystemMetrics.count_flops(model, single_shape)
        latency = SystemMetrics.time(model, single_shape, latency_iterations, num_warmup=num_warmup)
        throughput = SystemMetrics.measure_throughput(
            model, batch_size, input_shape, throughput_iterations, num_warmup=num_warmup
        )
        memory = SystemMetrics.peak_memory(model, batch_shape)
        return {
            "latency_ms": latency.mean_ms,
            "latency_std_ms": latency.std_ms,
            "latency_p50_ms": latency.p50_ms,
            "latency_p90_ms": latency.p90_ms,
            "latency_p99_ms": latency.p99_ms,
            "throughput_imgs_per_sec": throughput,
            "parameters": SystemMetrics.count_parameters(model),
            "flops": flops,
            "bytes_on_disk": SystemMetrics.bytes_on_disk(model),
            "peak_memory_bytes": memory[0] if memory else None,
            "peak_memory_kind": memory[1] if memory else None,
            "batch_size": batch_size,
            "input_shape": list(input_shape),
            "device": latency.device,
            "dtype": str(_floating_dtype(model)).removeprefix("torch."),
            "num_threads": latency.num_threads,
        }


def _floating_dtype(model: nn.Module) -> torch.dtype:
    floating = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return next(floating, torch.get_default_dtype())


def _working_input(model: nn.Module, shape: Sequence[int]) -> Tensor:
    """Return a random batch that the model has been seen to run on, so that later errors are not the model's."""
    if len(shape) < 2 or any(not isinstance(extent, int) or extent < 1 for extent in shape):
        raise ValueError(
            "an input shape is a batch and at least one more dimension, all positive integers, such as "
            f"(1, 3, 224, 224); got {tuple(shape)}"
        )
    generator = torch.Generator().manual_seed(0)
    try:
        inputs = torch.randn(tuple(shape), generator=generator)
        inputs = inputs.to(device=module_device(model), dtype=_floating_dtype(model))
        with inference(model):
            model(inputs)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        if _is_out_of_memory(error):
            raise MemoryError(_too_large(shape)) from error
        message = f"{type(model).__name__} does not run on inputs of shape {tuple(shape)}: {error}"
        raise ValueError(message) from error
    return inputs


def _batch_shape(batch_size: int, input_shape: Sequence[int]) -> tuple[int, ...]:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return (batch_size, *input_shape)


def _is_out_of_memory(error: Exception) -> bool:
    # The CPU allocator has no exception class of its own.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _too_large(shape: Sequence[int]) -> str:
    batch = shape[0]
    remedy = f"try a batch of {batch // 2} or less" if batch > 1 else "not even one input fits: use smaller inputs"
    return f"a batch of {batch} inputs of shape {tuple(shape[1:])} does not fit into memory; {remedy}"


def _peak_cuda_bytes(run: Callable[[], object], device: torch.device) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    run()
    synchronize(device)
    return int(torch.cuda.max_memory_allocated(device))


def peak_rss_bytes(run: Callable[[], object]) -> int | None:
    """Return the peak of the process's resident set during a call (bytes), or None where the kernel will not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the mark (man 5 proc)
        run()
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    marks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(marks[0]) * 1024 if marks else None

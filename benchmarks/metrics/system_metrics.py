"""Costs of running a network: latency, throughput, FLOPs, parameters, memory, energy, bytes on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import Unpack

from benchmarks.metrics.comparison import BatchTimings, compare_networks
from benchmarks.metrics.conditions import ConditionOptions, RunConditions, batch_shape, floating_dtype, working_input
from benchmarks.metrics.energy import Energy, energy_of
from benchmarks.metrics.memory import peak_of
from prune_gym.support.timing import Timing, inference, time_model


class SystemMetrics:
    """Measurements of one model, as static methods.

    Everything runs in eval and inference mode on the device the model is on, and leaves the model as it was. Inputs are
    standard normal, of the model's floating-point type. A MAC count is of the convolution and linear layers for *one*
    input, whatever the batch; FLOPs are 2 x MACs.

    What runs the model (`measure_latency`, `time`, `measure_throughput`, `compare`, `peak_memory`, `measure_energy`,
    `measure_all`) takes the conditions of the run as keywords, see `benchmarks.metrics.conditions.RunConditions`:
    ``dtype``, ``channels_last``, ``compiled`` (``torch.compile``) and ``num_threads``. Another format is given to a
    copy.
    """

    @staticmethod
    def measure_latency(
        model: nn.Module,
        input_shape: Sequence[int] = (1, 3, 224, 224),
        num_iterations: int = 100,
        *,
        num_warmup: int = 10,
        **conditions: Unpack[ConditionOptions],
    ) -> tuple[float, float]:
        """Return how long one batch takes.

        Args:
            model: The model.
            input_shape: Shape of a batch, [batch, ...].
            num_iterations: Timed passes, >= 1.
            num_warmup: Untimed passes before them, >= 0.
            **conditions: How it is run.

        Returns:
            Mean and sample standard deviation of the latency, in ms.

        Raises:
            ValueError: If an argument is out of range or the model does not run on such inputs.
            MemoryError: If a batch of this size does not fit into memory.
        """
        timing = SystemMetrics.time(model, input_shape, num_iterations, num_warmup=num_warmup, **conditions)
        return timing.mean_ms, timing.std_ms

    @staticmethod
    def time(
        model: nn.Module,
        input_shape: Sequence[int] = (1, 3, 224, 224),
        num_iterations: int = 100,
        *,
        num_warmup: int = 10,
        **conditions: Unpack[ConditionOptions],
    ) -> Timing:
        """Like `measure_latency`, with every sample and its percentiles."""
        asked = RunConditions(**conditions)
        network = asked.prepared(model)
        with asked.threads():
            inputs = asked.formatted(working_input(network, input_shape))
            return time_model(network, inputs, num_iterations=num_iterations, num_warmup=num_warmup)

    @staticmethod
    def measure_throughput(
        model: nn.Module,
        batch_size: int = 64,
        input_shape: Sequence[int] = (3, 224, 224),
        num_iterations: int = 50,
        *,
        num_warmup: int = 10,
        **conditions: Unpack[ConditionOptions],
    ) -> float:
        """Return how many inputs a second the model handles in batches.

        Args:
            model: The model.
            batch_size: Inputs in a batch, >= 1.
            input_shape: Shape of one input, without the batch.
            num_iterations: Timed batches, >= 1.
            num_warmup: Untimed batches before them, >= 0.
            **conditions: How it is run.

        Returns:
            Inputs (images) per second: ``batch_size`` over the mean latency.

        Raises:
            ValueError: If an argument is out of range or the model does not run on such inputs.
            MemoryError: If a batch of this size does not fit into memory.
        """
        shape = batch_shape(batch_size, input_shape)
        mean_ms, _ = SystemMetrics.measure_latency(model, shape, num_iterations, num_warmup=num_warmup, **conditions)
        return batch_size / (mean_ms / 1e3)

    @staticmethod
    def compare(
        models: Mapping[str, nn.Module],
        input_shape: Sequence[int] = (3, 224, 224),
        batch_sizes: Sequence[int] = (1, 16, 64),
        num_iterations: int = 30,
        *,
        num_warmup: int = 3,
        **conditions: Unpack[ConditionOptions],
    ) -> list[BatchTimings]:
        """Time several models in turns at several batch sizes; see `benchmarks.metrics.comparison.compare_networks`."""
        return compare_networks(
            models,
            input_shape,
            batch_sizes,
            num_iterations=num_iterations,
            num_warmup=num_warmup,
            conditions=RunConditions(**conditions),
        )

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
        inputs = working_input(model, (1, *input_shape[1:]))
        counter = FlopCounterMode(display=False)
        with inference(model), counter:
            model(inputs)
        return int(counter.get_total_flops())

    @staticmethod
    def count_macs(model: nn.Module, input_shape: Sequence[int] = (1, 3, 224, 224)) -> int:
        """Return the multiply-accumulates of one input: half of `count_flops`."""
        return SystemMetrics.count_flops(model, input_shape) // 2

    @staticmethod
    def bytes_on_disk(model: nn.Module) -> int:
        """Return the size of the model's state dict as a safetensors file, in bytes."""
        # Cloned, because the format refuses tensors that share storage.
        state = model.state_dict().items()
        stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state}
        return len(safetensors.torch.save(stored))

    @staticmethod
    def peak_memory(
        model: nn.Module, input_shape: Sequence[int] = (1, 3, 224, 224), **conditions: Unpack[ConditionOptions]
    ) -> tuple[int, str] | None:
        """Return the peak memory while one batch passes through, parameters included.

        Returns:
            Bytes, and what they are: ``"cuda_allocated"`` (tensors on the GPU) or ``"process_rss"`` (the whole process,
            Python and PyTorch included; Linux). None where neither can be measured.

        Raises:
            ValueError: If the model does not run on such inputs.
            MemoryError: If a batch of this size does not fit into memory.
        """
        asked = RunConditions(**conditions)
        network = asked.prepared(model)
        with asked.threads():
            inputs = asked.formatted(working_input(network, input_shape))
            with inference(network):
                return peak_of(lambda: network(inputs), inputs.device)

    @staticmethod
    def measure_energy(
        model: nn.Module,
        input_shape: Sequence[int] = (1, 3, 224, 224),
        seconds: float = 2.0,
        **conditions: Unpack[ConditionOptions],
    ) -> Energy:
        """Return the energy of one batch, from the GPU's (NVML) or the CPU packages' (RAPL) counter.

        Args:
            model: The model.
            input_shape: Shape of a batch, [batch, ...].
            seconds: How long batches are repeated; counters tick slowly.
            **conditions: How it is run.

        Returns:
            Joules of a batch, or None with the source ``"unavailable"``.

        Raises:
            ValueError: If an argument is out of range or the model does not run on such inputs.
            MemoryError: If a batch of this size does not fit into memory.
        """
        asked = RunConditions(**conditions)
        network = asked.prepared(model)
        with asked.threads():
            inputs = asked.formatted(working_input(network, input_shape))
            with inference(network):
                return energy_of(lambda: network(inputs), inputs.device, seconds)

    @staticmethod
    def measure_all(
        model: nn.Module,
        batch_size: int = 64,
        input_shape: Sequence[int] = (3, 224, 224),
        *,
        latency_iterations: int = 100,
        throughput_iterations: int = 50,
        num_warmup: int = 10,
        energy_seconds: float = 2.0,
        **conditions: Unpack[ConditionOptions],
    ) -> dict[str, Any]:
        """Return every measurement of a model.

        Args:
            model: The model.
            batch_size: Inputs in a batch for throughput, energy and peak memory, >= 1; latency is that of a single
                input.
            input_shape: Shape of one input, without the batch.
            latency_iterations: Timed single inputs, >= 1.
            throughput_iterations: Timed batches, >= 1.
            num_warmup: Untimed passes before each of the two, >= 0.
            energy_seconds: How long batches are repeated for the energy counter, where there is one.
            **conditions: How it is run.

        Returns:
            ``latency_ms`` (mean), ``latency_std_ms``, ``latency_p50_ms``, ``latency_p90_ms``, ``latency_p99_ms``,
            ``throughput_imgs_per_sec``, ``parameters``, ``macs`` and ``flops`` (of one input), ``bytes_on_disk``,
            ``peak_memory_bytes`` and ``peak_memory_kind`` (None where unavailable), ``energy_joules_per_img`` (None
            where unavailable) and ``energy_source``, and the conditions: ``batch_size``, ``input_shape``, ``device``,
            ``dtype``, ``channels_last``, ``compiled``, ``num_threads``. JSON-able.

        Raises:
            ValueError: If an argument is out of range or the model does not run on such inputs.
            MemoryError: If a batch of this size does not fit into memory.
        """
        many, single = batch_shape(batch_size, input_shape), (1, *input_shape)
        asked = RunConditions(**conditions)
        flops = SystemMetrics.count_flops(model, single)
        latency = SystemMetrics.time(model, single, latency_iterations, num_warmup=num_warmup, **conditions)
        throughput = SystemMetrics.measure_throughput(
            model, batch_size, input_shape, throughput_iterations, num_warmup=num_warmup, **conditions
        )
        memory = SystemMetrics.peak_memory(model, many, **conditions)
        energy = SystemMetrics.measure_energy(model, many, energy_seconds, **conditions)
        joules = energy.joules_per_run
        return {
            "latency_ms": latency.mean_ms,
            "latency_std_ms": latency.std_ms,
            "latency_p50_ms": latency.p50_ms,
            "latency_p90_ms": latency.p90_ms,
            "latency_p99_ms": latency.p99_ms,
            "throughput_imgs_per_sec": throughput,
            "parameters": SystemMetrics.count_parameters(model),
            "macs": flops // 2,
            "flops": flops,
            "bytes_on_disk": SystemMetrics.bytes_on_disk(model),
            "peak_memory_bytes": memory[0] if memory else None,
            "peak_memory_kind": memory[1] if memory else None,
            "energy_joules_per_img": None if joules is None else joules / batch_size,
            "energy_source": energy.source,
            "batch_size": batch_size,
            "input_shape": list(input_shape),
            "device": latency.device,
            "dtype": str(asked.dtype or floating_dtype(model)).removeprefix("torch."),
            "channels_last": asked.channels_last,
            "compiled": asked.compiled,
            "num_threads": latency.num_threads,
        }

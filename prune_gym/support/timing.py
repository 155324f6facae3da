"""Timing of callables and models: warm-up, synchronisation, percentiles, interleaved comparison.

A GPU runs asynchronously, so a naive wall-clock difference measures how fast work is *queued*. Here a CUDA device is
timed with CUDA events and every other device with ``perf_counter`` around a synchronisation. Two networks are compared
*interleaved* (a, b, a, b, ...): clock frequency and other users of the machine then drift under both alike, where
timing one after the other would charge the drift to the second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from hessian.support.modes import modes_restored
from prune_gym.support.device import module_device, resolve_device, synchronize


class Clock(Protocol):
    """Marks instants on a device; differences are read later, so that marking costs next to nothing."""

    def mark(self) -> Any:
        """Return an opaque mark of "now", in the order of the device's work."""
        ...

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the milliseconds from one mark to a later one."""
        ...


class HostClock:
    """Wall clock for devices without timing events; waits for the device's queued work at every mark.

    Args:
        device: Device whose work is timed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> float:
        """Wait for the device, then return the time in seconds."""
        synchronize(self._device)
        return time.perf_counter()

    def elapsed_ms(self, start: float, end: float) -> float:
        """Return the milliseconds between two marks."""
        return (end - start) * 1e3


class CudaClock:
    """Clock of CUDA events: marks are queued with the work and do not stall the device.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> torch.cuda.Event:
        """Queue an event on the device's current stream and return it."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def elapsed_ms(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Wait for the later event and return the milliseconds between the two."""
        end.synchronize()
        return float(start.elapsed_time(end))


def make_clock(device: torch.device) -> Clock:
    """Return the most exact clock there is for a device: CUDA events, else the synchronised wall clock."""
    return CudaClock(device) if device.type == "cuda" else HostClock(device)


@dataclass(frozen=True, eq=False)
class Timing:
    """Times of repeated calls.

    Attributes:
        samples_ms: [num_iterations] milliseconds of each call, in the order they were made.
        device: Device the calls ran on, such as ``"cpu"`` or ``"cuda:0"``.
        num_threads: CPU threads PyTorch was allowed to use inside an operator.
    """

    samples_ms: np.ndarray
    device: str
    num_threads: int

    @property
    def mean_ms(self) -> float:
        """Mean, in ms."""
        return float(self.samples_ms.mean())

    @property
    def std_ms(self) -> float:
        """Sample standard deviation (n - 1), in ms; 0 for a single call."""
        return float(self.samples_ms.std(ddof=1)) if self.samples_ms.size > 1 else 0.0

    @property
    def p50_ms(self) -> float:
        """Median, in ms: the number to compare, as stalls of the machine hardly move it."""
        return self.percentile(50)

    @property
    def p90_ms(self) -> float:
        """90th percentile, in ms."""
        return self.percentile(90)

    @property
    def p99_ms(self) -> float:
        """99th percentile, in ms."""
        return self.percentile(99)

    def percentile(self, q: float) -> float:
        """Return the ``q``-th percentile (``q`` in [0, 100]) in ms, linearly interpolated."""
        return float(np.percentile(self.samples_ms, q))

    def summary(self) -> dict[str, float | int | str]:
        """Return the statistics as a JSON-able mapping."""
        return {
            "mean_ms": self.mean_ms,
            "std_ms": self.std_ms,
            "p50_ms": self.p50_ms,
            "p90_ms": self.p90_ms,
            "p99_ms": self.p99_ms,
            "num_iterations": int(self.samples_ms.size),
            "device": self.device,
            "num_threads": self.num_threads,
        }


def time_callable(
    function: Callable[[], object],
    *,
    device: str | int | torch.device | None = None,
    num_iterations: int = 100,
    num_warmup: int = 10,
) -> Timing:
    """Time repeated calls of a function.

    Args:
        function: Called without arguments; its result is discarded.
        device: Device the function's work runs on; None means the only GPU if there is one, else the CPU.
        num_iterations: Timed calls, >= 1.
        num_warmup: Untimed calls before them, >= 0 (allocator, autotuning, caches).

    Returns:
        The samples and their statistics.

    Raises:
        ValueError: If ``num_iterations`` < 1 or ``num_warmup`` < 0.
    """
    timings = compare_interleaved({"": function}, device=device, num_iterations=num_iterations, num_warmup=num_warmup)
    return timings[""]


def compare_interleaved(
    functions: Mapping[str, Callable[[], object]],
    *,
    device: str | int | torch.device | None = None,
    num_iterations: int = 100,
    num_warmup: int = 10,
) -> dict[str, Timing]:
    """Time several functions in turns, so that the machine's drift hits all of them alike.

    Args:
        functions: Name -> function without arguments.
        device: Device the work runs on; None means the only GPU if there is one, else the CPU.
        num_iterations: Timed calls of each function, >= 1.
        num_warmup: Untimed calls of each function before them, >= 0.

    Returns:
        Name -> samples and statistics, in the given order.

    Raises:
        ValueError: If there is no function, ``num_iterations`` < 1 or ``num_warmup`` < 0.
    """
    if not functions:
        raise ValueError("nothing to time: give at least one function")
    check_counts(num_iterations, num_warmup)
    resolved = resolve_device(device)
    clock = make_clock(resolved)
    for _ in range(num_warmup):
        for function in functions.values():
            function()
    synchronize(resolved)
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(num_iterations):
        for name, function in functions.items():
            start = clock.mark()
            function()
            samples[name].append(clock.elapsed_ms(start, clock.mark()))
    threads = torch.get_num_threads()
    return {name: Timing(np.asarray(values), str(resolved), threads) for name, values in samples.items()}


def time_model(model: nn.Module, example_input: Tensor, *, num_iterations: int = 100, num_warmup: int = 10) -> Timing:
    """Time a model's forward pass on one batch, in eval and inference mode, on the device the model is on.

    Args:
        model: The model; left in the mode it came in.
        example_input: [batch, ...] input; moved to the model's device.
        num_iterations: Timed passes, >= 1.
        num_warmup: Untimed passes before them, >= 0.

    Returns:
        The samples and their statistics.

    Raises:
        ValueError: If a count is out of range.
    """
    return compare_models({"": model}, example_input, num_iterations=num_iterations, num_warmup=num_warmup)[""]


def compare_models(
    models: Mapping[str, nn.Module],
    example_input: Any,
    *,
    num_iterations: int = 100,
    num_warmup: int = 10,
) -> dict[str, Timing]:
    """Time several models on the same batch, interleaved; see `compare_interleaved`.

    Args:
        models: Name -> model, all on one device; left in the modes they came in.
        example_input: [batch, ...] input, or a tuple of the models' inputs; moved to the models' device.
        num_iterations: Timed passes of each model, >= 1.
        num_warmup: Untimed passes of each model before them, >= 0.

    Returns:
        Name -> samples and statistics, in the given order.

    Raises:
        ValueError: If there is no model, the models are on different devices, or a count is out of range.
    """
    devices = {name: module_device(model) for name, model in models.items()}
    if len(set(devices.values())) > 1:
        raise ValueError(f"models on different devices cannot be compared: {devices}; move them to one device")
    device = next(iter(devices.values()), torch.device("cpu"))
    given = example_input if isinstance(example_input, (tuple, list)) else (example_input,)
    inputs = tuple(item.to(device) for item in given)
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(inference(model))
        return compare_interleaved(
            {name: _forward(model, inputs) for name, model in models.items()},
            device=device,
            num_iterations=num_iterations,
            num_warmup=num_warmup,
        )


@contextmanager
def inference(model: nn.Module) -> Iterator[nn.Module]:
    """Run a block with the model in eval mode and without autograd; every module's own mode comes back after."""
    with modes_restored(model), torch.inference_mode():
        model.eval()
        yield model


def _forward(model: nn.Module, inputs: tuple[Any, ...]) -> Callable[[], object]:
    return lambda: model(*inputs)


def check_counts(num_iterations: int, num_warmup: int) -> None:
    """Check the numbers of timed and untimed calls.

    Raises:
        ValueError: no timed call, or a negative number of untimed ones.
    """
    if num_iterations < 1:
        raise ValueError(f"num_iterations must be at least 1, got {num_iterations}")
    if num_warmup < 0:
        raise ValueError(f"num_warmup must be at least 0, got {num_warmup}")

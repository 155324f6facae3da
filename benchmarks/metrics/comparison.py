"""Networks against each other over batch sizes: timed in turns, each in its faster memory format if asked."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from benchmarks.metrics.conditions import RunConditions, batch_shape, working_input
from prune_gym.support.device import module_device, synchronize
from prune_gym.support.timing import Timing, compare_interleaved, inference


@dataclass(frozen=True)
class BatchTimings:
    """Several networks on batches of one size.

    Attributes:
        batch_size: Inputs in a batch.
        timings: Network -> timing of a batch; empty if the batch does not fit into memory.
        channels_last: Network -> whether it ran channels last.
        problem: Why there is no timing, or None.
    """

    batch_size: int
    timings: Mapping[str, Timing] = field(default_factory=dict)
    channels_last: Mapping[str, bool] = field(default_factory=dict)
    problem: str | None = None

    def throughput(self, name: str) -> float:
        """Return a network's inputs (images) per second, at its median latency."""
        return self.batch_size / (self.timings[name].p50_ms / 1e3)

    def speedup(self, name: str, baseline: str) -> float:
        """Return how many times faster a network is than another, by median latency."""
        return self.timings[baseline].p50_ms / self.timings[name].p50_ms

    def as_json(self) -> dict[str, Any]:
        """Return the timings as a JSON-able mapping."""
        networks = {
            name: {
                **timing.summary(),
                "throughput_imgs_per_sec": self.throughput(name),
                "channels_last": self.channels_last[name],
            }
            for name, timing in self.timings.items()
        }
        return {"batch_size": self.batch_size, "problem": self.problem, "networks": networks}


def compare_networks(
    networks: Mapping[str, nn.Module],
    input_shape: Sequence[int],
    batch_sizes: Sequence[int] = (1, 16, 64),
    *,
    num_iterations: int = 30,
    num_warmup: int = 3,
    max_seconds: float | None = None,
    conditions: RunConditions | None = None,
    faster_format: bool = False,
) -> list[BatchTimings]:
    """Time networks in turns (a, b, a, b, ...) at several batch sizes.

    A batch size that does not fit into memory is reported in its row, with a smaller one to try; the others are
    measured all the same.

    Args:
        networks: Name -> network, all on one device.
        input_shape: Shape of one input, without the batch.
        batch_sizes: Inputs in a batch, each >= 1.
        num_iterations: Timed batches of each network, >= 1.
        num_warmup: Untimed batches before them, >= 0.
        max_seconds: Fewer iterations (at least 3) where a batch size would take longer; None for no bound.
        conditions: How they are run.
        faster_format: Run each network in the faster of its own memory format and channels last, found by a short
            comparison at every batch size; ``conditions.channels_last`` is then overruled.

    Returns:
        A row a batch size.

    Raises:
        ValueError: If there is no network or batch size, one is out of range, or a network does not run.
    """
    if not networks or not batch_sizes:
        raise ValueError("nothing to compare: give at least one network and one batch size")
    shapes = [batch_shape(batch_size, input_shape) for batch_size in batch_sizes]
    conditions = conditions or RunConditions()
    formats = (False, True) if faster_format else (conditions.channels_last,)
    runs = {
        (name, channels_last): replace(conditions, channels_last=channels_last)
        for name in networks
        for channels_last in formats
    }
    prepared = {key: run.prepared(networks[key[0]]) for key, run in runs.items()}
    rows = []
    for shape in shapes:
        try:
            rows.append(_compare_batch(prepared, runs, shape, num_iterations, num_warmup, max_seconds))
        except MemoryError as error:
            rows.append(BatchTimings(shape[0], problem=str(error)))
    return rows


_Key = tuple[str, bool]


def _compare_batch(
    prepared: Mapping[_Key, nn.Module],
    runs: Mapping[_Key, RunConditions],
    shape: tuple[int, ...],
    num_iterations: int,
    num_warmup: int,
    max_seconds: float | None,
) -> BatchTimings:
    first = next(iter(runs.values()))
    with ExitStack() as stack:
        stack.enter_context(first.threads())
        calls = {}
        for key, network in prepared.items():
            inputs = runs[key].formatted(working_input(network, shape))
            stack.enter_context(inference(network))
            calls[str(key)] = _call(network, inputs)
        device = module_device(next(iter(prepared.values())))
        if len(calls) > len({name for name, _ in prepared}):
            trial = compare_interleaved(calls, device=device, num_iterations=3, num_warmup=1)
            chosen = {
                name: min((key for key in prepared if key[0] == name), key=lambda key: trial[str(key)].p50_ms)
                for name, _ in prepared
            }
        else:
            chosen = {key[0]: key for key in prepared}
        kept = {name: calls[str(key)] for name, key in chosen.items()}
        if max_seconds is not None:
            num_iterations = _affordable(kept, device, num_iterations, max_seconds)
        timings = compare_interleaved(kept, device=device, num_iterations=num_iterations, num_warmup=num_warmup)
    return BatchTimings(shape[0], timings, {name: key[1] for name, key in chosen.items()})


def _call(network: nn.Module, inputs: Any) -> Any:
    return lambda: network(inputs)


def _affordable(calls: Mapping[str, Any], device: Any, num_iterations: int, max_seconds: float) -> int:
    """Iterations that fit into the time, at least 3 and at most those asked for."""
    started = time.perf_counter()
    for call in calls.values():
        call()
    synchronize(device)
    each = max(time.perf_counter() - started, 1e-6)
    return max(min(3, num_iterations), min(num_iterations, int(max_seconds / each)))

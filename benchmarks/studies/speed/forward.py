"""Bounds of a candidate's forward pass: the machine's convolution peak, vector widths, types and memory formats."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.studies.speed.bench import EnvBench, laid_out
from benchmarks.studies.speed.rows import SpeedRow, interleaved, median_ratio, seconds_of
from prune_gym.cost.limits import IntArray
from prune_gym.measuring.folding import FoldedNetwork

VECTOR_WIDTHS = (8, 16)
"""Channels of float32 a 256-bit and a 512-bit vector holds."""


def measured_vs_floor(bench: EnvBench, targets: Mapping[str, float]) -> Iterator[SpeedRow]:
    """A candidate, its pass alone, and the dense network against the same FLOPs at the machine's peak convolution."""
    flops_per_second, peak = _peak(bench.problem.device, bench.repeats)
    baseline = f"FLOPs of the pass at {flops_per_second / 1e9:.0f} GFLOP/s ({peak})"

    def row(name: str, run: Callable[[], None], kept: IntArray) -> SpeedRow:
        run()
        seconds = median(seconds_of(run) for _ in range(bench.repeats))
        floor = float(bench.problem.cost.flops(kept)) * len(bench.images) / flops_per_second
        return SpeedRow(name, seconds * 1e3, "ms", baseline, seconds / floor)

    dense = laid_out(bench.dense())
    yield row("dense_vs_floor", partial(bench.masked, dense, bench.images), bench.problem.cost.units)
    for name, target in targets.items():
        plans = bench.candidates(target)
        run = partial(bench.measured, bench.evaluator("sequential"), cycle(plans))
        yield row(f"measured_vs_floor_{name}", run, plans[0])
        yield row(
            f"measured_vs_floor_{name}_without_repair",
            partial(bench.masked, bench.small(target), bench.images),
            plans[0],
        )


def vector_bound(bench: EnvBench, targets: Mapping[str, float]) -> Iterator[SpeedRow]:
    """Channels in whole vectors, as convolution libraries compute them: FLOPs saved, and a pass that pads itself."""
    units = bench.problem.cost.units
    for name, target in targets.items():
        plans = np.array(bench.candidates(target))
        for width in VECTOR_WIDTHS:
            padded = np.minimum(-(-plans // width) * width, units)
            bound = float(np.median(1.0 / (1.0 - bench.problem.cost.reduction(padded))))
            yield SpeedRow(f"vector_bound_{name}_{width}", bound, f"x, channels padded to {width}", "", None)
            whole, bare = (partial(bench.masked, bench.network(plan), bench.images) for plan in (padded[0], plans[0]))
            times, base = interleaved(whole, bare, bench.repeats)
            baseline = "candidates a second of the same plan's pass, channels as they are"
            row = f"padded_pass_{name}_{width}"
            yield SpeedRow(row, 1.0 / median(times), "candidates/s", baseline, median_ratio(base, times))


def formats(bench: EnvBench) -> Iterator[SpeedRow]:
    """Time that other memory formats and types add to a pass of the full-size network."""
    model = bench.problem.task.model.eval()
    plain = partial(bench.masked, model, bench.images)
    variants: dict[str, tuple[Any, Any]] = {
        "channels_last": (None, torch.channels_last),
        "bfloat16": (torch.bfloat16, None),
        "bfloat16_channels_last": (torch.bfloat16, torch.channels_last),
        "folded_channels_last": (None, torch.channels_last),
    }
    for name, (dtype, layout) in variants.items():
        folded = FoldedNetwork(model, bench.problem.task.example_input).model
        changed = folded if name.startswith("folded") else copy.deepcopy(model)
        images = bench.images
        if dtype is not None:
            changed, images = changed.to(dtype), images.to(dtype)
        if layout is not None:
            changed, images = changed.to(memory_format=layout), images.contiguous(memory_format=layout)
        times, base = interleaved(partial(bench.masked, changed, images), plain, bench.repeats)
        yield SpeedRow(f"format_{name}", median(times) * 1e3, "ms", "float32, contiguous", median_ratio(base, times))


def _peak(device: torch.device, repeats: int) -> tuple[float, str]:
    """FLOPs a second of a large convolution, and its description."""
    channels, size, images = 256, 28, 32
    layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(device)
    inputs = torch.randn(images, channels, size, size, device=device)

    def run() -> None:
        with torch.no_grad():
            layer(inputs).sum().item()

    run()
    seconds = min(seconds_of(run) for _ in range(max(repeats, 3)))
    flops = 2 * images * size * size * channels * channels * 9
    return flops / seconds, f"3x3 convolution, {channels} channels, {size}x{size}, {images} images"

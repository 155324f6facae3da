"""Cost and gain of surgery: seconds to prune a ResNet-50, and its speed-up as a share of the ideal.

Weights are random (time does not depend on them) and all layers lose the same share of their channels. The ideal
speed-up is the ratio of FLOPs: 4.17 with 76 % of them removed. Dense and pruned run in turns, each in the faster of
NCHW and channels last. ``_auto`` is the same plan under ``round_to="auto"``, which keeps at least its FLOPs
reduction, chosen on a batch of the same size by timings of its own, before those reported here.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.metrics.comparison import BatchTimings, compare_networks
from benchmarks.metrics.system_metrics import SystemMetrics
from benchmarks.studies.speed.random_networks import random_images, random_network
from benchmarks.studies.speed.rows import SpeedRow, interleaved, median_ratio
from benchmarks.system_eval.layer_record import LayerRecorder
from prune_gym.cost.model import CostModel
from prune_gym.surgery.auto_rounding import RoundedPlan
from prune_gym.surgery.pruner import PhysicalPruner

_CEILING_PASSES = 8

Report = Callable[[str], None]
Plan = Mapping[str, Sequence[int]]


def measure(options: argparse.Namespace, report: Report) -> Iterator[SpeedRow]:
    """Measure row after row.

    Args:
        options: what :func:`benchmarks.studies.speed.options.prune` added, and ``device``.
        report: told what is going on.

    Raises:
        ValueError: repeats or batch sizes below 1.
    """
    if min(options.repeats, options.surgery_repeats, *options.batch_sizes) < 1:
        raise ValueError("--repeats, --surgery-repeats and --batch-sizes must be at least 1")
    dense = random_network(options.network).to(options.device)
    images, _ = random_images(max(options.batch_sizes), options.image_size, classes=2)
    images = images.to(options.device)
    pruner = PhysicalPruner(dense, images[:1])
    plan = uniform_plan(pruner, options.reduction)
    report("surgery")
    yield _surgery_row(options, dense, images[:1], plan)
    for batch_size in options.batch_sizes:
        yield from _speedup_rows(options, dense, pruner.prune(plan), plan, images[:batch_size], report)


def uniform_plan(pruner: PhysicalPruner, reduction: float) -> dict[str, list[int]]:
    """Remove the first units of every layer, the same share of each, until the FLOPs reduction is reached.

    Raises:
        ValueError: the reduction is out of reach.
    """
    cost = CostModel(pruner.groups, pruner.model, pruner.example_input)
    kept = cost.project(np.full(len(pruner.groups), 0.5), reduction)
    return {
        group.name: group.channels(range(group.num_units - count))
        for group, count in zip(pruner.groups, kept.tolist(), strict=True)
        if count < group.num_units
    }


def _surgery_row(options: argparse.Namespace, dense: nn.Module, example: Tensor, plan: Plan) -> SpeedRow:
    """Graph, surgery and every check, against torch-pruning without checks."""
    ours, theirs = interleaved(
        lambda: PhysicalPruner(dense, example).prune(plan),
        lambda: _torch_pruning_alone(dense, example, plan),
        options.surgery_repeats,
    )
    name = f"prune_{options.network}_s"
    return SpeedRow(name, median(ours), "s", "torch-pruning, no checks", median_ratio(ours, theirs))


def _torch_pruning_alone(dense: nn.Module, example: Tensor, plan: Plan) -> nn.Module:
    import torch_pruning

    model = copy.deepcopy(dense)
    modules = dict(model.named_modules())
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=(example,))
    for name, channels in plan.items():
        layer = modules[name]
        cut: Any = graph.get_pruner_of_module(layer).prune_out_channels
        graph.get_pruning_group(layer, cut, list(channels)).prune()
    return model


def _speedup_rows(
    options: argparse.Namespace, dense: nn.Module, pruned: nn.Module, plan: Plan, images: Tensor, report: Report
) -> Iterator[SpeedRow]:
    """Dense, pruned and rounded networks, all in turns."""
    batch_size = len(images)
    report(f"batch of {batch_size}: looking for the fastest rounding")
    trial = _compare({"pruned": pruned}, options, batch_size, repeats=3)
    memory_format = torch.channels_last if trial.channels_last["pruned"] else torch.contiguous_format
    model = copy.deepcopy(dense).to(memory_format=memory_format)
    chooser = PhysicalPruner(model, images)
    started = time.perf_counter()
    found = chooser.time_roundings(plan)
    took = time.perf_counter() - started
    report(", ".join(f"{_candidate(row)}: {row.latency_ms:.1f} ms" for row in found))
    rounded = PhysicalPruner(dense, images[:1]).prune(found[0].plan)
    report(f"batch of {batch_size}: dense, pruned and rounded in turns")
    networks = {"dense": dense, "pruned": pruned, "auto": rounded}
    timed = _compare(networks, options, batch_size, options.repeats)
    shape = (1, 3, options.image_size, options.image_size)
    flops = {name: SystemMetrics.count_flops(network, shape) for name, network in networks.items()}
    for name, suffix, what in (("pruned", "", ""), ("auto", "_auto", f", {_candidate(found[0])}")):
        speedup, ideal = timed.speedup(name, "dense"), flops["dense"] / flops[name]
        baseline = f"dense, {_format(timed, 'dense')}; this: {_format(timed, name)}{what}"
        yield SpeedRow(f"{options.network}_speedup_b{batch_size}{suffix}", speedup, "x", baseline, speedup)
        share, baseline = speedup / ideal, f"ratio of FLOPs, {ideal:.2f}x"
        yield SpeedRow(f"{options.network}_share_of_ideal_b{batch_size}{suffix}", share, "", baseline, share)
    ceiling = _ceiling(dense, rounded, timed, images) / ideal
    baseline = "share of ideal if every convolution kept its FLOPs' promise and all else took what it takes with auto"
    yield SpeedRow(f"{options.network}_ceiling_b{batch_size}_auto", ceiling, "", baseline, None)
    yield SpeedRow(f"choose_auto_{options.network}_b{batch_size}_s", took, "s", "candidates cut and timed", None)


def _ceiling(dense: nn.Module, rounded: nn.Module, timed: BatchTimings, images: Tensor) -> float:
    """Speed-up if the layers with weights were as fast as their FLOPs promise and only they were."""
    records = {}
    for name, network in (("dense", dense), ("auto", rounded)):
        memory_format = torch.channels_last if timed.channels_last[name] else torch.contiguous_format
        recorder = LayerRecorder(copy.deepcopy(network).to(memory_format=memory_format))
        for iteration in range(_CEILING_PASSES):
            recorder.run(images.contiguous(memory_format=memory_format), keep=iteration > 0)
        records[name] = {layer: record for layer, record in recorder.records().items() if record.sizes is not None}
    weighted = sum(record.ms for record in records["auto"].values())
    promised = sum(
        record.ms * records["auto"][layer].flops / record.flops for layer, record in records["dense"].items()
    )
    others = max(0.0, timed.timings["auto"].p50_ms - weighted)
    return timed.timings["dense"].p50_ms / (promised + others)


def _candidate(row: RoundedPlan) -> str:
    what = "as is" if row.round_to == 1 else f"multiples of {row.round_to}"
    return f"{what}, rebalanced" if row.rebalanced else what


def _compare(
    networks: Mapping[str, nn.Module], options: argparse.Namespace, batch_size: int, repeats: int
) -> BatchTimings:
    shape = (3, options.image_size, options.image_size)
    (row,) = compare_networks(networks, shape, (batch_size,), num_iterations=repeats, faster_format=True)
    if row.problem is not None:
        raise ValueError(row.problem)
    return row


def _format(row: BatchTimings, name: str) -> str:
    return f"{row.timings[name].p50_ms:.1f} ms, {'channels last' if row.channels_last[name] else 'NCHW'}"

"""Files that a pruning leaves: numbers as the main job writes them, the page, and how to load the network."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.provenance import describe_machine, versions
from benchmarks.common.signed import write_signed
from benchmarks.prune.loaded import LoadedModel
from benchmarks.prune.options import RESULT, PruneOptions
from prune_gym.pruning.numbers import NetworkNumbers
from prune_gym.pruning.result import PruneResult
from prune_gym.saving.export import Parity

NETWORK = "network"
"""Stem of the saved network."""


def loading_code(loaded: LoadedModel, out: Path) -> tuple[str, str, str]:
    """Three lines of Python that load the pruned network."""
    return (
        "from prune_gym import load_pruned",
        loaded.import_line,
        f"model = load_pruned({str(out / NETWORK)!r}, factory={loaded.factory})",
    )


def write_record(
    result: PruneResult, options: PruneOptions, loaded: LoadedModel, parity: Parity | None, device: torch.device
) -> dict[str, Any]:
    """Write and return ``result.json``: what ``prune-gym report`` reads, and what this command adds."""
    content = {
        "dense": _network(result.dense, result.batch_size),
        "one_shot": _network(result.one_shot, result.batch_size),
        "final": _network(result.pruned, result.batch_size),
        "flops_reduction": result.flops_reduction,
        "target_flops_reduction": result.targets.flops or result.flops_reduction,
        "budgets": dict(result.ratios),
        "search": {
            "measured_evaluations": result.plans_measured,
            "reward_accuracy": result.pruned.held_out.value,
            "reward_soft_accuracy": result.pruned.held_out.value,
        },
        "experiment": loaded.name,
        "task": loaded.name,
        "method": "hobs-rspar" if options.search else "knapsack",
        "seed": options.seed,
        "device": str(device),
        "num_threads": torch.get_num_threads(),
        "machine": describe_machine(),
        "versions": versions(),
        "seconds": dict(result.seconds),
        "prune": {
            "command": shlex.join(("prune-gym", "prune", *options.command)),
            "asked_for": result.targets.described(),
            "scored_by": result.scored_by,
            "scored_on": result.scored_on,
            "images": result.pruned.score.images,
            "standard_error": result.pruned.score.error,
            "params_reduction": result.params_reduction,
            "latency_share": result.latency_share,
            "batch_size": result.batch_size,
            "tier": result.tier,
            "warnings": list(result.warnings),
            "load": list(loading_code(loaded, options.out)),
            "onnx": None if parity is None else _parity(parity),
        },
    }
    write_signed(options.out / RESULT, content)
    return content


def _network(numbers: NetworkNumbers, batch_size: int) -> Mapping[str, float]:
    return {
        "accuracy": numbers.score.value,
        "held_out_accuracy": numbers.held_out.value,
        "flops": numbers.flops,
        "parameters": numbers.params,
        "bytes_on_disk": numbers.bytes,
        "latency_ms": numbers.image_ms,
        "latency_std_ms": 0.0,
        "throughput_imgs_per_sec": 1e3 * batch_size / numbers.latency_ms,
        "batch_latency_ms": numbers.latency_ms,
    }


def _parity(parity: Parity) -> dict[str, Any]:
    return {
        "file": str(parity.path),
        "largest_difference": parity.max_error,
        "batch_sizes": list(parity.batch_sizes),
        "runtime": parity.runtime,
    }


def write_page(folder: Path) -> Path | None:
    """Write the report page; None where the scores are not fractions, which the page cannot show."""
    from benchmarks.report.command import PAGE
    from benchmarks.report.page import render
    from benchmarks.report.sources import NoResultsError, find_results
    from hessian.support.files import write_atomic

    try:
        return write_atomic(folder / PAGE, render(find_results(folder)))
    except NoResultsError:
        return None

"""A pruned checkpoint and its dense network, loaded and measured as options ask for; what the measurements leave."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from benchmarks.common.arguments import prepare
from benchmarks.common.signed import write_signed
from benchmarks.job.budgets import load_network
from benchmarks.job.task import load_task
from benchmarks.metrics.conditions import RunConditions
from benchmarks.settings.reading import load_config
from benchmarks.system_eval.plots import plot_accuracy_speedup, plot_latency, plot_throughput
from benchmarks.system_eval.report import EvalSettings, SystemReport, evaluate_system
from prune_gym.saving.manifest import manifest_path
from prune_gym.support.files import check_writable
from prune_gym.support.stage_progress import StageProgress
from prune_gym.surgery.state_dict import read_state_dict, shrink_to
from prune_gym.tasks.task import PruningTask


def load_checkpoint(path: Path, task: PruningTask) -> nn.Module:
    """Load a pruned network of a task: one of ours, or a plain state dict of the task's network.

    Args:
        path: the file; with a manifest beside it, it is one of ours.
        task: whose dense network it was cut from.

    Returns:
        The network on the dense network's device, in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or of another network.
    """
    device = next(task.model.parameters()).device
    if manifest_path(path).is_file() and path.suffix not in (".pt", ".pth"):
        network = load_network(path, task)
        if network.state_dict().keys() != task.model.state_dict().keys():
            raise ValueError(f"{path} holds another network than the one of the task {task.name!r}")
    else:
        network = shrink_to(copy.deepcopy(task.model).cpu(), read_state_dict(path))
    return network.to(device)


def write_report(report: SystemReport, folder: Path) -> None:
    """Write ``system_eval.json`` and the plots."""
    write_signed(folder / "system_eval.json", report.as_json())
    if any(row.timings for row in report.batches):
        plot_latency(report.batches, folder / "latency.png")
        plot_throughput(report.batches, folder / "throughput.png")
        plot_accuracy_speedup(report, folder / "accuracy_speedup.png")


def evaluate(options: argparse.Namespace, out: Path, console: Console) -> SystemReport:
    """Load and measure.

    Args:
        options: of the command.
        out: folder of the results, which must be writable.
        console: where stages are shown.
    """
    config = load_config(options.config)
    device = prepare(options, config.experiment.num_threads)
    threads = torch.get_num_threads()
    conditions = RunConditions(
        getattr(torch, options.dtype) if options.dtype else None,
        options.format == "channels_last",
        options.compile,
        threads,
    )
    settings = EvalSettings(
        tuple(options.batch_sizes), options.iterations, options.max_seconds, conditions, options.format == "faster"
    )
    with StageProgress(console) as progress:
        with progress.stage("load task and checkpoint"):
            task = load_task(config, device)
            network = load_checkpoint(options.checkpoint, task)
        check_writable(out, key="--out")
        with progress.stage("measure") as report:
            return evaluate_system(task, network, settings, str(options.checkpoint), report)

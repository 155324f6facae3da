"""A pruned checkpoint against its dense network: accuracy, latency, throughput, memory, energy, and where time stayed.

    python -m benchmarks.system_eval --config FILE --checkpoint PATH [--batch-sizes 1 16 64] [--out DIR]

The configuration names the task: its dense network and its test split. The checkpoint is one of ``save_pruned`` (as
``prune-gym run`` leaves it: ``seed_<n>/pruned.safetensors``) or a plain state dict of that network with fewer channels
(``.safetensors``, ``.pt``, ``.pth``). Written to the output folder: ``system_eval.json``, ``latency.png``,
``throughput.png``, ``accuracy_speedup.png``.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from benchmarks.common.arguments import default_threads, positive
from benchmarks.common.command import reports_errors
from benchmarks.common.signed import write_signed
from benchmarks.job.budgets import load_network
from benchmarks.job.task import load_task
from benchmarks.metrics.conditions import RunConditions
from benchmarks.settings.reading import load_config
from benchmarks.settings.source import ConfigError
from benchmarks.system_eval.plots import plot_accuracy_speedup, plot_latency, plot_throughput
from benchmarks.system_eval.report import EvalSettings, SystemReport, batch_table, evaluate_system, network_table
from benchmarks.system_eval.slowness import slowness_table
from prune_gym.saving.manifest import manifest_path
from prune_gym.support.device import resolve_device
from prune_gym.support.files import check_writable
from prune_gym.support.stage_progress import StageProgress
from prune_gym.surgery.state_dict import read_state_dict, shrink_to
from prune_gym.tasks.task import PruningTask

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@reports_errors(ConfigError, OSError, ValueError, KeyError, MemoryError)
def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate a checkpoint from the command line.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 2 bad input, 130 interrupted.
    """
    options = _parser().parse_args(argv)
    console = Console()
    out = options.out or options.checkpoint.parent / "system_eval"
    report = _evaluate(options, out, console)
    write_report(report, out)
    console.print(network_table(report), batch_table(report), sep="\n")
    if report.slowness is not None:
        console.print(slowness_table(report.slowness, rows=options.layers))
    console.print(f"results: {out}", highlight=False, soft_wrap=True)
    return 0


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


def _evaluate(options: argparse.Namespace, out: Path, console: Console) -> SystemReport:
    config = load_config(options.config)
    device = resolve_device(options.gpu)
    threads = options.threads or config.experiment.num_threads or default_threads()
    torch.set_num_threads(threads)
    conditions = RunConditions(
        DTYPES[options.dtype] if options.dtype else None, options.format == "channels_last", options.compile, threads
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.system_eval", description="A pruned checkpoint against its dense network."
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML configuration; names the task")
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="PATH", help="pruned network")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder (default: system_eval beside the checkpoint)")
    parser.add_argument(
        "--batch-sizes", type=positive, nargs="+", default=[1, 16, 64], metavar="N", help="default: 1 16 64"
    )
    parser.add_argument("--iterations", type=positive, default=100, metavar="N", help="timed batches of each network")
    parser.add_argument(
        "--max-seconds", type=float, default=30.0, metavar="S", help="fewer iterations where a batch size takes longer"
    )
    parser.add_argument(
        "--format",
        choices=("faster", "nchw", "channels_last"),
        default="faster",
        help="memory format; faster: each network in its own faster one (default)",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="number format (default: the networks' own)")
    parser.add_argument("--compile", action="store_true", help="run both networks through torch.compile")
    parser.add_argument("--layers", type=int, default=12, metavar="N", help="rows of the layer table (default: 12)")
    parser.add_argument("--gpu", metavar="ID", help="GPU index, or cpu (default: the only GPU, else the CPU)")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: experiment.num_threads)")
    return parser

"""Audit of the prices: predictions against what removing channels really does, on a named task.

    python -m benchmarks.studies.audit --task digits-resnet20 [--seeds 0 1 2] [--json FILE] [--plot FILE]

It prints how H-OBS prices rank channels and cuts against the true KL divergence, and how far cuts move the features,
against named baselines. `--weights` audits dense networks of your own training
(`python -m benchmarks.train_dense --task NAME --seed 1 --out FILE`).
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.common.arguments import check_distinct, command_parser, one_of, positive, prepare, writable
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result
from prune_gym.support.stage_progress import StageProgress

if TYPE_CHECKING:
    import torch

SPLITS = ("calibration", "reward")


@reports_errors(ValueError, KeyError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the audit from the command line.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 2 bad input, 130 interrupted.
    """
    options = _parser().parse_args(argv)
    for option, values in (("--seeds", options.seeds), ("--splits", options.splits)):
        check_distinct(option, values)
    _audit(options, prepare(options), Console())
    return 0


def _audit(options: argparse.Namespace, device: torch.device, console: Console) -> None:
    from benchmarks.studies.audit.runs import AuditRequest, audit_result, run_audits
    from benchmarks.studies.audit.tables import correlation_table, feature_table
    from prune_gym.measuring.curvature_cache import CurvatureSettings

    curvature = CurvatureSettings(
        approximation=options.approximation, fisher=options.fisher, trace_calibration=options.trace_calibration
    )
    request = AuditRequest(
        options.task,
        tuple(options.weights or [None]),
        tuple(options.seeds),
        tuple(options.splits),
        options.images,
        options.channels,
        curvature,
    )
    with StageProgress(console) as progress:
        runs = run_audits(request, device, progress)
    for split in request.splits:
        same = [run for run in runs if run.split == split]
        console.print(correlation_table(split, same), feature_table(split, same), sep="\n")
    if options.json is not None:
        console.print(f"results: {write_result(options.json, audit_result(request, runs))}", soft_wrap=True)
    if options.plot is not None:
        from benchmarks.studies.audit.plot import plot_audit

        first = {run.split: run.report for run in reversed(runs)}
        plot_audit({split: first[split] for split in request.splits}, request.task, options.plot)
        console.print(f"plot: {options.plot}", soft_wrap=True)


def _fisher_types() -> Collection[str]:
    from hessian.kfac.loss_curvature import FISHER_TYPES

    return FISHER_TYPES


def _parser() -> argparse.ArgumentParser:
    what = "Hold H-OBS prices against what removing channels really does."
    parser = command_parser(
        "benchmarks.studies.audit", what, "task", "seeds", "json", "gpu", "threads", required=["task"]
    )
    parser.set_defaults(seeds=[0])
    parser.add_argument("--weights", type=Path, nargs="+", metavar="FILE", help="dense networks (default: the task's)")
    parser.add_argument(
        "--splits", nargs="+", default=SPLITS, choices=("calibration", "reward", "train", "test"), metavar="SPLIT"
    )
    parser.add_argument("--images", type=positive, metavar="N", help="at most so many of each split (default: all)")
    parser.add_argument("--channels", type=positive, default=16, metavar="N", help="channels sampled a layer")
    parser.add_argument("--approximation", default="expand", choices=("expand", "reduce"), help="of weight sharing")
    parser.add_argument(
        "--fisher", default="sketch", type=one_of("curvature estimator", _fisher_types), help="curvature estimator"
    )
    parser.add_argument(
        "--trace-calibration", action="store_true", help="give layers the trace of their exact curvature"
    )
    parser.add_argument("--plot", type=writable, metavar="FILE", help="draw the first run of every split")
    return parser

"""A pruned checkpoint against its dense network: accuracy, latency, throughput, memory, energy, and where time stayed.

    python -m benchmarks.system_eval --config FILE --checkpoint PATH [--batch-sizes 1 16 64] [--out DIR]

The configuration names the task: its dense network and its test split. The checkpoint is one of ``save_pruned`` (as
``prune-gym run`` leaves it: ``seed_<n>/pruned.safetensors``) or a plain state dict of that network with fewer channels
(``.safetensors``, ``.pt``, ``.pth``). Written to the output folder: ``system_eval.json``, ``latency.png``,
``throughput.png``, ``accuracy_speedup.png``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.common.arguments import command_parser, positive
from benchmarks.common.command import reports_errors
from benchmarks.common.modules import import_modules

DTYPES = ("float32", "bfloat16", "float16")


@reports_errors(ValueError, KeyError, MemoryError)
def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate a checkpoint from the command line.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 2 bad input, 130 interrupted.
    """
    options = _parser().parse_args(argv)
    from benchmarks.system_eval.evaluation import evaluate, write_report
    from benchmarks.system_eval.report import batch_table, network_table
    from benchmarks.system_eval.slowness import slowness_table

    import_modules(options.imports)
    console = Console()
    out = options.out or options.checkpoint.parent / "system_eval"
    report = evaluate(options, out, console)
    write_report(report, out)
    console.print(network_table(report), batch_table(report), sep="\n")
    if report.slowness is not None:
        console.print(slowness_table(report.slowness, rows=options.layers))
    console.print(f"results: {out}", highlight=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    what = "A pruned checkpoint against its dense network."
    parser = command_parser("benchmarks.system_eval", what, "gpu", "threads", "import")
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
    return parser

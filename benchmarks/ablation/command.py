"""The ablation: what is every part of the method worth?

    python -m benchmarks.ablation --config FILE [--ablation NAME] [--seeds N ...] [--results FILE] [--workers N]
        [KEY=VALUE ...]

Every variant is the main job under a configuration with a part switched off (:mod:`benchmarks.ablation.variants`), with
the same seeds, FLOPs target and fine-tuning. A (variant, seed) is a run folder of its own below
``<save_dir>/ablation``: a killed or stopped ablation goes on where it was with the same command, and variants can be
run apart. The table of what is finished is printed and written as ``ablation.json``, ``.md`` and ``.csv`` with a plot.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

try:
    from benchmarks.ablation.variants import VARIANTS, Plan, plan_ablation
except ModuleNotFoundError as error:
    if error.name != "benchmarks":
        raise
    sys.exit("prune-gym is not installed in this environment; run `pip install -e .` in the project's folder first")

from benchmarks.common.command import reports_errors
from benchmarks.common.modules import import_modules
from benchmarks.settings.source import ConfigError, Override
from benchmarks.studies.engine.command import INTERRUPTED, run_command, study_parser

if TYPE_CHECKING:
    from rich.console import Console

ALL = "all"


@reports_errors(ImportError, interrupted=INTERRUPTED)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the ablation, or what is left of it.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done (or out of time), 1 cells failed or the disk is full, 2 bad input or a folder that cannot be
        written, 130 interrupted.
    """
    options = _parser().parse_intermixed_args(argv)
    from rich.console import Console

    from benchmarks.ablation.study import AblationStudy
    from prune_gym.support.files import check_writable

    import_modules(options.imports)
    plan = plan_ablation(options.config, _overrides(options))
    chosen = _chosen(options.ablation, plan, Console(stderr=True))
    table = None if options.results is None else options.results.expanduser()
    if table is not None:
        check_writable(table.parent)
    console = None if options.workers else Console()
    study = partial(AblationStudy, plan, tuple(chosen), options.overwrite, options.retry_failed, console)
    threads = next(iter(plan.configs.values())).experiment.num_threads
    names = {cell.name for name in chosen for cell in plan.cells(name)}
    return run_command(study, options, threads, table, names)


def _chosen(asked: Sequence[str] | None, plan: Plan, errors: Console) -> list[str]:
    """Variants to run; those that would repeat the full run are refused when named, and left out of ``all``.

    Raises:
        ConfigError: a variant is named that would repeat the full run.
    """
    if not asked or ALL in asked:
        for name, reason in plan.left_out.items():
            errors.print(f"{name} is left out: {reason}", style="yellow", markup=False, soft_wrap=True)
        return list(plan.configs)
    for name in asked:
        if name in plan.left_out:
            raise ConfigError(f"--ablation {name}: it would repeat the full run: {plan.left_out[name]}")
    return [name for name in plan.configs if name in asked]


def _overrides(options: argparse.Namespace) -> list[str]:
    given = options.seeds or []
    # An assignment right behind the seeds is read as one more of them.
    seeds = [text for text in given if "=" not in text]
    overrides = [*options.overrides, *(text for text in given if "=" in text)]
    if seeds:
        overrides.append(Override.of(f"--seeds {' '.join(seeds)}", "experiment.random_seeds", f"[{', '.join(seeds)}]"))
    return overrides


def _parser() -> argparse.ArgumentParser:
    listed = "".join(f"\n  {name:12}{variant.summary}" for name, variant in VARIANTS.items())
    parser = study_parser(
        "benchmarks.ablation", "What is every part of the method worth?", *("config", "overwrite", "retry-failed")
    )
    parser.epilog, parser.formatter_class = f"variants:{listed}", argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--ablation", action="append", choices=(ALL, *VARIANTS), help="variant; again for more (default: all)")
    add("--seeds", nargs="+", metavar="N", help="seeds (default: experiment.random_seeds)")
    add("--results", type=Path, metavar="FILE", help="write ablation.json here too")
    return parser

"""Published methods against H-OBS and R-SPAR: same network, images, targets and budgets, every stage of repair apart.

    python -m benchmarks.studies.methods --task digits-resnet20 --out DIR [--methods NAME ...] [--targets 0.5 0.76 0.9]
        [--seeds 0 1 2 3 4] [--weights FILE ...] [--minutes 55] [--part 1/2] [--workers N]

Every (method, target, seed) is a file of its own in ``DIR/cells``: a killed or stopped run goes on where it was with
the same command, and several can share the work. ``--weights`` gives every seed a dense network of its own. When
cells are there, the table of what is finished is printed, and ``DIR/comparison.json``, ``.csv``, ``.md`` and ``.png``
are written.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path

from benchmarks.common.arguments import positive
from benchmarks.common.command import reports_errors
from benchmarks.common.modules import import_modules
from benchmarks.studies.engine.command import INTERRUPTED, run_command, study_parser
from benchmarks.studies.methods.config import SEEDS, TARGETS, Budget, MethodsConfig


@reports_errors(ValueError, KeyError, ImportError, interrupted=INTERRUPTED)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison, or what is left of it.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done (or out of time), 1 some cells failed, 2 bad input, 130 interrupted.
    """
    options = _parser().parse_args(argv)
    from benchmarks.studies.engine.store import CellFiles
    from benchmarks.studies.methods.study import MethodStudy

    import_modules(options.imports)
    budget = Budget(**{field.name: getattr(options, field.name) for field in fields(Budget)})
    weights = [str(path) for path in options.weights]
    config = MethodsConfig(options.task, options.out, options.methods, options.targets, options.seeds, weights, budget)
    if options.overwrite:
        CellFiles(options.out).forget()
    return run_command(partial(MethodStudy, config), options)


def _parser() -> argparse.ArgumentParser:
    budget, what = Budget(), "Compare published methods with H-OBS at equal budgets."
    parser = study_parser("benchmarks.studies.methods", what, "task", "seeds", "overwrite", required=["task"])
    parser.set_defaults(seeds=list(SEEDS))
    add = parser.add_argument
    add("--out", required=True, type=Path, metavar="DIR", help="where cells and tables go")
    add("--methods", nargs="+", default=[], metavar="NAME", help="baselines, their variants, hobs-* (default: all)")
    add("--targets", nargs="+", type=float, default=TARGETS, metavar="X", help="FLOPs reductions")
    add("--weights", nargs="+", type=Path, default=[], metavar="FILE", help="dense weights, a file a seed")
    add("--images", type=positive, default=budget.images, help="training images drawn from (default: %(default)s)")
    add("--own-training", type=positive, default=budget.own_training, help="images a method may train on by itself")
    add("--evaluations", type=positive, default=budget.evaluations, help="plans a search may measure")
    add("--reconstruction-steps", type=int, default=budget.reconstruction_steps, help="of the equal reconstruction")
    add("--reconstruction-images", type=positive, default=budget.reconstruction_images, help="it learns from")
    add("--finetune-epochs", type=int, default=budget.finetune_epochs, help="of the equal fine-tuning")
    add("--finetune-lr", type=float, default=budget.finetune_lr, help="its peak learning rate")
    add("--reward-images", type=positive, metavar="N", help="reward images a plan is measured on (default: all)")
    add("--test-images", type=positive, metavar="N", help="test images the stages are scored on (default: all)")
    add("--timed-passes", type=positive, default=budget.timed_passes, help="passes timed for the speed-up")
    return parser

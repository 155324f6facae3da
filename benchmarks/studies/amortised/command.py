"""R-SPAR amortised: taught on the training family, and what that is worth on networks it never saw.

    python -m benchmarks.studies.amortised teach --out DIR [--bench FOLDER] [--to FILE]
    python -m benchmarks.studies.amortised first --out DIR [--bench FOLDER] [--trusts T ...]
    python -m benchmarks.studies.amortised search --out DIR [--bench FOLDER] [--seeds S ...] [--targets T ...]
                                                [--agents A ...]
    python -m benchmarks.studies.amortised measured --out DIR [--seeds S ...]
    python -m benchmarks.studies.amortised fresh --out DIR [--per-kind N] [--dataset D] [--targets T ...]

`teach` trains the model and the linear correction that it is compared with. `first` measures what they propose for the
test networks with nothing measured; with ``--trusts`` it measures plans of the validation networks that follow the
model more or less far. `search` compares agents on the surrogates of the test networks, `measured` on two networks
outside the family, every plan really measured, and `fresh` on networks of the family that no table has. All but `teach`
go on where they were left.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.common.arguments import add_options, command_parser, positive
from benchmarks.common.command import reports_errors
from benchmarks.studies.engine.command import INTERRUPTED, SHARED, run_command

AGENTS = ("gp", "gp_scaled", "level_switch", "rspar", "pretrained")
"""Agents that search; the last is R-SPAR with the amortised model."""

OUTSIDE = {"fashion-resnet20": 0.91, "fashion-vgg11": 0.94}
"""Tasks outside the family, and the FLOPs reductions that the comparison of agents asks for."""


@reports_errors(ValueError, KeyError, ImportError, FileNotFoundError, interrupted=INTERRUPTED)
def main(argv: Sequence[str] | None = None) -> int:
    """Teach, or judge what was taught.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done (or out of time), 1 cells failed, 2 bad input, 130 interrupted.
    """
    options = _parser().parse_args(argv)
    from benchmarks.studies.amortised.family import Family

    family = Family(options.bench)
    if options.step == "teach":
        from benchmarks.studies.amortised.lesson import lesson

        return lesson(family, options.out, options.to, options.seed)
    linear, chosen = options.out / "linear.safetensors", options.out / "attention.safetensors"
    if options.step == "first":
        from benchmarks.studies.amortised.first_plans import FirstPlanStudy

        models: dict[str, tuple[Path, float | None]]
        models, folder, split = {"linear": (linear, None), "amortised": (chosen, None)}, options.out / "first", "test"
        if options.trusts:
            folder, split = options.out / "trust", "validation"
            models = {f"trust {trust:g}": (chosen, trust) for trust in options.trusts}
        return run_command(partial(FirstPlanStudy, folder, family, models, split), options, threads=1)
    if options.step == "fresh":
        from benchmarks.studies.amortised.fresh import FreshStudy

        asked = (options.targets, options.per_kind, options.dataset, options.evaluations)
        files = {"linear": linear, "amortised": chosen}
        return run_command(partial(FreshStudy, options.out / "fresh", files, *asked), options, threads=1)
    if options.step == "measured":
        from benchmarks.studies.amortised.measured import MeasuredStudy

        files = {"linear": linear, "amortised": chosen}
        own = partial(MeasuredStudy, options.out / "measured", files, OUTSIDE, options.seeds, options.evaluations)
        return run_command(own, options, threads=1)
    from benchmarks.studies.amortised.searches import SearchStudy

    sizes = (options.targets, options.seeds, options.evaluations, options.agents)
    study = partial(SearchStudy, options.out / "search", family, chosen, *sizes)
    return run_command(study, options, threads=1)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("benchmarks.studies.amortised", "Teach R-SPAR on the family, and judge what it knows.")
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    teach = steps.add_parser("teach", help="train the model and the linear correction")
    teach.add_argument("--to", type=Path, metavar="FILE", help="write the model here too")
    teach.add_argument("--seed", type=int, default=0, help="of weights and dropout (default: %(default)s)")
    first = steps.add_parser("first", help="measure first plans of the test networks")
    first.add_argument("--trusts", type=float, nargs="+", metavar="T", help="of the model, on the validation networks")
    search = steps.add_parser("search", help="compare agents on the surrogates of the test networks")
    search.add_argument("--targets", type=float, nargs="+", default=[0.75, 0.85, 0.92], metavar="T")
    search.add_argument("--agents", nargs="+", choices=AGENTS, default=AGENTS, help="that search (default: all)")
    measured = steps.add_parser("measured", help="compare agents on networks outside the family, plans measured")
    fresh = steps.add_parser("fresh", help="measure first plans and searches of networks that nobody looked at")
    fresh.add_argument("--targets", type=float, nargs="+", default=[0.75, 0.92], metavar="T")
    fresh.add_argument("--per-kind", type=positive, default=2, metavar="N", help="networks (default: %(default)s)")
    fresh.add_argument("--dataset", choices=("digits", "fashion"), default="digits", help="default: %(default)s")
    for step in (search, measured):
        step.add_argument("--seeds", type=int, nargs="+", default=[42, 2024, 10086], metavar="S")
    for step in (search, measured, fresh):
        step.add_argument("--evaluations", type=positive, default=32, metavar="N", help="a run (default: %(default)s)")
    for step in (teach, first, search, measured, fresh):
        step.add_argument("--out", type=Path, required=True, metavar="DIR", help="where models and results are kept")
        step.add_argument("--bench", type=Path, metavar="FOLDER", help="files of the bench (default: the package's)")
    for step in (first, search, measured, fresh):
        add_options(step, *SHARED)
    return parser

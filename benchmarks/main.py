"""The main job: prune a trained network and report what it cost.

    python -m benchmarks.main --config FILE [--gpu ID] [--seed N] [--method NAME] [KEY=VALUE ...]

The same as ``prune-gym run``. Results go to ``experiment.save_dir``, one folder ``seed_<n>`` a seed. An interrupted run
is resumed by the same command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

try:
    from benchmarks.common.arguments import command_parser, prepare
    from benchmarks.common.command import reports_errors
    from benchmarks.common.modules import import_modules
except ModuleNotFoundError as error:
    if error.name != "benchmarks":
        raise
    sys.exit("prune-gym is not installed in this environment; run `pip install -e .` in the project's folder first")

if TYPE_CHECKING:
    import torch

    from benchmarks.job.run_folder import RunFolder
    from benchmarks.settings.schema import Config


@reports_errors(interrupted="interrupted: nothing is lost, the same command resumes the run")
def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the job from the command line.

    Args:
        argv: arguments; absent means those of the process.
        prog: name of the command in the help text.

    Returns:
        Exit code: 0 done, 2 bad input, 130 interrupted.

    Raises:
        ConfigError: refused before any work; ends the command with exit code 2.
        FileNotFoundError: data or weights are missing; the same.
    """
    options = _parser(prog).parse_intermixed_args(argv)
    from benchmarks.job.run_folder import open_run
    from benchmarks.settings.reading import load_config
    from benchmarks.settings.source import ConfigError

    import_modules(options.imports)
    config = load_config(options.config, _overrides(options))
    device = prepare(options, config.experiment.num_threads)
    folders = {seed: open_run(config, seed, overwrite=options.overwrite) for seed in config.experiment.random_seeds}
    try:
        for seed, folder in folders.items():
            _run_seed(config, seed, folder, device)
    except (ConfigError, FileNotFoundError):
        # What is refused before any work leaves nothing behind that would stand in the corrected command's way.
        for folder in folders.values():
            folder.withdraw()
        raise
    return 0


def _run_seed(config: Config, seed: int, folder: RunFolder, device: torch.device) -> None:
    from rich.console import Console

    from benchmarks.job.pipeline import run_experiment
    from benchmarks.job.run_folder import RunState
    from benchmarks.job.summary import report_table
    from prune_gym.support.stage_progress import StageProgress

    console = Console()
    if folder.state is RunState.FINISHED:
        console.print(f"{folder.path} holds this run, finished; --overwrite runs it again", highlight=False)
        result = folder.read_result()
        assert result is not None
    else:
        console.rule(f"{config.experiment.name}, seed {seed}, {device}", style="dim")
        with StageProgress(console) as progress:
            result = run_experiment(config, seed, folder, device=device, progress=progress)
    console.print()
    console.print(report_table(result))
    for warning in result.get("warnings", []):
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(f"results: {folder.path}", highlight=False, soft_wrap=True)


def _parser(prog: str | None) -> argparse.ArgumentParser:
    what, shared = (
        "Prune a trained network and report what it cost.",
        ("config", "gpu", "threads", "overwrite", "import"),
    )
    parser = command_parser("benchmarks.main", what, *shared, prog=prog)
    parser.add_argument("--seed", metavar="N", help="run this seed only (default: experiment.random_seeds)")
    parser.add_argument("--method", metavar="NAME", help="how budgets are found (default: pruning.method)")
    return parser


def _overrides(options: argparse.Namespace) -> list[str]:
    """Options are shorthand for overrides, so that they get the same checks and messages."""
    from benchmarks.settings.source import Override

    overrides = list(options.overrides)
    if options.method is not None:
        overrides.append(Override.of(f"--method {options.method}", "pruning.method", options.method))
    if options.seed is not None:
        overrides.append(Override.of(f"--seed {options.seed}", "experiment.random_seeds", f"[{options.seed}]"))
    return overrides


if __name__ == "__main__":
    sys.exit(main())

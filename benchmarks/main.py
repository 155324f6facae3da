"""The main job: prune a trained network and report what it cost.

    python -m benchmarks.main --config FILE [--gpu ID] [--seed N] [--method NAME] [KEY=VALUE ...]

The same as ``prune-gym run``. Results go to ``experiment.save_dir``, one folder ``seed_<n>`` a seed. An interrupted run
is resumed by the same command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from rich.console import Console

try:
    from benchmarks.common.arguments import OptionError, chosen_device, default_threads, positive
    from benchmarks.common.command import reports_errors
    from benchmarks.settings.reading import load_config
    from benchmarks.settings.schema import Config
except ModuleNotFoundError as error:
    if error.name != "benchmarks":
        raise
    sys.exit("prune-gym is not installed in this environment; run `pip install -e .` in the project's folder first")

from benchmarks.job.pipeline import run_experiment
from benchmarks.job.run_folder import RunFolder, RunFolderError, RunState, open_run
from benchmarks.job.summary import report_table
from benchmarks.settings.source import ConfigError
from prune_gym.support.stage_progress import StageProgress


@reports_errors(
    ConfigError,
    OptionError,
    RunFolderError,
    OSError,
    interrupted="interrupted: nothing is lost, the same command resumes the run",
)
def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the job from the command line.

    Args:
        argv: arguments; absent means those of the process.
        prog: name of the command in the help text.

    Returns:
        Exit code: 0 done, 2 bad input, 130 interrupted.
    """
    arguments = _parser(prog).parse_intermixed_args(argv)
    config = load_config(arguments.config, _overrides(arguments))
    device = chosen_device(arguments.gpu)
    torch.set_num_threads(arguments.threads or config.experiment.num_threads or default_threads())
    folders = {seed: open_run(config, seed, overwrite=arguments.overwrite) for seed in config.experiment.random_seeds}
    for seed, folder in folders.items():
        _run_seed(config, seed, folder, device)
    return 0


def _run_seed(config: Config, seed: int, folder: RunFolder, device: torch.device) -> None:
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
    console.print(f"results: {folder.path}", highlight=False, soft_wrap=True)


def _parser(prog: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Prune a trained network and report what it cost.")
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML configuration")
    parser.add_argument(
        "--gpu", metavar="ID", help="GPU index, or cpu (default: the only GPU if there is one, else the CPU)"
    )
    parser.add_argument("--seed", metavar="N", help="run this seed only (default: experiment.random_seeds)")
    parser.add_argument("--method", metavar="NAME", help="how budgets are found (default: pruning.method)")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: experiment.num_threads)")
    parser.add_argument("--overwrite", action="store_true", help="start again even if the folder holds a run")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="set a key of the configuration")
    return parser


def _overrides(arguments: argparse.Namespace) -> list[str]:
    """Options are shorthand for overrides, so that they get the same checks and messages."""
    overrides = list(arguments.overrides)
    if arguments.method is not None:
        overrides.append(f"pruning.method={arguments.method}")
    if arguments.seed is not None:
        overrides.append(f"experiment.random_seeds=[{arguments.seed}]")
    return overrides


if __name__ == "__main__":
    sys.exit(main())

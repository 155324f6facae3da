"""The ablation: what is every part of the method worth?

    python -m benchmarks.ablation --config FILE [--ablation NAME] [--seeds N ...] [--results FILE] [KEY=VALUE ...]

Every variant is the main job under a configuration with a part switched off (:mod:`benchmarks.ablation.variants`), with
the same seeds, FLOPs target and fine-tuning. A (variant, seed) is a run folder of its own below
``<save_dir>/ablation``: a killed or stopped ablation goes on where it was with the same command, and variants can be
run apart. The table of what is finished is printed and written as ``ablation.json`` and ``.csv`` with a plot.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

try:
    from benchmarks.ablation.plot import plot_ablation
    from benchmarks.ablation.tables import ablation_table, summarise, write_runs
    from benchmarks.ablation.variants import VARIANTS, Plan, plan_ablation
except ModuleNotFoundError as error:
    if error.name != "benchmarks":
        raise
    sys.exit("prune-gym is not installed in this environment; run `pip install -e .` in the project's folder first")

from benchmarks.common.arguments import OptionError, chosen_device, default_threads, positive
from benchmarks.common.command import BAD_INPUT, INTERRUPTED
from benchmarks.common.provenance import write_result
from benchmarks.common.table import report_console
from benchmarks.job.pipeline import run_experiment
from benchmarks.job.run_folder import RunFolder, RunFolderError, RunState, open_run
from benchmarks.settings.schema import Config
from benchmarks.settings.source import ConfigError
from prune_gym.support.files import check_writable
from prune_gym.support.stage_progress import StageProgress

ALL = "all"

Results = dict[str, list[dict[str, Any]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ablation, or what is left of it.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 2 bad input or a folder that cannot be written, 130 interrupted.
    """
    arguments = _parser().parse_intermixed_args(argv)
    errors = Console(stderr=True)
    try:
        plan = plan_ablation(arguments.config, _overrides(arguments))
        chosen = _chosen(arguments.ablation, plan, errors)
        device = chosen_device(arguments.gpu)
        table = None if arguments.results is None else arguments.results.expanduser()
        if table is not None:
            check_writable(table.parent)
        folders = _open(plan, chosen, overwrite=arguments.overwrite)
        first = next(iter(plan.configs.values()))
        torch.set_num_threads(arguments.threads or first.experiment.num_threads or default_threads())
        console = Console()
        for number, ((name, seed), folder) in enumerate(folders.items(), start=1):
            _run(f"[{number}/{len(folders)}]", name, plan.configs[name], seed, folder, device, console)
        _report(plan, _finished(plan), table, console)
    except (ConfigError, OptionError, RunFolderError, FileNotFoundError) as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return BAD_INPUT
    except OSError as error:
        message = f"error: {error}; what is finished is kept, the same command goes on"
        errors.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
        return BAD_INPUT
    except KeyboardInterrupt:
        errors.print("interrupted: nothing is lost, the same command goes on", style="yellow")
        return INTERRUPTED
    return 0


def _chosen(asked: Sequence[str] | None, plan: Plan, errors: Console) -> list[str]:
    """Variants to run; those that would repeat the full run are refused when named, and left out of ``all``."""
    if not asked or ALL in asked:
        for name, reason in plan.left_out.items():
            errors.print(f"{name} is left out: {reason}", style="yellow", markup=False, soft_wrap=True)
        return list(plan.configs)
    for name in asked:
        if name in plan.left_out:
            raise ConfigError(f"--ablation {name}: it would repeat the full run: {plan.left_out[name]}")
    return [name for name in plan.configs if name in asked]


def _open(plan: Plan, chosen: Sequence[str], *, overwrite: bool) -> dict[tuple[str, int], RunFolder]:
    """Folders of all runs, seeds outermost, so that an unfinished ablation has whole seeds first."""
    seeds = next(iter(plan.configs.values())).experiment.random_seeds
    return {(name, seed): open_run(plan.configs[name], seed, overwrite=overwrite) for seed in seeds for name in chosen}


def _run(
    counted: str, name: str, config: Config, seed: int, folder: RunFolder, device: torch.device, console: Console
) -> None:
    if folder.state is RunState.FINISHED:
        console.print(f"{counted} {name}, seed {seed}: finished before", highlight=False, markup=False)
        return
    console.rule(f"{counted} {name}, seed {seed}: {VARIANTS[name].summary}".replace("[", "\\["), style="dim")
    with StageProgress(console) as progress:
        result = run_experiment(config, seed, folder, device=device, progress=progress)
    one_shot, final = (100 * result[stage]["accuracy"] for stage in ("one_shot", "final"))
    console.print(f"{name}, seed {seed}: one-shot {one_shot:.2f} %, fine-tuned {final:.2f} %", highlight=False)


def _finished(plan: Plan) -> Results:
    """Results of the variants all of whose seeds are finished, whoever ran them.

    Raises:
        RunFolderError: a run of another configuration, or runs of different software versions.
    """
    results: Results = {}
    for name, config in plan.configs.items():
        folders = [RunFolder(config.experiment.save_dir / f"seed_{seed}") for seed in config.experiment.random_seeds]
        if all(folder.state is RunState.FINISHED for folder in folders):
            for seed in config.experiment.random_seeds:
                open_run(config, seed)  # refuses what another configuration left there
            results[name] = [result for folder in folders if (result := folder.read_result()) is not None]
    _check_versions(results, plan.folder)
    return results


def _check_versions(results: Mapping[str, Sequence[Mapping[str, Any]]], folder: Path) -> None:
    distinct = {str(run["versions"]): run["versions"] for runs in results.values() for run in runs}
    if len(distinct) > 1:
        one, other = list(distinct.values())[:2]
        changed = [f"{key} {one.get(key)} and {other.get(key)}" for key in one if one.get(key) != other.get(key)]
        raise RunFolderError(
            f"{folder} holds runs of different software versions ({', '.join(changed)}); their differences would not "
            "be those of the variants: pass --overwrite, or set another experiment.save_dir"
        )


def _report(plan: Plan, results: Results, path: Path | None, console: Console) -> None:
    """Print, write and draw what is there."""
    rows = summarise(results)
    base = next(iter(plan.configs.values()))
    missing = [name for name in plan.configs if name not in results]
    target = next(iter(results.values()))[0]["target_flops_reduction"]
    title = f"{base.task_name}: {100 * target:g} % of the FLOPs removed"
    report_console(console).print(ablation_table(rows, title))
    if missing:
        console.print(f"not finished yet: {', '.join(missing)}", highlight=False)
    content = {
        "task": base.task_name,
        "target_flops_reduction": target,
        "configuration": base.model_dump(mode="json", exclude={"experiment": {"save_dir"}}),
        "rows": rows,
    }
    for file in (plan.folder / "ablation.json", *([path] if path is not None else [])):
        write_result(file, content)
    write_runs(plan.folder / "ablation.csv", results)
    plot_ablation(rows, title, save_path=plan.folder / "ablation")
    console.print(f"results: {plan.folder}", highlight=False, soft_wrap=True)


def _overrides(arguments: argparse.Namespace) -> list[str]:
    given = arguments.seeds or []
    # An assignment right behind the seeds is read as one more of them.
    seeds = [text for text in given if "=" not in text]
    overrides = [*arguments.overrides, *(text for text in given if "=" in text)]
    if seeds:
        overrides.append(f"experiment.random_seeds=[{', '.join(seeds)}]")
    return overrides


def _parser() -> argparse.ArgumentParser:
    listed = "".join(f"\n  {name:12}{variant.summary}" for name, variant in VARIANTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation",
        description="What is every part of the method worth?",
        epilog=f"variants:{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="YAML configuration of the full run")
    add("--ablation", action="append", choices=(ALL, *VARIANTS), help="variant; again for more (default: all)")
    add("--seeds", nargs="+", metavar="N", help="seeds (default: experiment.random_seeds)")
    add("--results", type=Path, metavar="FILE", help="write ablation.json here too")
    add("--gpu", metavar="ID", help="GPU index, or cpu (default: the only GPU if there is one, else the CPU)")
    add("--threads", type=positive, metavar="N", help="CPU threads (default: experiment.num_threads)")
    add("--overwrite", action="store_true", help="start again even if the folders hold runs")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="set a key of the configuration")
    return parser

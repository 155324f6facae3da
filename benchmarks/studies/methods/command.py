"""Published methods against H-OBS and R-SPAR: same network, images, targets and budgets, every stage of repair apart.

    python -m benchmarks.studies.methods --task digits-resnet20 --out DIR [--methods NAME ...] [--targets 0.5 0.76 0.9]
        [--seeds 0 1 2 3 4] [--weights FILE ...] [--minutes 55] [--part 1/2]

Every (method, target, seed) is a file of its own in ``DIR/cells``: a killed or stopped run goes on where it was with
the same command, and several can share the work. ``--weights`` gives every seed a dense network of its own. When
cells are there, the table of what is finished is printed, and ``DIR/comparison.json``, ``.csv``, ``.md`` and ``.png``
are written.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.common.arguments import check_distinct, default_threads, positive, share
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import describe_machine, versions, write_result
from benchmarks.common.table import report_console
from benchmarks.studies.engine.cells import mixed_versions, read_cells, read_object
from benchmarks.studies.engine.command import Deadline, warn
from benchmarks.studies.engine.networks import NETWORK, WEIGHTS, MeasuredNetworks, dense_name
from benchmarks.studies.methods.cells import Budget, Contest, method_names
from benchmarks.studies.methods.plots import plot_methods
from benchmarks.studies.methods.tables import comparison_table, cost_table, markdown_tables, summarise, write_csv
from hessian.support.files import write_atomic
from hessian.support.names import suggest
from prune_gym.data.augmentation import Augmentation
from prune_gym.problem.problem import PruningProblem
from prune_gym.support.device import resolve_device
from prune_gym.support.files import write_json_atomic
from prune_gym.tasks.named import named_task
from prune_gym.tasks.registry import make_task, task_names

TARGETS = (0.5, 0.76, 0.9)


@dataclass(frozen=True)
class Study:
    """What is compared.

    Attributes:
        task: name of a task.
        methods: names.
        targets: FLOPs reductions.
        seeds: of methods and fine-tuning.
        weights: a file of dense weights a seed, or nothing for the task's own.
        budget: what every method may spend.
    """

    task: str
    methods: tuple[str, ...]
    targets: tuple[float, ...]
    seeds: tuple[int, ...]
    weights: tuple[str, ...]
    budget: Budget

    def cells(self) -> list[tuple[int, float, str]]:
        """(seed, target, method) of every cell; seeds outermost, so that an unfinished table has whole seeds first."""
        return [(seed, target, method) for seed in self.seeds for target in self.targets for method in self.methods]

    def weights_of(self, seed: int) -> str | None:
        """Dense weights of a seed."""
        return self.weights[self.seeds.index(seed)] if self.weights else None

    def weights_name(self, seed: int) -> str | None:
        """What the dense weights of a seed are called in its cells; None where they are the task's."""
        weights = self.weights_of(seed)
        return None if weights is None else Path(weights).stem


@reports_errors(OSError, ValueError, KeyError, interrupted="interrupted: the same command goes on with the next cell")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison, or what is left of it.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done (or out of time), 1 some cells failed, 2 bad input, 130 interrupted.
    """
    options = _parser().parse_args(argv)
    study = _study(options)
    torch.set_num_threads(options.threads or default_threads())
    _open_folder(options.out, study, overwrite=options.overwrite)
    console = Console()
    _run(study, options, console)
    return _report(study, options.out, report_console(console))


def _study(options: argparse.Namespace) -> Study:
    known = method_names()
    methods = tuple(options.methods or known)
    for name in methods:
        if name not in known:
            raise ValueError(f"unknown method {name!r}{suggest(name, known)}")
    weights = tuple(str(path) for path in options.weights or ())
    if weights and len(weights) != len(options.seeds):
        raise ValueError(f"--weights gives every seed a dense network: {len(options.seeds)} files, got {len(weights)}")
    for option, values in (("--methods", methods), ("--targets", options.targets), ("--seeds", options.seeds)):
        check_distinct(option, values)
    if not all(0 < target < 1 for target in options.targets):
        raise ValueError(f"--targets are shares of the FLOPs removed, in (0, 1); got {options.targets}")
    if options.finetune_epochs < 0 or options.finetune_lr <= 0:
        raise ValueError("--finetune-epochs is at least 0 and --finetune-lr positive")
    budget = Budget(**{field.name: getattr(options, field.name) for field in fields(Budget)})
    return Study(options.task, methods, tuple(options.targets), tuple(options.seeds), weights, budget)


def _open_folder(folder: Path, study: Study, *, overwrite: bool) -> None:
    """Refuse to mix cells of different studies; more methods, targets or seeds of the same one are welcome."""
    path, same = folder / "study.json", {"task": study.task, "budget": asdict(study.budget)}
    if path.is_file() and not overwrite:
        stored = read_object(path)
        if {key: stored[key] for key in same} != same:
            raise ValueError(
                f"{folder} holds cells of another task or budget ({stored}); choose another --out, or --overwrite"
            )
    if overwrite:
        for cell in (folder / "cells").glob("*.json"):
            cell.unlink()
    content = {**same, "versions": versions(), "threads": torch.get_num_threads(), "machine": describe_machine()}
    write_json_atomic(path, content)


def _run(study: Study, options: argparse.Namespace, console: Console) -> None:
    part, parts = options.part
    mine = [cell for number, cell in enumerate(study.cells()) if number % parts == part - 1]
    todo = [cell for cell in mine if not _finished(_cell_path(options.out, study, *cell))]
    console.print(f"{len(mine) - len(todo)} of {len(mine)} cells finished before", highlight=False)
    networks = _networks(study, options.out, read_cells(options.out / "cells"))
    deadline, device = Deadline(options.minutes, console), resolve_device(options.gpu)
    contests: dict[str | None, Contest] = {}
    for number, (seed, target, method) in enumerate(todo, start=1):
        if deadline.passed():
            return
        weights, name = study.weights_of(seed), study.weights_name(seed)
        if weights not in contests:
            contests = {weights: _contest(study, weights, device)}  # one at a time: data and curvature are large
        digest = contests[weights].problem.network_key
        networks.admit(name or study.task, digest)
        path = _cell_path(options.out, study, seed, target, method)
        began = time.monotonic()
        cell = _cell(contests[weights], method, target, seed)
        write_result(path, {**cell, WEIGHTS: name, NETWORK: digest})
        console.print(
            f"[{number}/{len(todo)}] {method}, target {target:g}, seed {seed}: {time.monotonic() - began:.0f} s",
            highlight=False,
            markup=False,
        )


def _contest(study: Study, weights: str | None, device: torch.device) -> Contest:
    task = make_task(study.task, **({} if weights is None else {"weights": weights}))
    if task.test is None or task.train is None:
        raise ValueError(f"the task {study.task!r} lacks a test or a train split, which the comparison needs")
    task = replace(task, reward=task.reward.subset(slice(study.budget.reward_images)))
    return Contest(PruningProblem(task, device=device).load(), study.budget, _augmentation(study.task))


def _cell(contest: Contest, method: str, target: float, seed: int) -> dict[str, Any]:
    """The measured cell, or why there is none: one failure must not cost the others."""
    try:
        return contest.measure(method, target, seed)
    except (ValueError, RuntimeError, ArithmeticError) as error:
        return {"method": method, "target": target, "seed": seed, "error": f"{type(error).__name__}: {error}"}


def _augmentation(task: str) -> Augmentation:
    """The random changes the dense network was trained with; none where the task is not the package's."""
    try:
        recipe = named_task(task).recipe
    except KeyError:
        return Augmentation()
    return Augmentation(recipe.max_shift, recipe.max_rotation, recipe.flip)


def _cell_path(folder: Path, study: Study, seed: int, target: float, method: str) -> Path:
    weights = study.weights_name(seed)
    dense = "" if weights is None else f"-{weights}"
    return folder / "cells" / f"{method}-{target:g}-seed{seed}{dense}.json"


def _networks(study: Study, folder: Path, cells: Sequence[dict[str, Any]]) -> MeasuredNetworks:
    return MeasuredNetworks(folder, ((dense_name(cell, study.task), cell.get(NETWORK)) for cell in cells))


def _finished(path: Path) -> bool:
    """Whether a cell is there and is no failure, which is tried again."""
    return path.is_file() and "error" not in read_object(path)


def _report(study: Study, folder: Path, console: Console) -> int:
    """Print and write what is there; 1 if a cell failed."""
    paths = [_cell_path(folder, study, *cell) for cell in study.cells()]
    cells = [read_object(path) for path in paths if path.is_file()]
    failed = [cell for cell in cells if "error" in cell]
    done = [cell for cell in cells if "error" not in cell]
    for cell in failed:
        text = f"failed: {cell['method']}, target {cell['target']:g}, seed {cell['seed']}: {cell['error']}"
        console.print(text, style="red", markup=False)
    if done:
        _networks(study, folder, done)
        rows = summarise(done)
        for target in study.targets:
            at_target = [row for row in rows if row["target"] == target]
            console.print(comparison_table(target, at_target), cost_table(target, at_target), sep="\n")
        content = {"task": study.task, "budget": asdict(study.budget), "rows": rows, "failed": failed}
        write_result(folder / "comparison.json", content)
        write_csv(folder / "comparison.csv", done)
        write_atomic(folder / "comparison.md", markdown_tables(rows))
        plot_methods(rows, f"{study.task}, {_seeds(done)}", folder / "comparison.png")
    warn(console, mixed_versions(done))
    console.print(f"{len(done)} of {len(paths)} cells; results: {folder}", highlight=False, soft_wrap=True)
    return 1 if failed else 0


def _seeds(cells: Sequence[dict[str, Any]]) -> str:
    count = len({cell["seed"] for cell in cells})
    return f"{count} seed{'s' * (count != 1)}"


def _parser() -> argparse.ArgumentParser:
    budget = Budget()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.methods",
        description="Compare published methods with H-OBS at equal budgets.",
    )
    add = parser.add_argument
    add("--task", required=True, choices=task_names(), metavar="NAME", help=", ".join(task_names()))
    add("--out", required=True, type=Path, metavar="DIR", help="where cells and tables go")
    add("--methods", nargs="+", metavar="NAME", help=f"default all: {', '.join(method_names())}")
    add("--targets", nargs="+", type=float, default=TARGETS, metavar="X", help="FLOPs reductions")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="N")
    add("--weights", nargs="+", type=Path, metavar="FILE", help="dense weights, a file a seed (default: the task's)")
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
    add("--minutes", type=float, help="start no new cell after so long")
    add("--part", type=share, default=(1, 1), metavar="I/N", help="only every N-th cell, starting at the I-th")
    add("--overwrite", action="store_true", help="forget the cells that are there")
    add("--gpu", metavar="ID", help="GPU index, or cpu (default: the only GPU, else the CPU)")
    add("--threads", type=positive, metavar="N", help="CPU threads (default: one a core, at most 8)")
    return parser

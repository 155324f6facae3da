"""The main job, one function a stage: each takes what it needs and returns what it found."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import torch
from torch import nn

import baselines
from agents.monitor import best_feasible
from benchmarks.config import Config
from benchmarks.config_source import ConfigError
from benchmarks.methods import METHODS
from benchmarks.progress import ProgressCallback
from prune_gym.augmentation import Augmentation
from prune_gym.checkpoint import load_pruned, save_pruned
from prune_gym.curvature_cache import CurvatureSettings
from prune_gym.env import HOBSPruneEnv
from prune_gym.evaluator import Evaluation
from prune_gym.problem import PruningProblem
from prune_gym.pruner import PhysicalPruner
from prune_gym.tasks import PruningTask, make_task, task_takes
from prune_gym.training import evaluate_model, fine_tune

TOLERANCE = 0.02
"""How far beyond the target the final plan's FLOPs reduction may go."""
REMEMBER_EVERY = 5
"""Episodes between two saves of what a search measured."""

Record = dict[str, Any]
Archive = dict[tuple[int, ...], Evaluation]


@dataclass(frozen=True)
class Budgets:
    """What a search or a published method decided.

    Attributes:
        kept: kept units of every layer, in the problem's order.
        plan: layer name -> removed channel indices.
        accuracy: of the plan on the reward split, a fraction.
        soft_accuracy: mean probability of the true class there.
        flops_reduction: of the plan, a fraction.
        measured_evaluations: distinct plans the search measured, the start plan included.
        history: one record an episode.
    """

    kept: list[int]
    plan: dict[str, list[int]]
    accuracy: float
    soft_accuracy: float
    flops_reduction: float
    measured_evaluations: int
    history: list[Record]


def load_task(config: Config, device: torch.device) -> PruningTask:
    """Load data and dense network.

    Raises:
        ConfigError: the configuration contradicts the task or its data, or the task lacks a split the job needs.
        FileNotFoundError: the task's data or weights are missing.
    """
    options = _dataset_options(config)
    try:
        task = make_task(config.task_name, **options)
    except TypeError as error:
        refused = ", ".join(f"'dataset.{key}'" for key in options if repr(key) in str(error))
        if not refused:
            raise
        raise ConfigError(f"{refused}: the task {config.task_name!r} takes none ({error})") from error
    except ValueError as error:
        raise ConfigError(f"task {config.task_name!r}: {error}") from error
    task = replace(task, model=task.model.to(device), example_input=task.example_input.to(device))
    _check_agreement(config, task)
    return task


def _dataset_options(config: Config) -> dict[str, Any]:
    """What the configuration asks of the task's data."""
    dataset = config.dataset
    given: dict[str, Any] = {"reward_size": dataset.reward_size, "calibration_size": dataset.calibration_size}
    if dataset.data_dir is not None:
        given["data_dir"] = dataset.data_dir.expanduser()
    if task_takes(config.task_name, "image_size"):
        given["image_size"] = dataset.image_size
    return {key: value for key, value in given.items() if value is not None}


def _check_agreement(config: Config, task: PruningTask) -> None:
    with torch.no_grad():
        num_classes = copy.deepcopy(task.model).eval()(task.example_input).shape[1]
    problems = []
    for key, given, actual in (
        ("model.num_classes", config.model.num_classes, num_classes),
        ("dataset.image_size", config.dataset.image_size, task.example_input.shape[-1]),
    ):
        if given not in (None, actual):
            problems.append(f"{key!r} is {given}, but the task {task.name!r} has {actual}")
    if not config.model.pretrained:
        problems.append(f"'model.pretrained' is false, but the task {task.name!r} prunes a trained network")
    if task.test is None:
        problems.append(f"the task {task.name!r} has no test split to report on")
    if task.train is None and config.pruning.finetune.epochs > 0:
        problems.append(f"the task {task.name!r} has no training images to fine-tune on; set pruning.finetune.epochs=0")
    if problems:
        raise ConfigError("\n".join(problems))


def make_problem(config: Config, task: PruningTask) -> PruningProblem:
    """State the pruning problem; nothing is computed yet.

    Raises:
        ConfigError: the target is out of reach under ``max_pruning_ratio``; the reachable range is named.
    """
    hobs = config.pruning.hobs
    settings = CurvatureSettings(hobs.damping, hobs.use_kfac, num_batches=hobs.num_batches_sensitivity)
    problem = PruningProblem(task, curvature=settings, repair=hobs.refit, selection=hobs.selection)
    try:
        problem.cost.check_target(target_of(config, task), problem.cost.limits(config.pruning.max_pruning_ratio))
    except ValueError as error:
        raise ConfigError(f"'pruning.target_flops_reduction': {error}") from None
    return problem


def target_of(config: Config, task: PruningTask) -> float:
    """Return the FLOPs reduction asked for: the configuration's, else the task's default."""
    target = config.pruning.target_flops_reduction
    return task.default_target if target is None else target


def accuracy_on_test(model: nn.Module, task: PruningTask) -> float:
    """Return the fraction of the test split a network gets right; only report stages call this."""
    assert task.test is not None
    return evaluate_model(model, task.test).accuracy


def analyse(problem: PruningProblem, report: ProgressCallback) -> None:
    """Price every channel, from the cache where it was done before."""
    problem.progress = report
    problem.load()
    problem.progress = None


def search_budgets(
    config: Config,
    seed: int,
    problem: PruningProblem,
    report: ProgressCallback,
    *,
    measured: Archive,
    remember: Callable[[Archive], None],
) -> Budgets:
    """Find the best budgets on the target.

    A search is a deterministic function of its seed and of what the plans it asks for measure. So an interrupted one
    is resumed by running it again with everything ``measured`` already at hand: it takes the same decisions, quickly
    up to where it stopped, and ends as if it had never been interrupted, whatever agent it is.

    Args:
        config: the run's configuration.
        seed: of the search.
        problem: loaded.
        report: progress callback.
        measured: plans measured by an interrupted search of the same run.
        remember: called now and then, and when anything goes wrong, with all plans measured so far.
    """
    method = METHODS[config.pruning.method]
    # Filter norms predict no loss: a knapsack of them empties whole layers, so searches start from equal ratios.
    blind = method.searches and config.pruning.hobs.selection == "magnitude"
    env = make_env(config, problem, "uniform" if blind else method.start, method.fidelity)
    plans = cast(HOBSPruneEnv, env.unwrapped)
    problem.evaluator.archive.update(measured)
    history: list[Record] = []
    total = method.num_episodes(config.pruning)

    def on_episode(record: Record) -> None:
        history.append(record)
        best = max((row["accuracy"] for row in history if row["violation"] <= 0), default=0.0)
        report(f"best {100 * best:.1f} % on the reward split, episode", len(history) - 1, max(total, 1))
        if len(history) % REMEMBER_EVERY == 0:
            remember(problem.evaluator.archive)

    try:
        method.build(plans, config.pruning, seed).learn(env, total, callback=on_episode)
        if method.fidelity == "predicted":
            _measure_best(plans, history)
        kept, evaluation = plans.best_plan(TOLERANCE)
    finally:
        remember(problem.evaluator.archive)
    return Budgets(
        kept=kept.tolist(),
        plan=problem.hobs.plan(kept.tolist()),
        accuracy=evaluation.accuracy,
        soft_accuracy=evaluation.soft_accuracy,
        flops_reduction=float(problem.cost.reduction(kept)),
        measured_evaluations=len(plans.archive),
        history=history,
    )


def _measure_best(plans: HOBSPruneEnv, history: list[Record]) -> None:
    """Measure the plan that predictions like best, so that it can compete with the start plan."""
    best = best_feasible(history)
    if best is not None:
        kept = tuple(best["kept"])
        plans.archive[kept] = plans.problem.evaluator.evaluate(kept)


def make_env(config: Config, problem: PruningProblem, start: str = "knapsack", fidelity: str = "measured") -> gym.Env:
    """Return the environment of a run; without curvature, observations have none."""
    pruning = config.pruning
    return gym.make(
        "HOBSPrune-v0",
        problem=problem,
        target_flops_reduction=target_of(config, problem.task),
        constraint=pruning.constraint,
        max_pruning_ratio=pruning.max_pruning_ratio,
        lambda_0=pruning.rspar.lambda_0,
        tau=pruning.rspar.tau,
        start=start,
        features="kfac" if pruning.hobs.selection == "hobs" else "cost",
        fidelity=fidelity,
        disable_env_checker=True,
    )


def cut(config: Config, problem: PruningProblem, budgets: Budgets) -> nn.Module:
    """Return the physically smaller network, repaired."""
    task, hobs = problem.task, config.pruning.hobs
    pruner = PhysicalPruner(
        task.model, task.example_input, ignored_layers=tuple(task.ignored_layers), damping=hobs.damping
    )
    analyzer = problem.hobs if hobs.refit == "closed_form" else None
    return pruner.prune(budgets.plan, refit=hobs.refit, calibration=task.calibration, analyzer=analyzer)


def prune_by_baseline(
    config: Config, seed: int, task: PruningTask, report: ProgressCallback
) -> tuple[Budgets, nn.Module]:
    """Return what a published method decided, and its network: its own weights, without our repair."""
    pruning, baseline = config.pruning, baselines.get(config.pruning.method)
    episodes = {"episodes": pruning.rspar.num_episodes} if "episodes" in baseline.options else {}
    network, info = baseline.prune(
        task.model,
        task.calibration if task.train is None else task.train,
        target_of(config, task),
        ratio_of="flops",
        seed=seed,
        validation=task.reward,
        max_pruning_ratio=pruning.max_pruning_ratio,
        ignored_layers=tuple(task.ignored_layers),
        augment=Augmentation(**pruning.finetune.augmentation.model_dump()),
        progress=report,
        return_info=True,
        **episodes,
    )
    score = evaluate_model(network, task.reward)
    budgets = Budgets(
        kept=list(info.kept.values()),
        plan=info.plan,
        accuracy=score.accuracy,
        soft_accuracy=score.soft_accuracy,
        flops_reduction=info.flops_reduction,
        measured_evaluations=info.evaluations,
        history=[],
    )
    return budgets, network


def tune(config: Config, seed: int, task: PruningTask, pruned: nn.Module, report: ProgressCallback) -> nn.Module:
    """Return a fine-tuned copy of the pruned network, taught by the dense one."""
    settings = config.pruning.finetune
    student = copy.deepcopy(pruned)
    if settings.epochs > 0:
        assert task.train is not None
        fine_tune(
            student,
            task.model,
            task.train,
            epochs=settings.epochs,
            lr=settings.learning_rate,
            temperature=settings.distillation.temperature,
            distillation_weight=settings.distillation.weight,
            batch_size=settings.batch_size,
            augment=Augmentation(**settings.augmentation.model_dump()),
            seed=seed,
            progress=report,
        )
    return student.eval()


def budget_table(problem: PruningProblem, budgets: Budgets) -> dict[str, dict[str, Any]]:
    """Return what ``budgets.json`` holds: for every layer its ratio, units, and kept and removed channels."""
    table = {}
    for group, kept in zip(problem.groups, budgets.kept, strict=True):
        removed = sorted(budgets.plan.get(group.name, []))
        table[group.name] = {
            "pruning_ratio": 1 - kept / group.num_units,
            "channels": group.size,
            "kept_channels": sorted(set(range(group.size)) - set(removed)),
            "removed_channels": removed,
        }
    return table


def save_network(path: Path, network: nn.Module, task: PruningTask, problem: PruningProblem, budgets: Budgets) -> None:
    """Write a pruned network and its manifest."""
    save_pruned(
        path,
        network,
        factory=task.model_factory or _copy_of(task),
        factory_kwargs=task.model_kwargs if task.model_factory else {},
        kept={name: row["kept_channels"] for name, row in budget_table(problem, budgets).items()},
        metrics={"flops_reduction": budgets.flops_reduction},
    )


def load_network(path: Path, task: PruningTask) -> nn.Module:
    """Return a network :func:`save_network` wrote, on the CPU."""
    return load_pruned(path, factory=None if task.model_factory else _copy_of(task))


def _copy_of(task: PruningTask) -> Callable[..., nn.Module]:
    """What builds the dense network of a task that names no registered one: a copy of its own."""

    def dense_network() -> nn.Module:
        return copy.deepcopy(task.model).cpu()

    return dense_network


def archive_to_json(archive: Mapping[tuple[int, ...], Evaluation]) -> list[dict[str, Any]]:
    """Return measured plans as JSON can hold them."""
    return [{"kept": list(kept), **asdict(evaluation)} for kept, evaluation in archive.items()]


def archive_from_json(rows: list[dict[str, Any]] | None) -> Archive:
    """Inverse of :func:`archive_to_json`; nothing for None."""
    return {tuple(row["kept"]): Evaluation(row["accuracy"], row["soft_accuracy"], row["loss"]) for row in rows or []}

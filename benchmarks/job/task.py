"""The task and the pruning problem that a configuration describes."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch

from benchmarks.settings.methods import load_agent
from benchmarks.settings.schema import Config
from benchmarks.settings.source import ConfigError
from prune_gym.measuring.curvature_cache import CurvatureSettings
from prune_gym.problem.features import FeatureSet
from prune_gym.problem.problem import PruningProblem
from prune_gym.tasks.registry import make_task, task_takes
from prune_gym.tasks.task import PruningTask


def load_task(config: Config, device: torch.device) -> PruningTask:
    """Load data and dense network.

    Raises:
        ConfigError: the configuration contradicts the task or its data, or the task lacks a split the job needs.
        FileNotFoundError: the task's data or weights are missing.
        TypeError: the task's factory fails for reasons of its own.
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
    """Options of the task's data, as the configuration asks."""
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
    repair = "reconstructed" if hobs.measured_after == "reconstruction" else hobs.refit
    problem = PruningProblem(task, curvature=settings, repair=repair, judge=hobs.judge, selection=hobs.selection)
    try:
        problem.cost.check_target(target_of(config, task), problem.cost.limits(config.pruning.max_pruning_ratio))
    except ValueError as error:
        raise ConfigError(f"'pruning.target_flops_reduction': {error}") from None
    _check_initial_agent(config, problem)
    return problem


def _check_initial_agent(config: Config, problem: PruningProblem) -> None:
    """Refuse an agent that cannot act on the problem before anything is computed.

    Raises:
        ConfigError: the method goes on from no agent, or the file's agent does not fit the problem.
    """
    key, settings = "'pruning.rspar.initial_agent'", config.pruning.rspar
    if settings.initial_agent is None:
        return
    if config.pruning.method != "hobs-rspar":
        raise ConfigError(f"{key}: {config.pruning.method} does not go on from an agent; only hobs-rspar does")
    try:
        load_agent(settings, problem.num_layers, len(FeatureSet.of(features_of(config)).names), seed=0)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: {error}") from None


def features_of(config: Config) -> str:
    """Name of the feature set that layers are observed by; without curvature there is none to see."""
    return "kfac" if config.pruning.hobs.selection == "hobs" else "cost"


def target_of(config: Config, task: PruningTask) -> float:
    """Return the FLOPs reduction asked for: the configuration's, else the task's default."""
    target = config.pruning.target_flops_reduction
    return task.default_target if target is None else target

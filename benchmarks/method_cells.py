"""One cell of the comparison of methods: a method at a target with a seed, measured at every stage of repair.

All methods get the same network, the same images, the same FLOPs target, the same number of training images of their
own, the same number of measured plans, and the same fine-tuning.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import gymnasium as gym
from torch import nn

import baselines
from baselines.autocompress import Cooling
from benchmarks.config_schema import PruningConfig, RSPARConfig
from benchmarks.methods import METHODS
from benchmarks.metrics import SystemMetrics
from prune_gym.augmentation import Augmentation
from prune_gym.datasets import ImageSplit
from prune_gym.env import HOBSPruneEnv
from prune_gym.problem import PruningProblem
from prune_gym.pruner import PhysicalPruner
from prune_gym.timing import compare_models
from prune_gym.training import evaluate_model, fine_tune, recalibrate_bn

STAGES = ("raw", "bn", "refit", "finetuned")
"""Accuracies of a cell, all on the test split.

``raw``: as the method returns it (for H-OBS the channels cut and nothing else). ``bn``: with BatchNorm recalibrated.
``refit``: our sequential refit of the dense weights, given to the method's selection. ``finetuned``: after equal
fine-tuning of ``bn`` (of ``refit`` for H-OBS) and another recalibration."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {"adaprune-activation": ("adaprune", {"variant": "activation"})}
OURS = ("hobs-uniform", "hobs-knapsack", "hobs-rspar")
TOLERANCE = 0.02
SPEED_BATCH = 64


@dataclass(frozen=True)
class Budget:
    """What every method may spend.

    Attributes:
        images: training images methods and fine-tuning draw from, the first of the train split.
        own_training: images a method that trains by itself may train on, passes counted.
        evaluations: plans a method that searches may measure.
        finetune_epochs: passes of the equal fine-tuning.
        finetune_lr: its peak learning rate.
        timed_passes: passes timed for the speed-up.
    """

    images: int = 10_000
    own_training: int = 20_000
    evaluations: int = 100
    finetune_epochs: int = 2
    finetune_lr: float = 0.02
    timed_passes: int = 30


@dataclass(frozen=True)
class Pruned:
    """What a method hands over: network, plan and cost."""

    network: nn.Module
    plan: dict[str, list[int]]
    evaluations: int
    images: int
    backward_passes: int
    seconds: float


def method_names() -> list[str]:
    """Everything that can be compared: baselines, their variants, and H-OBS with and without a search."""
    return [*baselines.available(), *VARIANTS, *OURS]


def measure(
    problem: PruningProblem, method: str, target: float, seed: int, budget: Budget, augment: Augmentation
) -> dict[str, Any]:
    """Prune by a method and measure the result; JSON-able.

    Args:
        problem: the task; it needs a test and a train split.
        method: a name of :func:`method_names`.
        target: FLOPs reduction.
        seed: of the method and of fine-tuning.
        budget: what the method may spend.
        augment: random changes of training images.
    """
    task = problem.task
    assert task.test is not None
    assert task.train is not None
    train = task.train.subset(slice(budget.images))
    ours = method in OURS
    pruned = (
        _ours(problem, method, target, seed, budget)
        if ours
        else _baseline(problem, method, target, seed, budget, train, augment)
    )
    recalibrated = copy.deepcopy(pruned.network)
    recalibrate_bn(recalibrated, task.calibration)
    pruner = PhysicalPruner(task.model, task.example_input, ignored_layers=task.ignored_layers)
    refit = pruner.prune(pruned.plan, refit="sequential", calibration=task.calibration)
    final = copy.deepcopy(refit if ours else recalibrated)
    if pruned.plan:
        fine_tune(
            final,
            task.model,
            train,
            epochs=budget.finetune_epochs,
            lr=budget.finetune_lr,
            augment=augment,
            seed=seed,
        )
        recalibrate_bn(final, task.calibration)
    networks = {"raw": pruned.network, "bn": recalibrated, "refit": refit, "finetuned": final}
    image = task.example_input[:1]
    batch = image.expand(SPEED_BATCH, *image.shape[1:]).contiguous()
    times = compare_models(
        {"dense": task.model, "pruned": final}, batch, num_iterations=budget.timed_passes, num_warmup=3
    )
    return {
        "method": method,
        "target": target,
        "seed": seed,
        "accuracy": {stage: evaluate_model(networks[stage], task.test).accuracy for stage in STAGES},
        "dense_accuracy": evaluate_model(task.model, task.test).accuracy,
        "flops": SystemMetrics.count_flops(final, tuple(image.shape)),
        "flops_reduction": 1 - SystemMetrics.count_flops(final, tuple(image.shape)) / problem.cost.dense_flops,
        "parameters": SystemMetrics.count_parameters(final),
        "speedup": times["dense"].p50_ms / times["pruned"].p50_ms,
        "evaluations": pruned.evaluations,
        "images": pruned.images,
        "backward_passes": pruned.backward_passes,
        "seconds": pruned.seconds,
        "removed": {name: len(channels) for name, channels in pruned.plan.items()},
        "plan": pruned.plan,
    }


def own_options(method: str, num_layers: int, num_images: int, budget: Budget) -> tuple[dict[str, Any], int]:
    """Options that make a baseline spend the budget, and how many images its loader has.

    A method's schedule keeps its shape and is scaled as a whole: HRank trains after every layer, AutoCompress in
    every ADMM iteration and after every cut, Taylor between removals, adaptive activation after every round (twenty,
    roughly).

    Returns:
        Keyword arguments, and a number of images.
    """
    registered, options = VARIANTS.get(method, (method, {}))
    passes = {"hrank": num_layers, "autocompress": 10, "adaprune-activation": 20}.get(method)
    images = num_images if passes is None else max(2, min(num_images, budget.own_training // passes))
    if registered == "taylor":
        options = {"removals": 25, "frequency": max(1, budget.own_training // (25 * 32))}
    elif registered == "autocompress":
        tries = max(1, round(budget.evaluations / (2 * _temperatures(Cooling()))))
        options = {"rounds": 2, "admm_iterations": 4, "cooling": Cooling(tries=tries)}
    elif registered in ("gnn", "amc"):
        options = {"episodes": budget.evaluations}
    return dict(options), images


def _temperatures(cooling: Cooling) -> int:
    count, temperature = 0, cooling.start
    while temperature > cooling.stop:
        count, temperature = count + 1, temperature * cooling.rate
    return count


def _baseline(
    problem: PruningProblem,
    method: str,
    target: float,
    seed: int,
    budget: Budget,
    train: ImageSplit,
    augment: Augmentation,
) -> Pruned:
    task = problem.task
    options, images = own_options(method, problem.num_layers, len(train), budget)
    baseline = baselines.get(VARIANTS.get(method, (method, {}))[0])
    network, info = baseline.prune(
        task.model,
        train.subset(slice(images)),
        target,
        ratio_of="flops",
        seed=seed,
        validation=task.reward,
        ignored_layers=tuple(task.ignored_layers),
        augment=augment,
        progress=False,
        return_info=True,
        **options,
    )
    return Pruned(network, info.plan, info.evaluations, info.images, info.backward_passes, info.seconds)


def _ours(problem: PruningProblem, method: str, target: float, seed: int, budget: Budget) -> Pruned:
    """H-OBS selection; its raw network has the dense weights, the repair is a stage of its own."""
    choice = METHODS[method]
    config = PruningConfig(method=method, rspar=RSPARConfig(num_episodes=budget.evaluations))
    problem.evaluator.archive.clear()  # another cell's measurements would make this one's free
    env = gym.make(
        "HOBSPrune-v0",
        problem=problem,
        target_flops_reduction=target,
        constraint="hard",
        start=choice.start,
        disable_env_checker=True,
    )
    plans = cast(HOBSPruneEnv, env.unwrapped)
    started = time.perf_counter()
    choice.build(plans, config, seed).learn(env, choice.num_episodes(config))
    kept, _ = plans.best_plan(TOLERANCE)
    seconds = time.perf_counter() - started
    plan = problem.hobs.plan(kept.tolist())
    task = problem.task
    network = PhysicalPruner(task.model, task.example_input, ignored_layers=task.ignored_layers).prune(plan)
    evaluations = len(plans.archive)
    return Pruned(network, plan, evaluations, evaluations * len(task.reward), 0, seconds)


def mean_over(cells: list[Mapping[str, Any]], key: str) -> float:
    """Mean of one number over cells; ``"accuracy.raw"`` reads inside."""
    return sum(number(cell, key) for cell in cells) / len(cells)


def number(cell: Mapping[str, Any], key: str) -> float:
    """One number of a cell; ``"accuracy.raw"`` reads inside."""
    value: Any = cell
    for part in key.split("."):
        value = value[part]
    return float(value)

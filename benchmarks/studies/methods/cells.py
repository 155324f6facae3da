"""One cell of the comparison of methods: a method at a target with a seed, measured at every stage of repair.

All methods get the same network, the same images, the same FLOPs target, the same number of training images of their
own, the same number of measured plans, and the same fine-tuning.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import gymnasium as gym
from torch import nn

import baselines
from baselines.methods.autocompress import Cooling
from benchmarks.metrics.system_metrics import SystemMetrics
from benchmarks.settings.methods import METHODS
from benchmarks.settings.schema import PruningConfig, RSPARConfig
from benchmarks.studies.methods.config import OURS, VARIANTS, Budget
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.splits import ImageSplit
from prune_gym.envs.hobs_prune import HOBSPruneEnv
from prune_gym.problem.problem import PruningProblem
from prune_gym.reconstruction import Reconstruction, reconstruct
from prune_gym.support.timing import compare_models
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.training.batchnorm import recalibrate_bn
from prune_gym.training.training import evaluate_model, fine_tune

STAGES = ("raw", "bn", "refit", "reconstructed", "finetuned")
"""Accuracies of a cell, all on the test split.

``raw``: as the method returns it (for H-OBS the channels cut and nothing else). ``bn``: with BatchNorm recalibrated.
``refit``: our sequential refit of the dense weights, given to the method's selection. ``reconstructed``: that, after
our reconstruction on unlabelled images. From one to the next it is repair, between methods it is selection.
``finetuned``: after equal fine-tuning of ``bn`` (of ``refit`` for H-OBS) and another recalibration."""


def stages_of(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """The stages that all cells (or rows of a table) have; older comparisons have no reconstruction."""
    known = [result["accuracy"] for result in results]
    return [stage for stage in STAGES if all(stage in accuracy for accuracy in known)]


AMC_IMAGES = 1000
TOLERANCE = 0.02
SPEED_BATCH = 64


@dataclass(frozen=True)
class Pruned:
    """Network, plan and cost that a method hands over."""

    network: nn.Module
    plan: dict[str, list[int]]
    evaluations: int
    images: int
    backward_passes: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Contest:
    """Common ground of all cells: the task, the budget, and everything that must be the same for every method.

    Attributes:
        problem: the task; it needs a test and a train split.
        budget: what every method may spend.
        augment: random changes of training images.
    """

    problem: PruningProblem
    budget: Budget
    augment: Augmentation

    @cached_property
    def train(self) -> ImageSplit:
        """Images that methods and fine-tuning see, the same for all."""
        assert self.problem.task.train is not None
        return self.problem.task.train.subset(slice(self.budget.images))

    @cached_property
    def dense_accuracy(self) -> float:
        """Of the unpruned network on the test images."""
        return self.test_accuracy(self.problem.task.model)

    def test_accuracy(self, network: nn.Module) -> float:
        """Top-1 on the test images: what is reported, and nothing else."""
        return evaluate_model(network, self.test).accuracy

    @cached_property
    def test(self) -> ImageSplit:
        """The test images."""
        assert self.problem.task.test is not None
        return self.problem.task.test.subset(slice(self.budget.test_images))

    def measure(self, method: str, target: float, seed: int) -> dict[str, Any]:
        """Prune by a method, repair, fine-tune, and only then test every stage; JSON-able.

        Args:
            method: a name of :func:`benchmarks.studies.methods.config.method_names`.
            target: FLOPs reduction.
            seed: of the method and of fine-tuning.
        """
        pruned = (_ours if method in OURS else _baseline)(self, method, target, seed)
        networks = self._stages(pruned, method in OURS, seed)
        return {
            "method": method,
            "target": target,
            "seed": seed,
            "accuracy": {stage: self.test_accuracy(networks[stage]) for stage in STAGES},
            "dense_accuracy": self.dense_accuracy,
            "test_images": len(self.test),
            **self._costs(networks["finetuned"]),
            "evaluations": pruned.evaluations,
            "images": pruned.images,
            "backward_passes": pruned.backward_passes,
            "seconds": pruned.seconds,
            "removed": {name: len(channels) for name, channels in pruned.plan.items()},
            "channels": {group.name: group.size for group in self.problem.groups},
            "plan": pruned.plan,
        }

    def _stages(self, pruned: Pruned, ours: bool, seed: int) -> dict[str, nn.Module]:
        """The network of every stage; fine-tuning starts from the method's own repair."""
        task = self.problem.task
        recalibrated = copy.deepcopy(pruned.network)
        recalibrate_bn(recalibrated, task.calibration)
        pruner = PhysicalPruner(task.model, task.example_input, ignored_layers=task.ignored_layers)
        refit = pruner.prune(pruned.plan, refit="sequential", calibration=task.calibration)
        reconstructed = copy.deepcopy(refit)
        if pruned.plan and self.budget.reconstruction_steps:
            images = self.train.subset(slice(self.budget.reconstruction_images))
            settings = Reconstruction(steps=self.budget.reconstruction_steps)
            reconstruct(reconstructed, task.model, images, settings, seed=seed)
        final = copy.deepcopy(refit if ours else recalibrated)
        if pruned.plan:
            epochs, lr = self.budget.finetune_epochs, self.budget.finetune_lr
            fine_tune(final, task.model, self.train, epochs=epochs, lr=lr, augment=self.augment, seed=seed)
            recalibrate_bn(final, task.calibration)
        networks = {"raw": pruned.network, "bn": recalibrated, "refit": refit}
        return {**networks, "reconstructed": reconstructed, "finetuned": final}

    def _costs(self, network: nn.Module) -> dict[str, float]:
        """FLOPs, parameters, and how much faster than the dense network, both timed in turns."""
        task = self.problem.task
        image = task.example_input[:1]
        batch = image.expand(SPEED_BATCH, *image.shape[1:]).contiguous()
        times = compare_models(
            {"dense": task.model, "pruned": network}, batch, num_iterations=self.budget.timed_passes, num_warmup=3
        )
        flops = SystemMetrics.count_flops(network, tuple(image.shape))
        return {
            "flops": flops,
            "flops_reduction": 1 - flops / self.problem.cost.dense_flops,
            "parameters": SystemMetrics.count_parameters(network),
            "speedup": times["dense"].p50_ms / times["pruned"].p50_ms,
        }


def own_options(method: str, num_layers: int, num_images: int, budget: Budget) -> tuple[dict[str, Any], int]:
    """Options that make a baseline spend the budget, and how many images its loader has.

    A method's schedule keeps its shape and is scaled as a whole: HRank trains after every layer, AutoCompress in
    every ADMM iteration and after every cut, Taylor between removals, adaptive activation after every round (twenty,
    roughly). AutoCompress cools as far with few evaluations as with many, only faster. AMC refits every plan on a
    thousand images, about as many as our own repair sees.

    Returns:
        Keyword arguments, and a number of images.
    """
    registered, options = VARIANTS.get(method, (method, {}))
    passes = {"hrank": num_layers, "autocompress": 10, "adaprune-activation": 20}.get(method)
    images = num_images if passes is None else max(2, min(num_images, budget.own_training // passes))
    if method == "amc":
        images = min(num_images, AMC_IMAGES)
    if registered == "taylor":
        options = {"removals": 25, "frequency": max(1, budget.own_training // (25 * 32))}
    elif registered == "autocompress":
        options = {"rounds": 2, "admm_iterations": 4, "cooling": cooling_of(budget.evaluations // 2)}
    elif registered in ("gnn", "amc"):
        options = {"episodes": budget.evaluations}
    return dict(options), images


def cooling_of(evaluations: int) -> Cooling:
    """The default cooling over so many plans, the first of which is where it starts."""
    default = Cooling()
    temperatures = max(1, evaluations - 1)
    # Half a step short of the last temperature, so that rounding does not decide how many there are.
    return Cooling(rate=(default.stop / default.start) ** (1 / (temperatures - 0.5)))


def _baseline(contest: Contest, method: str, target: float, seed: int) -> Pruned:
    problem, task = contest.problem, contest.problem.task
    options, images = own_options(method, problem.num_layers, len(contest.train), contest.budget)
    baseline = baselines.get(VARIANTS.get(method, (method, {}))[0])
    network, info = baseline.prune(
        task.model,
        contest.train.subset(slice(images)),
        target,
        ratio_of="flops",
        seed=seed,
        validation=task.reward,
        ignored_layers=tuple(task.ignored_layers),
        augment=contest.augment,
        progress=False,
        return_info=True,
        **options,
    )
    return Pruned(network, info.plan, info.evaluations, info.images, info.backward_passes, info.seconds)


def _ours(contest: Contest, method: str, target: float, seed: int) -> Pruned:
    """H-OBS selection; its raw network has the dense weights, the repair is a stage of its own."""
    problem, task, choice = contest.problem, contest.problem.task, METHODS[method]
    # The start plan is the first evaluation.
    config = PruningConfig(method=method, rspar=RSPARConfig(num_episodes=max(1, contest.budget.evaluations - 1)))
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

"""The main job, one function a stage: each takes what it needs and returns what it found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import torch
from torch import nn

import baselines
from agents.interface.monitor import best_feasible
from benchmarks.job.budgets import Archive, Budgets, Record
from benchmarks.job.task import features_of, target_of
from benchmarks.settings.methods import METHODS, Search
from benchmarks.settings.schema import Config
from hessian.channels import find_channel_groups
from hessian.channels.slicing import Plan
from hessian.support.progress import Progress
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.loader_split import spread
from prune_gym.data.splits import ImageSplit
from prune_gym.envs.hobs_prune import HOBSPruneEnv
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.doubts import trained_on
from prune_gym.pruning.numbers import as_score
from prune_gym.reconstruction import Reconstruction, Setting, reconstruct
from prune_gym.tasks.outputs import scores_classes
from prune_gym.tasks.task import PruningTask
from prune_gym.training.block_outputs import blocks_of_plan
from prune_gym.training.choosing import fine_tune_better
from prune_gym.training.fitting import EpochRecord
from prune_gym.training.training import evaluate_model, fine_tune

TOLERANCE = 0.02
"""Largest excess of the final plan's FLOPs reduction over the target."""
REMEMBER_EVERY = 5
"""Episodes between two saves of what a search measured."""


def accuracy_on_test(model: nn.Module, task: PruningTask) -> float:
    """Return the fraction of the test split a network gets right; only report stages call this."""
    assert task.test is not None
    return evaluate_model(model, task.test).accuracy


def doubts_about(task: PruningTask, test_accuracy: float) -> list[str]:
    """Return what makes the reward split doubtful: a dense network that knows its images better than the test's."""
    if task.metric is not None or task.test is None:
        return []
    rewarded = as_score(evaluate_model(task.model, task.reward).accuracy, task, len(task.reward))
    return trained_on(rewarded, as_score(test_accuracy, task, len(task.test)))


def analyse(problem: PruningProblem, report: Progress) -> None:
    """Price every channel, from the cache where it was done before."""
    problem.progress = report
    problem.load()
    problem.progress = None


def search_budgets(
    config: Config,
    seed: int,
    problem: PruningProblem,
    report: Progress,
    *,
    measured: Archive,
    remember: Callable[[Archive], None],
) -> tuple[Budgets, Search]:
    """Find the best budgets on the target; return them and who found them.

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
    agent = method.build(plans, config.pruning, seed)

    def on_episode(record: Record) -> None:
        history.append(record)
        best = max((row["accuracy"] for row in history if row["violation"] <= 0), default=0.0)
        report(f"best {100 * best:.1f} % on the reward split, episode", len(history) - 1, max(total, 1))
        if len(history) % REMEMBER_EVERY == 0:
            remember(problem.evaluator.archive)

    try:
        agent.learn(env, total, callback=on_episode)
        if method.fidelity == "predicted":
            _measure_best(plans, history)
        kept, evaluation = plans.best_plan(TOLERANCE)
    finally:
        remember(problem.evaluator.archive)
    budgets = Budgets(
        kept=kept.tolist(),
        plan=problem.hobs.plan(kept.tolist()),
        accuracy=evaluation.accuracy,
        soft_accuracy=evaluation.soft_accuracy,
        flops_reduction=float(problem.cost.reduction(kept)),
        measured_evaluations=len(plans.archive),
        history=history,
    )
    return budgets, agent


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
        features=features_of(config),
        fidelity=fidelity,
        disable_env_checker=True,
    )


def cut(config: Config, problem: PruningProblem, budgets: Budgets) -> nn.Module:
    """Return the physically smaller network, repaired."""
    return problem.cut(budgets.kept, refit=config.pruning.hobs.refit)


def reconstruct_network(
    config: Config, seed: int, task: PruningTask, pruned: nn.Module, report: Progress, checkpoint: Path
) -> nn.Module:
    """Return a copy of the pruned network that has learned the dense network's outputs, without labels.

    Args:
        config: the run's configuration.
        seed: which images are drawn and held out, and their order.
        task: the dense network and its images.
        pruned: the network as the surgery made it.
        report: progress callback.
        checkpoint: where an interrupted reconstruction goes on from.
    """
    settings = config.pruning.reconstruction
    student = copy.deepcopy(pruned)
    if settings.steps > 0:
        images = task.calibration if task.train is None else task.train
        drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[: settings.images]
        reconstruct(
            student,
            task.model,
            images.subset(drawn),
            Reconstruction(
                steps=settings.steps,
                batch_size=settings.batch_size,
                candidates=tuple(Setting(one.learning_rate, one.batch_statistics) for one in settings.candidates),
                temperature=settings.temperature,
                seconds=settings.seconds,
                mixed_precision=settings.mixed_precision,
                loss="kl" if scores_classes(task.criterion) else "mse",
            ),
            seed=seed,
            progress=report,
            checkpoint=checkpoint,
        )
    return student.eval()


def prune_by_baseline(config: Config, seed: int, task: PruningTask, report: Progress) -> tuple[Budgets, nn.Module]:
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


def tune(
    config: Config, seed: int, task: PruningTask, plan: Plan, pruned: nn.Module, report: Progress
) -> tuple[nn.Module, dict[str, Any]]:
    """Fine-tune a copy of the pruned network, taught by the dense one; the better of start and end is kept.

    Args:
        config: the run's configuration.
        seed: of the order of the images and their random changes.
        task: the dense network and its images; the reward split decides.
        plan: what was removed.
        pruned: where it starts.
        report: progress callback.

    Returns:
        The network, and what was chosen: JSON-able.
    """
    settings = config.pruning.finetune
    student = copy.deepcopy(pruned)
    if settings.epochs == 0:
        return student.eval(), {}
    assert task.train is not None
    images = task.train
    if settings.max_images is not None:
        images = images.subset(spread(len(images), settings.max_images))
    blocks = None
    if settings.block_weight > 0:
        groups = find_channel_groups(task.model, task.example_input[:1], task.ignored_layers)
        blocks = blocks_of_plan(task.model, groups, plan, task.example_input[:1])

    def train(network: nn.Module, split: ImageSplit, epochs: int, lr: float) -> list[EpochRecord]:
        return fine_tune(
            network,
            task.model,
            split,
            epochs=epochs,
            lr=lr,
            temperature=settings.distillation.temperature,
            distillation_weight=settings.distillation.weight,
            batch_size=settings.batch_size,
            augment=Augmentation(**settings.augmentation.model_dump()),
            seed=seed,
            progress=report,
            schedule=settings.schedule,
            optimizer=settings.optimizer,
            average=settings.weight_average,
            blocks=blocks,
            block_weight=settings.block_weight,
        )

    rates = settings.race or (settings.learning_rate,)
    choice = fine_tune_better(student, images, task.reward, train, epochs=settings.epochs, learning_rates=rates)
    raced = [{"learning_rate": lr, "reward_accuracy": accuracy} for lr, accuracy in choice.raced.items()]
    return student.eval(), {
        "learning_rate": choice.lr,
        "raced": raced,
        "reward_accuracy_before": choice.start,
        "reward_accuracy_after": choice.end,
        "kept": choice.kept,
    }

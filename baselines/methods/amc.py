"""AMC: DDPG chooses layer after layer (He et al., ECCV 2018), on this project's layerwise environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.workshop.registry import register
from baselines.workshop.removal import keep_best
from baselines.workshop.workbench import Outcome, Workbench
from hessian.channels.group import ChannelGroup
from hessian.patches.matrices import weight_matrix
from hessian.pricing.layer_sweeps import unit_columns
from prune_gym.cost.model import CostModel
from prune_gym.envs.layerwise import HOBSPruneLayerwiseEnv
from prune_gym.problem.features import AMC_FEATURES, BOUND
from prune_gym.problem.problem import PruningProblem
from prune_gym.tasks.task import PruningTask

LARGEST_RATIO = 0.8
"""AMC keeps at least a fifth of every layer (``lbound`` of the authors' code)."""


@register("amc", "AMC: DDPG over layer rates, one layer a step (needs stable-baselines3)")
def amc_prune(
    bench: Workbench,
    *,
    episodes: int = 100,
    warmup_episodes: int | None = None,
    actor_lr: float = 1e-4,
    critic_lr: float = 1e-3,
) -> Outcome:
    """AMC (He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV 2018).

    DDPG (stable-baselines3's) walks the layers of ``HOBSPruneLayerwise-v0``. Its state is AMC's: index, output and
    input channels, height and width, stride, kernel, FLOPs of the layer, FLOPs reduced before it, FLOPs left after it,
    and the last action (the environment's ``features="amc"``). The action is the layer's pruning ratio; it is capped so
    that the target stays in reach with all later layers at their smallest, which keeps a fifth of every layer.
    Channels go by the L1 norm of the weights that read them, those weights are refitted by least squares on cached
    features of the dense network, and the reward is the accuracy on the validation images. It is given to every step
    of its episode, with gamma 1. Exploration is Gaussian, 0.5 at first, and decays by 0.95 an episode after a warm-up
    of uniformly random ones. Actor and critic have two hidden layers of 300 units, batches hold 64 transitions, and
    tau is 0.01. The best plan of all episodes is returned with its refitted weights, where fine-tuning then starts.

    Settings were checked against the authors' code (mit-han-lab/amc, for MobileNet). Its state has ten numbers, the
    layer's type and weight count for height, width and FLOPs; the eleven are the paper's as others reproduce it.

    Deviations:

    - A layer whose channels several layers read sums the norms over all of them.
    - No layer is cut deeper than the target needs with all later layers whole, so episodes end on the target, where
      AMC's may overshoot. Kept counts are not rounded up to multiples of 8. The smallest layer keeps a fifth unless
      the target needs less; then ``max_pruning_ratio`` holds.
    - 100 episodes, 25 of them warm-up, where their code takes 800 and 100.
    - Noise is added to an action in [-1, 1], which spans the ratios that are left, and clipped there, where AMC's is a
      truncated normal in the ratio.
    - The reward is top-1 accuracy, where their ImageNet search takes top-5, and has no moving baseline. BatchNorm
      statistics are recalibrated with the refit.
    - States describe the convolution that makes the channels, in their code the one that reads them. What no plan
      changes of a state is standardised across layers, where AMC scales it to [0, 1].
    - The replay memory holds 2,000 transitions, where their code has 100 a layer.
    - Under ``ratio_of="channels"`` the search runs at the FLOPs target that the uniform plan of that channel ratio has,
      and the plan found is moved onto the channel target.

    Args:
        bench: the workbench.
        episodes: plans measured, at most.
        warmup_episodes: random ones before learning starts; a quarter by default.
        actor_lr: learning rate of the actor.
        critic_lr: learning rate of the critic.

    Raises:
        ImportError: stable-baselines3 is not installed.
        ValueError: fewer than one episode, or a warm-up longer than the search.
    """
    warmup = episodes // 4 if warmup_episodes is None else warmup_episodes
    if episodes < 1 or not 0 <= warmup <= episodes:
        raise ValueError(f"episodes is at least 1 and warmup_episodes at most that; got {episodes} and {warmup}")
    try:
        from baselines.methods.amc_agent import LearningRates, learn
    except ImportError as error:
        raise ImportError("amc needs stable-baselines3: pip install 'prune-gym[sb3]'") from error
    env = AMCEnv(bench)
    rates = LearningRates(actor_lr, critic_lr)
    learn(env, episodes, warmup, rates, bench.seed, lambda done: bench.report("episodes", done, episodes))
    scores = [reading_norms(group, bench.modules) for group in bench.groups]
    rewards, plans = zip(*env.finished, strict=True)
    kept = np.array(plans[int(np.argmax(rewards))])
    bench.spent.evaluations += len(set(plans))
    bench.spent.images += len(set(plans)) * (len(bench.validation) + len(bench.data))
    if bench.target.ratio_of == "channels":
        kept = bench.target.project(1.0 - kept / bench.target.limits.units)
    return Outcome(keep_best(scores, kept), pruned=env.refitted(kept), details={"rewards": list(rewards)})


class AMCEnv(gym.Wrapper):
    """The layerwise environment as AMC sees it: eleven numbers about the layer in turn, magnitude selection.

    Args:
        bench: network, images and target.

    Attributes:
        finished: (reward, kept counts) of every episode.
    """

    def __init__(self, bench: Workbench) -> None:
        flops_target = bench.target.ratio
        if bench.target.ratio_of == "channels":
            flops_target = float(bench.cost.reduction(bench.target.uniform()))
        largest = _largest_ratio(bench, flops_target)
        self._problem = magnitude_problem(bench)
        inner = HOBSPruneLayerwiseEnv(
            problem=self._problem,
            target_flops_reduction=flops_target,
            reward="amc_accuracy",
            features="amc",
            start="uniform",
            max_pruning_ratio=largest,
        )
        super().__init__(inner)
        self._inner = inner
        self.observation_space = spaces.Box(-BOUND, BOUND, (len(AMC_FEATURES),), np.float32)
        self.finished: list[tuple[float, tuple[int, ...]]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start with no layer decided."""
        observation, info = self._inner.reset(seed=seed, options=options)
        return self._state(observation), info

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Decide one layer; the reward at the end is the accuracy, not the gain over a start plan."""
        observation, _, terminated, truncated, info = self._inner.step(action)
        reward = 0.0
        if terminated:
            reward = float(info["accuracy"])
            self.finished.append((reward, tuple(self._inner.kept.tolist())))
        return self._state(observation), reward, terminated, truncated, info

    def refitted(self, kept: NDArray[np.int64]) -> nn.Module:
        """A plan's network as the search scored it, physically small.

        Args:
            kept: units of every layer that stay [L].
        """
        return self._problem.evaluator.export(kept.tolist())

    def _state(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """The features of the layer in turn (after the last one, of that one)."""
        *features, marker = self._inner.layout.features(observation).T
        layer = int(marker.argmax()) if marker.any() else len(marker) - 1
        return np.array(features)[:, layer]


def magnitude_problem(bench: Workbench) -> PruningProblem:
    """The pruning problem of the bench's network in which units leave by :func:`reading_norms`, not by H-OBS prices.

    Repair is the closed-form least squares on the dense network's features, as in AMC.
    """
    task = PruningTask(
        name="amc",
        model=bench.dense,
        example_input=bench.example,
        calibration=bench.data,
        reward=bench.validation,
        test=None,
        ignored_layers=bench.ignored_layers,
    )
    problem = PruningProblem(task, repair="closed_form").load()
    for group in problem.groups:
        best_first = torch.argsort(reading_norms(group, bench.modules), descending=True, stable=True)
        problem.hobs.orders[group.name] = best_first.flip(0)
    problem.evaluator.archive.clear()
    return problem


def reading_norms(group: ChannelGroup, modules: Mapping[str, Any]) -> Tensor:
    """L1 norm of the weights that read every unit, over all consumers of a layer, float64 [num_units]."""
    total = torch.zeros(group.num_units, dtype=torch.float64)
    for member in group.consumers:
        columns = weight_matrix(modules[member.module], bias=False).cpu().double().abs().sum(dim=(0, 1))
        total += columns[unit_columns(group, member, modules[member.module]).cpu()].sum(dim=1)
    return total


def _largest_ratio(bench: Workbench, target: float) -> float:
    """AMC's bound of a layer's ratio, or the caller's where the target is out of reach with it."""
    cost: CostModel = bench.cost
    reachable = cost.largest_reduction(cost.limits(LARGEST_RATIO))
    return LARGEST_RATIO if target <= reachable else bench.max_pruning_ratio

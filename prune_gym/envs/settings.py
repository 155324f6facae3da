"""Arguments of the pruning environments: read once, checked once, the same for forks."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hessian.support.names import suggest, unknown
from prune_gym.allocation.start import START_NAMES
from prune_gym.bench.problem import PREFIX, BenchProblem
from prune_gym.cost.target import ARGUMENTS, Target
from prune_gym.envs.constraint import Constraint
from prune_gym.envs.fidelity import Fidelity, Problem
from prune_gym.envs.render import RENDER_MODES
from prune_gym.envs.reward import LAMBDA_0, TAU, Reward
from prune_gym.problem.features import FeatureSet

if TYPE_CHECKING:
    from prune_gym.problem.problem import Judge
    from prune_gym.tasks.task import PruningTask

TARGETS = ("target", *ARGUMENTS.values())
"""Settings that name the target; one at most is given."""

S = TypeVar("S", bound="EnvSettings")

OF_THE_PROBLEM = ("task", "repair", "judge", "device", "cache_dir", "task_options")
"""Settings that make the problem, which forks share."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EnvSettings:
    """Settings of every pruning environment.

    Attributes:
        task: what is pruned, a registered name, ``"bench/NAME"`` or an object; names survive ``spec.to_json()``.
        target_flops_reduction: required reduction, or a range sampled at reset; None means the task's default.
        target_params_reduction: the same for parameters, instead.
        target_latency: what may be left of the dense network's latency, a share or a range, instead.
        target: the same as an object, instead.
        reward: name or object, see :mod:`prune_gym.envs.reward`.
        fidelity: name or object, see :mod:`prune_gym.envs.fidelity`.
        repair: how weights that stay are repaired, a name in :data:`prune_gym.measuring.repair.REPAIRS`.
        judge: what plans are held to: ``"labels"`` or ``"dense"``, see :class:`prune_gym.problem.PruningProblem`.
        features: ``"kfac"``, ``"cost"``, ``"amc"``, names of features, or a feature set.
        start: ``"knapsack"`` or ``"uniform"``.
        max_pruning_ratio: largest pruning ratio of a layer.
        min_channels: channels every layer keeps at least.
        round_to: kept channels are a multiple of this (or all of them).
        lambda_0: initial penalty weight.
        tau: rate of its adaptation.
        device: where plans are measured; None means the only GPU, else the CPU.
        cache_dir: folder of the computed curvature; None means the user's cache.
        task_options: arguments of :func:`prune_gym.tasks.make_task`; of the bench ``{"path": file}``.
        render_mode: ``"ansi"``, ``"rgb_array"`` or None.

    Raises:
        ValueError: an unknown start or render mode, or several targets.
    """

    task: str | PruningTask = "digits-resnet20"
    target_flops_reduction: float | Sequence[float] | None = None
    target_params_reduction: float | Sequence[float] | None = None
    target_latency: float | Sequence[float] | None = None
    target: Target | None = None
    reward: str | Reward = "accuracy_flops"
    fidelity: str | Fidelity = "measured"
    repair: str = "sequential"
    judge: Judge = "labels"
    features: str | Sequence[str] | FeatureSet = "kfac"
    start: str = "knapsack"
    max_pruning_ratio: float = 0.95
    min_channels: int = 1
    round_to: int = 1
    lambda_0: float = LAMBDA_0
    tau: float = TAU
    device: str | int | None = None
    cache_dir: str | None = None
    task_options: Mapping[str, Any] | None = None
    render_mode: str | None = None

    def __post_init__(self) -> None:
        if self.start not in START_NAMES:
            raise ValueError(unknown("start", self.start, START_NAMES))
        if self.render_mode is not None and self.render_mode not in RENDER_MODES:
            raise ValueError(unknown("render_mode", self.render_mode, RENDER_MODES))
        self.one_target()  # refuses several

    def one_target(self) -> Target:
        """Return what has to be reached, whichever argument says it.

        Raises:
            ValueError: several do, or one is out of its range.
        """
        return Target.of_arguments(
            self.target, self.target_flops_reduction, self.target_params_reduction, self.target_latency
        )

    @classmethod
    def of(cls: type[S], given: Mapping[str, Any]) -> S:
        """The settings of a constructor's arguments.

        Raises:
            TypeError: an argument of another name; the nearest one is suggested.
            ValueError: a value that cannot be.
        """
        names = cls.names()
        for name in given:
            if name not in names:
                raise TypeError(f"an environment has no argument {name!r}{suggest(name, names)}")
        return cls(**given)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the settings, in order."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def signature(cls) -> inspect.Signature:
        """Signature of an environment's constructor, for ``help`` and editors: the settings and ``problem``."""
        own = list(inspect.signature(cls).parameters.values())
        problem = inspect.Parameter(
            "problem", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="PruningProblem | None"
        )
        return inspect.Signature([*own, problem])

    def arguments(self, **overrides: Any) -> dict[str, Any]:
        """The constructor's arguments that make an environment of these settings, some of them changed.

        Raises:
            ValueError: an override of what makes the problem (the task, its repair, its device).
        """
        shared = [name for name in overrides if name in OF_THE_PROBLEM]
        if shared:
            raise ValueError(f"a fork shares the problem, so {shared[0]!r} cannot differ; make another environment")
        own = {name: getattr(self, name) for name in self.names()}
        if any(name in overrides for name in TARGETS):
            own.update(dict.fromkeys(TARGETS))
        return {**own, **overrides}

    def make_problem(self) -> Problem:
        """The problem these settings describe; its data are not loaded yet.

        Raises:
            KeyError: an unknown task.
            ValueError: a network of the bench, with settings that only a real one can have.
        """
        if isinstance(self.task, str) and self.task.startswith(PREFIX):
            return self._bench_problem(self.task)
        from prune_gym.problem.problem import PruningProblem  # here: a problem of the bench needs no PyTorch

        return PruningProblem(
            self.task,
            device=self.device,
            cache_dir=self.cache_dir,
            repair=self.repair,
            judge=self.judge,
            task_options=self.task_options,
        )

    def _bench_problem(self, task: str) -> BenchProblem:
        plain = EnvSettings()
        for name in ("repair", "judge", "device"):
            if getattr(self, name) != getattr(plain, name):
                raise ValueError(f"{task} is a table: its plans were measured already, so it has no {name!r} to choose")
        return BenchProblem.named(task, **dict(self.task_options or {}))


@dataclass(frozen=True, kw_only=True, eq=False)
class MoveSettings(EnvSettings):
    """Settings of the environments whose actions move all layers at once.

    Attributes:
        constraint: ``"soft"``, ``"hard"`` or an object, see :mod:`prune_gym.envs.constraint`.
        horizon: moves an episode.
        action_scale: logits that an action of 1 moves a layer's ratio.

    Raises:
        ValueError: a horizon below one, or a scale that is not positive.
    """

    constraint: str | Constraint = "soft"
    horizon: int = 1
    action_scale: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        horizon, scale = self.horizon, self.action_scale
        if isinstance(horizon, bool) or not isinstance(horizon, (int, np.integer)) or horizon < 1:
            raise ValueError(f"horizon is a number of moves, at least 1; got {horizon!r}")
        if not (np.isfinite(scale) and scale > 0.0):
            raise ValueError(f"action_scale is a positive number of logits; got {scale!r}")

"""Requests an agent may make of a pruning environment beyond the Gymnasium interface.

An environment that can say where an action leads, without measuring it, can be *imagined*: R-SPAR then trains on moves
scored by its reward model. Everything is asked of ``env.unwrapped``; whether it can answer is decided by
``isinstance(env.unwrapped, PlannableEnv)``, so any environment with these attributes qualifies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import gymnasium as gym
import numpy as np

TOLERANCE = 0.02
"""A plan meets a target when its reduction is at most this far above it (and not below)."""


class Costs(Protocol):
    """Costs of plans, in what the target limits."""

    def reduction(self, kept: np.ndarray) -> Any:
        """Reductions [...] (fractions) of the plans `kept` [..., L]."""
        ...


class Problem(Protocol):
    """Knowledge of a pruning task without measuring a plan."""

    @property
    def log_curves(self) -> Sequence[np.ndarray]:
        """Per layer, [num_units]: entry k is the log predicted loss increase of removing k units. Finite."""
        ...

    def prefetch(self, plans: Sequence[Sequence[int]]) -> None:
        """Measure plans side by side where there is a pool; asked only of agents that choose plans in batches."""
        ...


class Metric(Protocol):
    """Measure of quality that the environment rewards."""

    @property
    def metric(self) -> str:
        """The field of an evaluation that scores are made of."""
        ...


@runtime_checkable
class PlannableEnv(Protocol):
    """A pruning environment whose moves can be imagined; :class:`prune_gym.envs.hobs_prune.HOBSPruneEnv` is one.

    Attributes:
        archive: every plan measured so far: kept units -> :class:`prune_gym.measuring.evaluator.Evaluation`. Plans in
            it are not measured again.
        fidelity: ``"measured"`` or ``"surrogate"`` where plans count as measured (and are worth imagining).
    """

    archive: dict[tuple[int, ...], Any]
    fidelity: str

    @property
    def problem(self) -> Problem:
        """The task being pruned."""
        ...

    @property
    def cost(self) -> Costs:
        """Cost that the target limits: FLOPs, parameters or latency."""
        ...

    @property
    def reward(self) -> Metric:
        """Reward by which plans are scored."""
        ...

    def decode(self, actions: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Plans [..., L] that `actions` [..., L] would lead to from the plan `kept` [L]; measures nothing."""
        ...

    def score_of(self, evaluations: np.ndarray, reductions: np.ndarray, kept: np.ndarray | None = None) -> np.ndarray:
        """Scores [...] of plans `kept` [..., L] with these metrics and reductions, under the current target."""
        ...

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Gymnasium's; ``options={"target": x}`` sets the episode's target, as a reduction."""
        ...

    def fork(self, **overrides: Any) -> gym.Env:
        """A copy with other constructor arguments, sharing problem and archive."""
        ...


class BoundedEnv(PlannableEnv, Protocol):
    """A pruning environment whose moves are steps of the pruning ratios in logit space, within limits of counts.

    Attributes:
        limits: legal kept counts (:class:`prune_gym.cost.limits.CountLimits`).
        action_scale: logits that an entry of 1 moves a layer by.
    """

    limits: Any
    action_scale: float


def bounded(env: PlannableEnv) -> BoundedEnv:
    """The environment, if it says how far actions move and what counts are legal.

    Raises:
        TypeError: it does not.
    """
    if not (hasattr(env, "limits") and hasattr(env, "action_scale")):
        raise TypeError(f"{type(env).__name__} has no limits and action_scale, which an action towards a plan needs")
    return cast(BoundedEnv, env)


def projects(env: PlannableEnv) -> bool:
    """Return whether the environment brings every plan onto its target by itself (a hard constraint)."""
    return bool(getattr(getattr(env, "constraint", None), "projects", False))


def plannable(env: gym.Env | gym.vector.VectorEnv) -> PlannableEnv:
    """The pruning environment inside `env`.

    Raises:
        TypeError: there is none.
    """
    inner = env.unwrapped
    if not isinstance(inner, PlannableEnv):
        raise TypeError(
            f"{type(inner).__name__} is not a pruning environment (see agents.interface.protocol.PlannableEnv); use "
            'gymnasium.make("HOBSPrune-v0")'
        )
    return inner


def target_of(info: Mapping[str, Any]) -> float:
    """The target of an episode by its information or its record, as a reduction of what it limits.

    Records and environments that know FLOPs targets only say it by another name.
    """
    return float(info["target_reduction"] if "target_reduction" in info else info["target_flops_reduction"])


def reduction_of(info: Mapping[str, Any]) -> float:
    """Reduction that the plan of an episode reaches, of what the target limits."""
    return float(info["reduction"] if "reduction" in info else info["flops_reduction"])


def finite_reward(reward: Any) -> float:
    """A step's reward as a float.

    Raises:
        ValueError: it is NaN or infinite.
    """
    if not np.isfinite(float(reward)):
        raise ValueError(f"the reward must be finite, got {reward}; check the environment's reward function")
    return float(reward)


def check_batch_size(batch_size: int) -> None:
    """Check the number of plans in a batch.

    Raises:
        ValueError: it is not a whole number, at least 1.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of plans, at least 1; got {batch_size!r}")


def positive(name: str, value: float) -> float:
    """The value, if it is a finite number above 0.

    Raises:
        ValueError: it is none.
    """
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive, got {value}")
    return float(value)

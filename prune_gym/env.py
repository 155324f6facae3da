"""``HOBSPrune-v0``: choose how many channels of every layer go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from prune_gym.constraint import Constraint, make_constraint
from prune_gym.evaluator import Evaluation
from prune_gym.limits import FloatArray, IntArray
from prune_gym.observation import BOUND, ObservationLayout
from prune_gym.problem import START_NAMES, PruningProblem
from prune_gym.reward import LAMBDA_0, TAU, Reward, make_reward, unknown, violation
from prune_gym.targets import TargetRange

if TYPE_CHECKING:
    from torch import nn

    from prune_gym.tasks import PruningTask

FIDELITY_NAMES = ("measured", "predicted")

Observation = NDArray[np.float32]
Info = dict[str, Any]


@dataclass(frozen=True)
class PlanState:
    """Where an episode stands.

    Attributes:
        kept: int64 [L], kept units.
        evaluation: what the plan scores.
        reduction: its FLOPs reduction.
        violation: relative shortfall of the reduction.
        value: what the reward finds it worth, without penalty.
        score: value minus the weighted violation.
    """

    kept: IntArray
    evaluation: Evaluation
    reduction: float
    violation: float
    value: float
    score: float


class HOBSPruneEnv(gym.Env[Observation, NDArray[np.float32]]):
    """Structured pruning of a trained network as a decision problem.

    ## Description

    A trained convolutional network has L prunable layers. A *plan* says how many units (channels) of each layer stay;
    which ones go is settled by the H-OBS elimination order. The agent moves all layers' pruning ratios at once and is
    rewarded for what the small network gains over the plan it started from: accuracy on data the network never saw, at
    a required reduction of FLOPs. A candidate is refitted in closed form, its BatchNorm statistics are recalibrated,
    and it is scored by running the small network; nothing is fine-tuned. By default an episode is a single move (a
    contextual bandit).

    ## Action Space

    `Box(-1, 1, (L,), float32)`, one entry a layer:

    | Index | Meaning | Min | Max |
    | --- | --- | --- | --- |
    | l | move of layer l's pruning ratio in logit space: `logit(ratio) += action_scale * action` | -1 | 1 |

    The result is rounded to legal counts and clipped to `max_pruning_ratio`. Action 0 stays. Entries outside [-1, 1]
    are clipped.

    ## Observation Space

    `Box(-10, 10, (L * F + L + 5,), float32)`; `env.unwrapped.layout` names every slice:

    | Index | Meaning | Min | Max |
    | --- | --- | --- | --- |
    | l * F + f | feature f of layer l, standardised across layers (:data:`prune_gym.observation.FEATURES`) | -10 | 10 |
    | L * F + l | pruning ratio of layer l now | 0 | 1 |
    | L * F + L | accuracy lost against the dense network | -1 | 1 |
    | L * F + L + 1 | FLOPs reduction now | 0 | 1 |
    | L * F + L + 2 | target FLOPs reduction | 0 | 1 |
    | L * F + L + 3 | penalty weight lambda | 0 | 10 |
    | L * F + L + 4 | progress: moves made / horizon | 0 | 1 |

    ## Rewards

    The score of a plan is `soft accuracy - lambda * violation`, where soft accuracy is the mean probability of the true
    class on the reward split and `violation = max(0, target - reduction) / target`. The reward of a move is the
    change of the score, so the return is the gain over the start plan. `lambda = lambda_0 * exp(-tau * drop)` with
    the accuracy `drop` of the last plan of the episode before; it changes between episodes only, and `reset(seed=...)`
    restores `lambda_0`. Other scores: see `reward` below and :mod:`prune_gym.reward`.

    ## Starting State

    A plan on the target: the knapsack solution of the predicted loss curves, or equal ratios (`start`). A range of
    targets is sampled at every reset; `reset(options={"target": 0.8})` sets the target of one episode.

    ## Episode End

    Terminated after `horizon` moves. Never truncated.

    ## Information

    `reset` and `step` return the same keys: `accuracy` (top-1), `soft_accuracy`, `loss`, `flops_reduction`,
    `target_flops_reduction`, `violation`, `score`, `lambda`, `is_success` (the target is met and the plan scores above
    the start), `measured_evaluations` (distinct plans measured through this environment and its forks), `kept`
    (int64 [L]) and `rewards` (the parts of the last reward).

    ## Arguments

    ```python
    import gymnasium as gym
    import prune_gym

    env = gym.make("HOBSPrune-v0", task="digits-resnet20", target_flops_reduction=0.9)
    ```

    | Parameter | Type | Default | Description |
    | --- | --- | --- | --- |
    | `task` | str or PruningTask | `"digits-resnet20"` | what is pruned; names survive `spec.to_json()` |
    | `target_flops_reduction` | float or (low, high) | the task's | required reduction, or a range sampled at reset |
    | `constraint` | str | `"soft"` | `"soft"`: a penalty; `"hard"`: every plan is projected onto the target |
    | `reward` | str | `"accuracy_flops"` | or `accuracy_flops_fixed`, `top1_flops`, `amc_accuracy`, `amc_flops` |
    | `fidelity` | str | `"measured"` | `"predicted"`: microseconds a step, from the predicted loss curves |
    | `horizon` | int | 1 | moves an episode |
    | `start` | str | `"knapsack"` | or `"uniform"` |
    | `action_scale` | float | 2.0 | logits an action of 1 moves |
    | `max_pruning_ratio` | float | 0.95 | largest fraction of a layer's channels that may go |
    | `min_channels` | int | 1 | channels every layer keeps at least |
    | `round_to` | int | 1 | kept channels are a multiple of this (or all of them) |
    | `lambda_0`, `tau` | float | see :mod:`prune_gym.reward` | penalty weight and its rate of adaptation |
    | `device` | str or int | the only GPU, else CPU | where candidates are measured |
    | `cache_dir` | str | the user's cache | folder of the computed curvature |
    | `problem` | PruningProblem | None | share a loaded problem between environments; overrules `task` |
    | `render_mode` | str | None | `"ansi"`: the plan as a table of bars |

    ## Version History

    * v0: initial version.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["ansi"],
        "render_fps": 4,
    }

    def __init__(
        self,
        task: str | PruningTask = "digits-resnet20",
        target_flops_reduction: float | Sequence[float] | None = None,
        constraint: str | Constraint = "soft",
        reward: str | Reward = "accuracy_flops",
        fidelity: str = "measured",
        horizon: int = 1,
        start: str = "knapsack",
        action_scale: float = 2.0,
        max_pruning_ratio: float = 0.95,
        min_channels: int = 1,
        round_to: int = 1,
        lambda_0: float = LAMBDA_0,
        tau: float = TAU,
        device: str | int | None = None,
        cache_dir: str | None = None,
        problem: PruningProblem | None = None,
        render_mode: str | None = None,
    ) -> None:
        self._settings = {key: value for key, value in locals().items() if key not in ("self", "__class__", "problem")}
        self.constraint = make_constraint(constraint)
        self.reward = make_reward(reward, lambda_0, tau)
        self._check_choices(fidelity, horizon, start, action_scale, render_mode)
        self.problem = problem if problem is not None else PruningProblem(task, device=device, cache_dir=cache_dir)
        self.limits = self.problem.cost.limits(max_pruning_ratio, min_channels=min_channels, round_to=round_to)
        self.targets = TargetRange.of(target_flops_reduction, self.problem.default_target)
        self.problem.cost.check_target(np.array([self.targets.low, self.targets.high]), self.limits)
        self.fidelity = fidelity
        self.horizon = horizon
        self.start = start
        self.action_scale = float(action_scale)
        self.render_mode = render_mode
        self.layout = ObservationLayout(self.problem.num_layers)
        self.observation_space = spaces.Box(-BOUND, BOUND, (self.layout.size,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (self.problem.num_layers,), np.float32)
        self.archive: dict[tuple[int, ...], Evaluation] = {}
        self._lambda = self.reward.schedule.lambda_0
        self._target = self.targets.low
        self._steps = 0
        self._state: PlanState | None = None
        self._start_score = 0.0
        self._template = np.zeros(self.layout.size, dtype=np.float32)

    def _check_choices(
        self, fidelity: str, horizon: int, start: str, action_scale: float, render_mode: str | None
    ) -> None:
        for kind, name, known in (("fidelity", fidelity, FIDELITY_NAMES), ("start", start, START_NAMES)):
            if name not in known:
                raise ValueError(unknown(kind, name, known))
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(unknown("render_mode", render_mode, tuple(self.metadata["render_modes"])))
        if isinstance(horizon, bool) or not isinstance(horizon, (int, np.integer)) or horizon < 1:
            raise ValueError(f"horizon is a number of moves, at least 1; got {horizon!r}")
        if not (np.isfinite(action_scale) and action_scale > 0.0):
            raise ValueError(f"action_scale is a positive number of logits; got {action_scale!r}")
        if self.reward.needs_hard_constraint and not self.constraint.projects:
            raise ValueError(
                "reward 'amc_accuracy' does not count FLOPs, so the dense network would win: use constraint='hard'"
            )

    # ------------------------------------------------------------------ the Gymnasium interface

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Observation, Info]:
        """Start an episode at the start plan of its target.

        Args:
            seed: seeds the targets' sampling and restores lambda to ``lambda_0``.
            options: ``{"target": x}`` sets this episode's target FLOPs reduction.

        Raises:
            ValueError: an unknown option, or a target out of reach.
        """
        super().reset(seed=seed)
        self.problem.load()
        self._adapt_lambda(restart=seed is not None)
        self._target = self._next_target(options or {})
        self._steps = 0
        start = self.problem.start_plan(self.start, self._target, limits=self.limits)
        self._state = self._visit(start)
        self._start_score = self._state.score
        block = self.layout.slices["features"]
        self._template[block] = self.problem.features.reshape(-1)
        return self._observation(), self._info({"accuracy": 0.0, "violation": 0.0})

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, Info]:
        """Move every layer's pruning ratio and look at the plan reached.

        Args:
            action: [L], moves in [-1, 1].

        Raises:
            RuntimeError: no ``reset`` yet, or the episode is over.
            ValueError: an action of another shape, or with NaN or infinite entries.
        """
        before = self._current
        if self._steps >= self.horizon:
            raise RuntimeError("the episode is over; call reset() before the next step()")
        after = self._visit(self.decode(self._checked(action)))
        self._state = after
        self._steps += 1
        parts = {
            "accuracy": after.value - before.value,
            "violation": self._lambda * (before.violation - after.violation),
        }
        return (
            self._observation(),
            after.score - before.score,
            self._steps >= self.horizon,
            False,
            self._info(parts),
        )

    def render(self) -> str | None:
        """The plan as a table of bars, under ``render_mode="ansi"``; else None."""
        if self.render_mode is None:
            return None
        state, units = self._current, self.problem.cost.units
        width = max(map(len, self.problem.layer_names))
        rows = [
            f"{name:{width}}  {'█' * round(24 * kept / size):░<24}  {kept:4d}/{size}"
            for name, kept, size in zip(self.problem.layer_names, state.kept.tolist(), units.tolist(), strict=True)
        ]
        rows.append(
            f"accuracy {state.evaluation.accuracy:.4f}  FLOPs reduction {state.reduction:.4f} "
            f"(target {self._target:.4f})  score {state.score:+.4f}"
        )
        return "\n".join(rows)

    # ------------------------------------------------------------------ plans

    @property
    def kept(self) -> IntArray:
        """Kept units of every layer now, int64 [L], a copy."""
        return self._current.kept.copy()

    @property
    def target(self) -> float:
        """The current episode's target FLOPs reduction."""
        return self._target

    @property
    def budgets(self) -> dict[str, float]:
        """Layer name -> pruning ratio now."""
        ratios = 1.0 - self._current.kept / self.problem.cost.units
        return dict(zip(self.problem.layer_names, ratios.tolist(), strict=True))

    def plan(self) -> dict[str, list[int]]:
        """The pruning plan now: layer name -> removed channel indices."""
        return self.problem.hobs.plan(self._current.kept.tolist())

    def export(self) -> nn.Module:
        """The pruned network now: physically small, refitted, BatchNorm recalibrated, in evaluation mode."""
        return self.problem.evaluator.export(self._current.kept.tolist())

    def decode(self, actions: FloatArray | NDArray[np.float32], kept: IntArray | None = None) -> IntArray:
        """The plans actions lead to, without measuring anything.

        Args:
            actions: [..., L], moves; clipped to [-1, 1].
            kept: int [L] (or [..., L]), the plan they start from; the current one if absent.

        Returns:
            int64 [..., L] kept units, projected onto the target under the hard constraint.
        """
        origin = self._current.kept if kept is None else np.asarray(kept)
        moves = np.minimum(np.maximum(np.asarray(actions, dtype=np.float64), -1.0), 1.0)
        logits = self.limits.logits(origin) + self.action_scale * moves
        return self.constraint.plan(logits, self.problem.cost, self.limits, self._target)

    def score_of(self, evaluations: FloatArray, reductions: FloatArray) -> FloatArray:
        """Scores of plans under the current target and lambda.

        Args:
            evaluations: [...], what plans measure in the reward's metric (soft accuracy by default).
            reductions: [...], their FLOPs reductions.

        Returns:
            float64 [...].
        """
        evaluations, reductions = np.asarray(evaluations, dtype=np.float64), np.asarray(reductions, dtype=np.float64)
        flops = (1.0 - reductions) * self.problem.cost.dense_flops
        value = self.reward.value(evaluations, flops)
        return np.asarray(value - self._lambda * violation(reductions, np.float64(self._target)))

    def best_plan(self, tolerance: float = 0.02) -> tuple[IntArray, Evaluation]:
        """The best measured plan that meets the current target.

        All plans measured through this environment and its forks compete, whatever target they were made for; the
        start plan of the current target is among them (and is measured if it was not).

        Args:
            tolerance: plans count whose FLOPs reduction is in ``[target, target + tolerance]``.

        Returns:
            Kept units int64 [L], and what they score.
        """
        self.problem.load()
        start = self.problem.start_plan(self.start, self._target, limits=self.limits)
        self._measure(start)
        plans = np.array(list(self.archive))
        reductions = self.problem.cost.reduction(plans)
        meets = (reductions >= self._target) & (reductions <= self._target + tolerance)
        # The start plan stays in the race where whole units cannot come within the tolerance.
        meets |= (plans == start).all(axis=1)
        qualities = np.array([getattr(evaluation, self.reward.metric) for evaluation in self.archive.values()])
        best = int(np.where(meets, self.score_of(qualities, reductions), -np.inf).argmax())
        return plans[best].astype(np.int64), list(self.archive.values())[best]

    def fork(self, **overrides: Any) -> HOBSPruneEnv:
        """An independent environment in the same state, on the same loaded problem.

        The archive of measured plans is shared, so that what one measures is free for the other.

        Args:
            **overrides: arguments of the constructor to change, for example ``fidelity="predicted"``.
        """
        other = type(self)(**{**self._settings, **overrides, "problem": self.problem})
        other.archive = self.archive
        other._lambda, other._target, other._steps = self._lambda, self._target, self._steps
        other._start_score, other._template = self._start_score, self._template.copy()
        other._state = self._state
        other.np_random.bit_generator.state = self.np_random.bit_generator.state
        return other

    # ------------------------------------------------------------------ parts

    @property
    def _current(self) -> PlanState:
        if self._state is None:
            raise RuntimeError("there is no plan yet; call reset() first")
        return self._state

    def _checked(self, action: NDArray[np.float32]) -> FloatArray:
        moves = np.asarray(action, dtype=np.float64)
        if moves.shape != self.action_space.shape:
            raise ValueError(f"an action has shape {self.action_space.shape}, one move a layer; got {moves.shape}")
        if not np.isfinite(moves).all():
            raise ValueError(f"an action's entries are finite numbers in [-1, 1]; got {moves}")
        return moves

    def _next_target(self, options: Mapping[str, Any]) -> float:
        for name in options:
            if name != "target":
                raise ValueError(unknown("reset option", name, ("target",)))
        if options.get("target") is None:
            return self.targets.sample(self.np_random)
        target = TargetRange.of(options["target"], self.targets.low)
        if target.low != target.high:
            raise ValueError(f"options['target'] is a single FLOPs reduction; got {options['target']!r}")
        self.problem.cost.check_target(target.low, self.limits)
        return target.low

    def _adapt_lambda(self, restart: bool) -> None:
        """Set lambda for the coming episode, from the last plan of the one before."""
        if restart or self._state is None:
            self._lambda = self.reward.schedule.lambda_0
        else:
            self._lambda = self.reward.schedule(self._accuracy_drop(self._state))

    def _accuracy_drop(self, state: PlanState) -> float:
        metric = self.reward.metric
        return getattr(self.problem.dense, metric) - getattr(state.evaluation, metric)

    def _visit(self, kept: IntArray) -> PlanState:
        evaluation = self._measure(kept) if self.fidelity == "measured" else self._predict(kept)
        reduction = float(self.problem.cost.reduction(kept))
        short = float(violation(reduction, self._target))
        flops = (1.0 - reduction) * self.problem.cost.dense_flops
        value = float(self.reward.value(getattr(evaluation, self.reward.metric), flops))
        return PlanState(kept, evaluation, reduction, short, value, value - self._lambda * short)

    def _measure(self, kept: IntArray) -> Evaluation:
        key = tuple(kept.tolist())
        if key not in self.archive:
            self.archive[key] = self.problem.evaluator.evaluate(key)
        return self.archive[key]

    def _predict(self, kept: IntArray) -> Evaluation:
        return Evaluation(*self.problem.predicted_metrics(kept).tolist())

    def _observation(self) -> Observation:
        state, size = self._current, self.layout.size
        observation = self._template.copy()
        first = size - 5 - self.problem.num_layers
        observation[first : size - 5] = 1.0 - state.kept / self.problem.cost.units
        observation[size - 5 :] = (
            self._accuracy_drop(state),
            state.reduction,
            self._target,
            min(self._lambda, BOUND),
            self._steps / self.horizon,
        )
        return observation

    def _info(self, rewards: dict[str, float]) -> Info:
        state = self._current
        return {
            "accuracy": state.evaluation.accuracy,
            "soft_accuracy": state.evaluation.soft_accuracy,
            "loss": state.evaluation.loss,
            "flops_reduction": state.reduction,
            "target_flops_reduction": self._target,
            "violation": state.violation,
            "score": state.score,
            "lambda": self._lambda,
            "is_success": state.violation == 0.0 and state.score > self._start_score,
            "measured_evaluations": len(self.archive),
            "kept": state.kept.copy(),
            "rewards": rewards,
        }

"""Common parts of the pruning environments: the problem, the target, lambda, measuring and looking at plans."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from prune_gym.cost.budgeted import BudgetedCost
from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.envs.constraint import TargetRange
from prune_gym.envs.fidelity import Archive, Problem, check_fidelity, counted_fidelity, make_fidelity
from prune_gym.envs.observation import ObservationLayout, Observer
from prune_gym.envs.render import RENDER_MODES, PlanPicture, caption_of
from prune_gym.envs.reward import make_reward
from prune_gym.envs.scoring import PlanState, Scorer
from prune_gym.envs.settings import EnvSettings
from prune_gym.measuring.evaluation import Evaluation
from prune_gym.problem.features import BOUND, FeatureSet

if TYPE_CHECKING:
    from torch import nn

    from prune_gym.tasks.task import PruningTask

Observation = NDArray[np.float32]
Info = dict[str, Any]
Self = TypeVar("Self", bound="PruningEnv")


class PruningEnv(gym.Env[Observation, NDArray[np.float32]], ABC):
    """Base of the pruning environments; they add the actions.

    Args:
        task: what is pruned.
        target_flops_reduction: required reduction, or a range sampled at reset; None means the task's default, unless
            another setting names the target.
        problem: a loaded problem to share; overrules the settings that make one.
        **settings: the other fields of :attr:`SETTINGS`.

    Attributes:
        SETTINGS: what the environment is told, see :class:`prune_gym.envs.settings.EnvSettings`.
        OWN_FEATURES: features of a layer that the environment adds to the chosen ones.

    Raises:
        TypeError: an argument there is none of.
        ValueError: an unknown name, a number out of its range, or a target out of reach.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 4}  # noqa: RUF012
    SETTINGS: ClassVar[type[EnvSettings]] = EnvSettings
    OWN_FEATURES: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # What help() and editors show instead of **settings.
        setattr(cls, "__signature__", cls.SETTINGS.signature())  # noqa: B010

    def __init__(
        self,
        task: str | PruningTask = "digits-resnet20",
        target_flops_reduction: float | Sequence[float] | None = None,
        *,
        problem: Problem | None = None,
        **settings: Any,
    ) -> None:
        given = {"task": task, "target_flops_reduction": target_flops_reduction, **settings}
        self.settings = self.SETTINGS.of(given)
        self.features = FeatureSet.of(self.settings.features)
        self.problem = problem = self.settings.make_problem() if problem is None else problem
        self.reward = make_reward(self.settings.reward, self.settings.lambda_0, self.settings.tau)
        self.limits = problem.cost.limits(
            self.settings.max_pruning_ratio,
            min_channels=self.settings.min_channels,
            round_to=self.settings.round_to,
        )
        asked = self.settings.one_target()
        self.limited = asked.quantity
        self._scorer = Scorer(problem, self.reward, self.limited)
        self.targets = TargetRange.of(asked.reduction, problem.default_target)
        if self.limited != "latency":  # which is measured at the first reset
            self._check_range()
        self._fidelity = make_fidelity(self.settings.fidelity)
        check_fidelity(self._fidelity, problem)
        self.render_mode = self.settings.render_mode
        self.layout = ObservationLayout(problem.num_layers, (*self.features.names, *self.OWN_FEATURES))
        self._observer = Observer(self.layout, self.features, problem)
        self.observation_space = spaces.Box(-BOUND, BOUND, (self.layout.size,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (self._action_entries(),), np.float32)
        self.archive: Archive = {}
        self._lambda = self.reward.schedule.lambda_0
        self._target = self.targets.low
        self._steps = 0
        self._state: PlanState | None = None
        self._starts: dict[float, PlanState] = {}
        self._past: list[tuple[PlanState, IntArray]] = []
        self._start_score = 0.0

    @property
    def cost(self) -> BudgetedCost:
        """Cost that the target limits; latency is measured when first asked for."""
        return self._scorer.cost

    def _check_range(self) -> None:
        self.cost.check_target(np.array([self.targets.low, self.targets.high]), self.limits)

    def start_plan(self, target: float | None = None) -> IntArray:
        """Plan that episodes of a target (None: the current one) start from, int64 [L]."""
        wanted = self._target if target is None else target
        return self.problem.start_plan(self.settings.start, wanted, limits=self.limits, cost=self.cost)

    # ------------------------------------------------------------------ episodes

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Observation, Info]:
        """Start an episode at the start plan of its target.

        Args:
            seed: seeds the targets' sampling and restores lambda to ``lambda_0``.
            options: ``{"target": x}`` sets this episode's target, as a reduction.

        Raises:
            ValueError: an unknown option, or a target out of reach.
        """
        super().reset(seed=seed)
        self.problem.load()
        if self._state is None:
            self._check_range()
        self._adapt_lambda(restart=seed is not None)
        self._target = self.next_target(options or {}, self.np_random)
        self._steps = 0
        self._past = []
        self._state = state = self._start()
        self._start_score = state.score
        return self._look_at(state.kept), self._info({"accuracy": 0.0, "violation": 0.0})

    # ------------------------------------------------------------------ plans

    @property
    def fidelity(self) -> str:
        """``"measured"``, ``"surrogate"`` or ``"predicted"``."""
        return self._fidelity.name

    @property
    def kept(self) -> IntArray:
        """Kept units of every layer now, int64 [L], a copy."""
        return self._current.kept.copy()

    @property
    def target(self) -> float:
        """The current episode's target, as a reduction of what it limits."""
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
        """The pruned network now: physically small, repaired, in evaluation mode."""
        return self.problem.evaluator.export(self._current.kept.tolist())

    def score_of(self, evaluations: FloatArray, reductions: FloatArray, kept: IntArray | None = None) -> FloatArray:
        """Scores of plans under the current target and lambda.

        Args:
            evaluations: [...], what plans measure in the reward's metric (soft accuracy by default).
            reductions: [...], their reductions of what the target limits.
            kept: int [..., L], the plans; only rewards that weigh latency need them.

        Returns:
            float64 [...].

        Raises:
            ValueError: the reward weighs latency and the plans are not given.
        """
        return self._scorer.scores(evaluations, reductions, self._target, self._lambda, kept)

    def best_plan(self, tolerance: float = 0.02) -> tuple[IntArray, Evaluation]:
        """The best measured plan that meets the current target.

        All plans measured through this environment and its forks compete, whatever target they were made for; the
        start plan of the current target is among them (and is measured if it was not).

        Args:
            tolerance: plans count whose reduction is in ``[target, target + tolerance]``.

        Returns:
            Kept units int64 [L], and what they score.
        """
        self.problem.load()
        start = self.start_plan()
        counted_fidelity(self.problem).evaluate(self.problem, self.archive, start)
        plans = np.array(list(self.archive))
        reductions = self.cost.reduction(plans)
        meets = (reductions >= self._target) & (reductions <= self._target + tolerance)
        # The start plan stays in the race where whole units cannot come within the tolerance.
        meets |= (plans == start).all(axis=1)
        qualities = np.array([getattr(evaluation, self.reward.metric) for evaluation in self.archive.values()])
        best = int(np.where(meets, self.score_of(qualities, reductions, plans), -np.inf).argmax())
        return plans[best].astype(np.int64), list(self.archive.values())[best]

    def fork(self: Self, **overrides: Any) -> Self:
        """An independent environment in the same state, on the same loaded problem.

        The archive of measured plans is shared, so that what one measures is free for the other.

        Args:
            **overrides: arguments of the constructor to change, for example ``fidelity="predicted"``.

        Raises:
            ValueError: an override of what makes the problem (the task, its repair, its device).
        """
        other = type(self)(**self.settings.arguments(**overrides), problem=self.problem)
        other.archive = self.archive
        other._lambda, other._target, other._steps = self._lambda, self._target, self._steps
        other._start_score, other._state, other._past = self._start_score, self._state, list(self._past)
        other.np_random.bit_generator.state = self.np_random.bit_generator.state
        return other

    def undo(self) -> tuple[Observation, Info]:
        """Take back the last step of this episode; what was measured stays known.

        Returns:
            The observation and the information there were before that step.

        Raises:
            RuntimeError: no step was made since the last ``reset``.
        """
        if not self._past:
            raise RuntimeError("there is no step to take back: none was made since the last reset()")
        self._state, draft = self._past.pop()
        self._steps -= 1
        return self._look_at(draft), self._info({"accuracy": 0.0, "violation": 0.0})

    def render(self) -> Any:
        """The plan as a table of bars (text), or as a picture (uint8 [H, W, 3]), as ``render_mode`` says; else None."""
        if self.render_mode is None:
            return None
        state = self._current
        caption = caption_of(state.evaluation.accuracy, state.reduction, self._target, state.score)
        return PlanPicture(self.problem.layer_names, state.kept, self.problem.cost.units, caption).drawn(
            self.render_mode
        )

    # ------------------------------------------------------------------ for the environments

    @abstractmethod
    def _action_entries(self) -> int:
        """Number of entries of an action."""

    @abstractmethod
    def _look_at(self, draft: IntArray) -> Observation:
        """The observation at these counts after the steps made so far; the array stays as it is."""

    @property
    def _current(self) -> PlanState:
        if self._state is None:
            raise RuntimeError("there is no plan yet; call reset() first")
        return self._state

    def _checked(self, action: NDArray[np.float32]) -> FloatArray:
        moves = np.asarray(action, dtype=np.float64)
        if moves.shape != self.action_space.shape:
            raise ValueError(f"an action has shape {self.action_space.shape}; got {moves.shape}")
        if not np.isfinite(moves).all():
            raise ValueError(f"an action's entries are finite numbers in [-1, 1]; got {moves}")
        return moves

    def next_target(self, options: Mapping[str, Any], generator: np.random.Generator) -> float:
        """The target of an episode: from the reset options, or drawn.

        Raises:
            ValueError: an unknown option, or a target out of reach.
        """
        target = self.targets.choose(options, generator)
        if options:
            self.cost.check_target(target, self.limits)
        return target

    def _adapt_lambda(self, restart: bool) -> None:
        """Set lambda for the coming episode, from the last plan of the one before."""
        if restart or self._state is None:
            self._lambda = self.reward.schedule.lambda_0
        else:
            self._lambda = self.reward.schedule(self._accuracy_drop)

    @property
    def _accuracy_drop(self) -> float:
        return float(self._scorer.drop(getattr(self._current.evaluation, self.reward.metric)))

    def _start(self) -> PlanState:
        """The start plan of the current target; what lambda does not change is computed once a target."""
        known = self._starts.get(self._target)
        if known is None:
            self._starts[self._target] = known = self._visit(self.start_plan())
            return known
        evaluation = self._fidelity.evaluate(self.problem, self.archive, known.kept)
        score = known.value - self._lambda * known.violation
        return PlanState(known.kept, evaluation, known.reduction, known.violation, known.value, score)

    def _visit(self, kept: IntArray) -> PlanState:
        evaluation = self._fidelity.evaluate(self.problem, self.archive, kept)
        return self._scorer.state(kept, evaluation, self._target, self._lambda)

    def _observation(self, kept: IntArray, progress: float) -> Observation:
        """The observation of a plan, a fresh array."""
        state = self._current
        reduction = state.reduction if kept is state.kept else float(self.cost.reduction(kept))
        return self._observer(kept, self._accuracy_drop, reduction, self._target, self._lambda, progress)

    def _gains(self, before: PlanState, after: PlanState) -> dict[str, float]:
        """The parts of the reward of a move."""
        return {
            "accuracy": after.value - before.value,
            "violation": self._lambda * (before.violation - after.violation),
        }

    def _info(self, rewards: dict[str, float]) -> Info:
        state, of_flops = self._current, self.limited == "flops"
        return {
            "accuracy": state.evaluation.accuracy,
            "soft_accuracy": state.evaluation.soft_accuracy,
            "loss": state.evaluation.loss,
            "flops_reduction": state.reduction if of_flops else float(self.problem.cost.reduction(state.kept)),
            "target_flops_reduction": self._target if of_flops else 0.0,
            "reduction": state.reduction,
            "target_reduction": self._target,
            "violation": state.violation,
            "score": state.score,
            "lambda": self._lambda,
            "is_success": state.violation == 0.0 and state.score > self._start_score,
            "measured_evaluations": len(self.archive),
            "kept": state.kept.copy(),
            "rewards": rewards,
        }

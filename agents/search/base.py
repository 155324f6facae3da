"""Searches: plans chosen without a policy, with R-SPAR's interface and its way of counting measured evaluations.

A search proposes moves from the start plan. Each is shifted onto the target (:meth:`Imagination.on_target`); if its
plan was measured before, the search is told the known score for free, otherwise the environment measures it in one
step. So every step of a search measures a plan, as every step of R-SPAR does. Where an episode has several moves, a
search uses the first one only.
"""

from __future__ import annotations

import copy
import logging
from abc import abstractmethod
from typing import Any

import numpy as np

from agents.interface.learner import Environment
from agents.interface.monitor import Monitor
from agents.interface.protocol import PlannableEnv, finite_reward, plannable, positive, target_of
from agents.model.acquisition import eligible
from agents.model.experience import Experience, Move, Plan, as_plan, fingerprint
from agents.model.imagination import Imagination
from agents.model.reward_model import RewardModel
from agents.search.plan_chooser import PlanChooser
from prune_gym.measuring.evaluation import Evaluation

logger = logging.getLogger(__name__)

ESCAPE_STDS, ESCAPE_TRIES = (0.1, 0.3, 1.0), 512
"""Random moves tried, and how far away, where a search proposes only what was measured."""

UNKNOWN = Evaluation(accuracy=0.0, soft_accuracy=0.0, loss=0.0)
"""Stands for the score of a plan in a rehearsal."""


class Search(PlanChooser):
    """A search that proposes moves and is told what they score.

    A search belongs to one problem and one target; :meth:`learn` may be called again to go on. It is a deterministic
    function of its seed and of the scores, so a lost one is recovered by running it again in an environment whose
    archive holds what was measured.

    Args:
        seed: of everything random.

    Attributes:
        rng: source of randomness.
        patience: proposals without a new plan before :meth:`restart` is called.
    """

    patience = 64

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self._experience: Experience | None = None
        self._target: float | None = None

    def reward_model(self) -> RewardModel:
        """A model of the reward for a new problem; only searches that ask it pay for it."""
        return RewardModel()

    @abstractmethod
    def propose(self, view: Imagination) -> np.ndarray:
        """An action [L] in [-1, 1] from the start plan; it need not be on the target."""

    def observe(self, action: np.ndarray, score: float) -> None:
        """Learn what the last proposal scored.

        Args:
            action: float32 [L], the proposal shifted onto the target.
            score: higher is better; minus infinity where no shift reaches the target.
        """

    def restart(self) -> None:
        """Look further away: the last :attr:`patience` proposals held no new plan, and a random one is measured."""

    def _meet(self, env: Environment, batch_size: int) -> None:
        plannable(env)

    def _run(self, env: Environment, total_timesteps: int, monitor: Monitor, batch_size: int) -> None:
        """Measure a new plan in each step, until no plan on the target is found that was not measured (a warning).

        Where plans are measured side by side, they are those the search would propose next if the scores in between
        did not matter. The search itself goes on one by one, so a batch changes its speed and never its result.
        """
        plans = plannable(env)
        expected: set[Plan] = set()
        info = self._reset(env, plans)
        if not self.history:
            self._actions.append(None)
            monitor.episode(0.0, info, self.num_timesteps)
        for step in range(total_timesteps):
            if monitor.stopped:
                break
            info = self._reset(env, plans) if step else info
            view = self._view(plans, info)
            if batch_size > 1 and not expected:
                expected = self._prefetch(view, min(batch_size, total_timesteps - step))
            action = self._next(view)
            if action is None:
                logger.warning("no plan in reach is left to measure after %d steps", self.num_timesteps)
                break
            _, reward, _, _, info = env.step(action)
            self.num_timesteps += 1
            gain = finite_reward(reward)
            reached = as_plan(info["kept"])
            view.experience.moves.append(Move(as_plan(view.start), action, reached))
            expected = expected - {reached} if reached in expected else set()
            view.experience.absorb(plans)
            self.observe(action, float(info["score"]))
            self._actions.append(action)
            monitor.episode(gain, info, self.num_timesteps)
            monitor.advance()

    def _prefetch(self, view: Imagination, count: int) -> set[Plan]:
        """Have the next plans measured side by side, as far as they can be foreseen; returns them."""
        rehearsal = copy.deepcopy(self)
        assert rehearsal._experience is not None
        plans: list[Plan] = []
        while len(plans) < count:
            ahead = Imagination(view.env, rehearsal._experience, view.start, view.target)
            action = rehearsal._next(ahead)
            if action is None:
                break
            plan = as_plan(ahead.moves(action[None]).kept[0])
            plans.append(plan)
            rehearsal._experience.plans[plan] = UNKNOWN
            rehearsal.observe(action, -np.inf)
        view.env.problem.prefetch(plans)
        return set(plans)

    def _reset(self, env: Environment, plans: PlannableEnv) -> dict[str, Any]:
        """Start an episode; make sure that it is about the same question as those before.

        Raises:
            ValueError: the environment asks about another problem or target than before.
        """
        first = self._experience is None
        _, info = env.reset(seed=self.seed if first else None)
        identity, target = fingerprint(plans), target_of(info)
        if self._experience is None:
            self._experience, self._target = Experience(identity, self.reward_model()), target
        if self._experience.fingerprint != identity or self._target != target:
            raise ValueError(
                f"a {type(self).__name__} serves one problem at one target (so far {self._target}, given {target}); "
                "make another search, and an environment whose target is a single number"
            )
        return info

    def _view(self, plans: PlannableEnv, info: dict[str, Any]) -> Imagination:
        assert self._experience is not None
        assert self._target is not None
        self._experience.absorb(plans)
        return Imagination(plans, self._experience, info["kept"], self._target)

    def _next(self, view: Imagination) -> np.ndarray | None:
        """The next action that leads to a new plan on the target; None where none is found."""
        for _ in range(self.patience):
            move = view.on_target(self.propose(view)[None])
            if not view.meets_target(move.reductions)[0]:
                self.observe(move.actions[0], -np.inf)
            elif view.is_new(move)[0]:
                return move.actions[0]
            else:
                self.observe(move.actions[0], float(view.measured_scores([as_plan(move.kept[0])])[0]))
        self.restart()
        return self._escape(view)

    def _escape(self, view: Imagination) -> np.ndarray | None:
        """A random action to a new plan on the target, no further away than needed; None where none is found."""
        for std in ESCAPE_STDS:
            actions = self.rng.normal(0.0, std, (ESCAPE_TRIES, len(view.start)))
            found = eligible(view, np.clip(actions, -1.0, 1.0).astype(np.float32))
            if len(found):
                return found.actions[0]
        return None


class RandomSearch(Search):
    """Random moves from the start plan, each brought onto the target; the best measured one is kept.

    Args:
        std: standard deviation of an action's entries before they are brought onto the target.
        seed: of the moves.
    """

    def __init__(self, std: float = 0.1, seed: int = 0) -> None:
        super().__init__(seed)
        self.std = positive("std", std)

    def propose(self, view: Imagination) -> np.ndarray:
        """A normal action, clipped to [-1, 1]."""
        return np.clip(self.rng.normal(0.0, self.std, len(view.start)), -1.0, 1.0)

"""``HOBSPruneLayerwise-v0``: one layer a step, one evaluation at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prune_gym.cost.limits import IntArray
from prune_gym.envs.base import Info, Observation, PruningEnv

if TYPE_CHECKING:
    from prune_gym.envs.fidelity import Problem
    from prune_gym.tasks.task import PruningTask


class HOBSPruneLayerwiseEnv(PruningEnv):
    """Structured pruning layer by layer, as AMC poses it (He et al., ECCV 2018).

    ## Description

    The agent walks the L prunable layers in execution order and sets one pruning ratio a step. What the layers decided
    so far leave of the FLOPs budget bounds the choice on both sides: no layer may keep so much that the target is out
    of reach even with all later layers at their smallest, and none has to go below what reaches the target with all
    later layers whole. So every episode ends on the target. The plan is evaluated once, at the end; see
    :class:`prune_gym.envs.hobs_prune.HOBSPruneEnv` for how.

    ## Action Space

    `Box(-1, 1, (1,), float32)`: -1 keeps as much of the current layer as the bounds allow, 1 as little, linear in
    the pruning ratio in between. Where the bounds leave one choice, every action is that choice; the last layer always
    takes up what is left.

    ## Observation Space

    `Box(-10, 10, (L * (F + 1) + L + 5,), float32)`, as in `HOBSPrune-v0` with one more feature a layer, `current`: 1
    for the layer the next action decides (none after the last). Pruning ratios and FLOPs reduction are those of
    the layers decided so far, with the start plan's ratios for the others; the accuracy lost is the start plan's until
    the end.

    ## Rewards

    0, and at the end the score of the plan minus that of the start plan (which agents of `HOBSPrune-v0` start from).

    ## Starting State

    No layer is decided. A range of targets is sampled at every reset; `reset(options={"target": 0.8})` sets the target
    of one episode.

    ## Episode End

    Terminated after L steps. Never truncated.

    ## Information

    The keys of `HOBSPrune-v0`, about the start plan until the end and the finished plan there.

    ## Arguments

    Those of `HOBSPrune-v0` without `constraint` (the target is always met), `horizon` (it is L) and `action_scale`.

    ## Version History

    * v0: initial version.
    """

    OWN_FEATURES = ("current",)

    def __init__(
        self,
        task: str | PruningTask = "digits-resnet20",
        target_flops_reduction: float | Sequence[float] | None = None,
        *,
        problem: Problem | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(task, target_flops_reduction, problem=problem, **settings)
        self._draft: IntArray = self.problem.cost.units

    def _action_entries(self) -> int:
        return 1

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, Info]:
        """Set the pruning ratio of the current layer; after the last one, look at the plan.

        Args:
            action: [1], in [-1, 1].

        Raises:
            RuntimeError: no ``reset`` yet, or the episode is over.
            ValueError: an action of another shape, or with NaN or infinite entries.
        """
        before = after = self._current
        if self._steps >= self.problem.num_layers:
            raise RuntimeError("the episode is over; call reset() before the next step()")
        most, least = self.bounds()
        share = (float(np.clip(self._checked(action)[0], -1.0, 1.0)) + 1.0) / 2.0
        choices = self.limits.choices(self._steps)
        choices = choices[(choices >= least) & (choices <= most)]
        self._past.append((before, self._draft.copy()))
        self._draft[self._steps] = choices[np.abs(choices - (most + share * (least - most))).argmin()]
        self._steps += 1
        finished = self._steps == self.problem.num_layers
        if finished:
            after = self._state = self._visit(self._draft.copy())
        observation = self._look_at(self._draft)
        return observation, after.score - before.score, finished, False, self._info(self._gains(before, after))

    def bounds(self) -> tuple[int, int]:
        """Most and fewest units the current layer may keep, given the layers decided before it.

        Raises:
            RuntimeError: no layer is left to decide, or no ``reset`` yet.
        """
        target = self.target
        if self._state is None or self._steps >= self.problem.num_layers:
            raise RuntimeError("no layer is waiting for a decision; call reset() first")
        choices = self.limits.choices(self._steps)
        most = self._feasible(choices, self.limits.minimum, target).max()
        enough = self._feasible(choices, self.limits.units, target)
        return int(most), int(enough.max() if len(enough) else choices[0])

    def _feasible(self, choices: IntArray, later: IntArray, target: float) -> IntArray:
        """Counts of the current layer that reach the target with the later layers as given."""
        plan = np.concatenate([self._draft[: self._steps + 1], later[self._steps + 1 :]])
        reductions = 1.0 - self.cost.along(plan, self._steps, choices) / self.cost.dense
        return choices[reductions >= target]

    def _look_at(self, draft: IntArray) -> Observation:
        observation = self._observation(draft, self._steps / self.problem.num_layers)
        if draft is not self._draft:
            self._draft = draft.copy()
        marker = self.layout.column(self.layout.feature_dim - 1)
        observation[marker] = np.arange(self.problem.num_layers) == self._steps
        return observation

    def fork(self, **overrides: Any) -> HOBSPruneLayerwiseEnv:
        """An independent environment in the same state; see :meth:`prune_gym.envs.base.PruningEnv.fork`."""
        other = super().fork(**overrides)
        other._draft = self._draft.copy()
        return other

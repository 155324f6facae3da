"""``HOBSPrune-v0`` for many plans at once: what ``gymnasium.make_vec("HOBSPrune-v0")`` builds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.envs.fidelity import COUNTED, make_fidelity
from prune_gym.envs.hobs_prune import HOBSPruneEnv
from prune_gym.envs.observation import Observer
from prune_gym.envs.render import PlanPicture, caption_of
from prune_gym.envs.reward import violation
from prune_gym.envs.scoring import Scorer

METRICS = ("accuracy", "soft_accuracy", "loss")


class HOBSPruneVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.float32], NDArray[Any]]):
    """``num_envs`` copies of :class:`prune_gym.envs.hobs_prune.HOBSPruneEnv` that move, and are predicted, in one call.

    Every copy behaves as an environment of its own (tested against ``SyncVectorEnv``): its targets are drawn from its
    own generator, seeded ``seed + i``, its lambda adapts to its own plans, and it counts the plans it asked for. At
    measured fidelity a plan that several copies reach is run once.

    Args:
        num_envs: copies.
        autoreset_mode: ``"NextStep"`` (default), ``"SameStep"`` or ``"Disabled"``, or Gymnasium's constants.
        **kwargs: arguments of :class:`prune_gym.envs.hobs_prune.HOBSPruneEnv`.

    Raises:
        ValueError: fewer than one copy, an unknown mode, or a bad argument of the environment.
    """

    def __init__(self, num_envs: int = 1, autoreset_mode: str | AutoresetMode = "NextStep", **kwargs: Any) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, (int, np.integer)) or num_envs < 1:
            raise ValueError(f"num_envs is a number of environments, at least 1; got {num_envs!r}")
        self.num_envs = int(num_envs)
        self._mode = AutoresetMode(autoreset_mode)
        self.metadata = {**HOBSPruneEnv.metadata, "autoreset_mode": self._mode}
        self.single = HOBSPruneEnv(**kwargs)
        self.render_mode = self.single.render_mode
        self._fidelity = make_fidelity(self.single.fidelity)
        self._observer = Observer(self.single.layout, self.single.features, self.single.problem)
        self._scorer = Scorer(self.single.problem, self.single.reward, self.single.limited)
        self.single_observation_space = self.single.observation_space
        self.single_action_space = self.single.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._generators = [np_random()[0] for _ in range(self.num_envs)]
        self._visited: list[set[bytes]] = [set() for _ in range(self.num_envs)]
        self._lambda = np.full(self.num_envs, self.single.reward.schedule.lambda_0)
        self._fresh = np.ones(self.num_envs, dtype=np.bool_)
        self._done = np.zeros(self.num_envs, dtype=np.bool_)
        self._steps = np.zeros(self.num_envs, dtype=np.int64)
        self._targets = np.zeros(self.num_envs)
        self._start_scores = np.zeros(self.num_envs)
        self._plans: _Plans | None = None

    # ------------------------------------------------------------------ Gymnasium

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode in every copy.

        Args:
            seed: of the first copy, counted up for the others, or one a copy; restores lambda where given.
            options: ``{"target": x}`` sets the episodes' target; ``{"reset_mask": bool [num_envs]}`` resets some only.

        Raises:
            ValueError: a mask of another shape or without an entry, an unknown option, or a target out of reach.
        """
        options = dict(options or {})
        mask = np.asarray(options.pop("reset_mask", np.ones(self.num_envs, dtype=np.bool_)))
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(f"options['reset_mask'] is a boolean array of shape ({self.num_envs},) with a True in it")
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        chosen = list(seeds) if seeds is not None else [None] * self.num_envs
        if len(chosen) != self.num_envs:
            raise ValueError(f"one seed an environment is needed, {self.num_envs}; got {len(chosen)}")
        for index in np.flatnonzero(mask):
            if chosen[index] is not None:
                self._generators[index] = np_random(chosen[index])[0]
                self._fresh[index] = True
        self._restart(mask, options)
        return self._observations(), self._info(np.zeros((2, self.num_envs)))

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Move every copy; copies whose episode ended are reset as the autoreset mode says.

        Args:
            actions: [num_envs, L], moves in [-1, 1].

        Raises:
            RuntimeError: no ``reset`` yet, or (mode ``"Disabled"``) an ended episode that was not reset.
            ValueError: actions of another shape, or with NaN or infinite entries.
        """
        before = self._current
        moving = ~self._done
        if self._mode == AutoresetMode.DISABLED and not moving.all():
            raise RuntimeError("an episode is over; reset it with options={'reset_mask': ...} before the next step()")
        moves = self._checked(actions)
        parts = np.zeros((2, self.num_envs))
        kept = before.kept.copy()
        kept[moving] = self._decode(moves[moving], before.kept[moving], self._targets[moving])
        after = self._visit(kept, moving)
        parts[0] = np.where(moving, after.values - before.values, 0.0)
        parts[1] = np.where(moving, self._lambda * (before.violations - after.violations), 0.0)
        rewards = np.where(moving, after.scores - before.scores, 0.0)
        self._plans = after
        self._steps[moving] += 1
        ended = moving & (self._steps >= self.single.horizon)
        if self._mode == AutoresetMode.NEXT_STEP and not moving.all():
            self._restart(~moving, {})
        self._done = ended.copy()
        infos: dict[str, Any] = {}
        if self._mode == AutoresetMode.SAME_STEP and ended.any():
            infos = self._finals(ended, parts)
            self._restart(ended, {})
            parts = np.where(ended, 0.0, parts)
        return self._observations(), rewards, ended, np.zeros_like(ended), {**infos, **self._info(parts)}

    def render(self) -> tuple[Any, ...] | None:
        """A picture or a table of every copy's plan, as ``render_mode`` says."""
        if self.render_mode is None:
            return None
        plans, problem = self._current, self.single.problem
        captions = map(caption_of, plans.metrics[:, 0], plans.reductions, self._targets, plans.scores)
        pictures = (
            PlanPicture(problem.layer_names, kept, problem.cost.units, caption)
            for kept, caption in zip(plans.kept, captions, strict=True)
        )
        return tuple(picture.drawn(self.render_mode) for picture in pictures)

    # ------------------------------------------------------------------ plans

    @property
    def kept(self) -> IntArray:
        """Kept units of every copy's layers now, int64 [num_envs, L], a copy."""
        return self._current.kept.copy()

    @property
    def _current(self) -> _Plans:
        if self._plans is None:
            raise RuntimeError("there are no plans yet; call reset() first")
        return self._plans

    def _checked(self, actions: NDArray[np.float32]) -> FloatArray:
        moves = np.asarray(actions, dtype=np.float64)
        if moves.shape != self.action_space.shape:
            raise ValueError(f"actions have shape {self.action_space.shape}; got {moves.shape}")
        if not np.isfinite(moves).all():
            raise ValueError("an action's entries are finite numbers in [-1, 1]; got NaN or infinity")
        return np.clip(moves, -1.0, 1.0)

    def _decode(self, moves: FloatArray, kept: IntArray, targets: FloatArray) -> IntArray:
        single = self.single
        logits = single.limits.logits(kept) + single.action_scale * moves
        return single.constraint.plan(logits, single.cost, single.limits, targets)

    def _restart(self, mask: NDArray[np.bool_], options: Mapping[str, Any]) -> None:
        """Begin new episodes where the mask says so."""
        single = self.single
        single.problem.load()
        if self._plans is not None:
            adapted = [single.reward.schedule(drop) for drop in self._drops(self._plans).tolist()]
            self._lambda = np.where(mask & ~self._fresh, adapted, self._lambda)
        self._lambda = np.where(mask & self._fresh, single.reward.schedule.lambda_0, self._lambda)
        kept = (
            np.tile(single.problem.cost.units, (self.num_envs, 1)) if self._plans is None else self._plans.kept.copy()
        )
        for index in np.flatnonzero(mask):
            self._targets[index] = single.next_target(options, self._generators[index])
            kept[index] = single.start_plan(float(self._targets[index]))
        everyone = mask if self._plans is not None else np.ones_like(mask)
        self._plans = self._visit(kept, everyone)
        self._start_scores = np.where(mask, self._plans.scores, self._start_scores)
        self._steps[mask] = 0
        self._done = self._done & ~mask
        self._fresh = self._fresh & ~mask

    def _visit(self, kept: IntArray, changed: NDArray[np.bool_]) -> _Plans:
        """Score plans; those that did not change keep their metrics."""
        single = self.single
        metrics = np.zeros((self.num_envs, len(METRICS))) if self._plans is None else self._plans.metrics.copy()
        if changed.any():
            metrics[changed] = self._fidelity.metrics(single.problem, kept[changed])
        if single.fidelity in COUNTED:
            for index, plan in zip(np.flatnonzero(changed).tolist(), _as_bytes(kept[changed]), strict=True):
                self._visited[index].add(plan)
        reductions = single.cost.reduction(kept)
        violations = np.asarray(violation(reductions, self._targets))
        qualities = metrics[:, METRICS.index(single.reward.metric)]
        values = np.asarray(self._scorer.values(qualities, reductions, kept), dtype=np.float64)
        return _Plans(kept, metrics, reductions, violations, values, values - self._lambda * violations)

    def _drops(self, plans: _Plans) -> FloatArray:
        return np.asarray(self._scorer.drop(plans.metrics[:, METRICS.index(self.single.reward.metric)]))

    # ------------------------------------------------------------------ what is handed out

    def _observations(self) -> NDArray[np.float32]:
        plans, progress = self._current, self._steps / self.single.horizon
        return self._observer(plans.kept, self._drops(plans), plans.reductions, self._targets, self._lambda, progress)

    def _info(self, parts: FloatArray) -> dict[str, Any]:
        plans, single = self._current, self.single
        of_flops = single.limited == "flops"
        rewards = {"accuracy": parts[0].copy(), "violation": parts[1].copy()}
        present = np.ones(self.num_envs, dtype=np.bool_)
        info: dict[str, Any] = {
            **{name: plans.metrics[:, column].copy() for column, name in enumerate(METRICS)},
            "flops_reduction": plans.reductions.copy() if of_flops else single.problem.cost.reduction(plans.kept),
            "target_flops_reduction": self._targets.copy() if of_flops else np.zeros(self.num_envs),
            "reduction": plans.reductions.copy(),
            "target_reduction": self._targets.copy(),
            "violation": plans.violations.copy(),
            "score": plans.scores.copy(),
            "lambda": self._lambda.copy(),
            "is_success": (plans.violations == 0.0) & (plans.scores > self._start_scores),
            "measured_evaluations": np.array([len(plans) for plans in self._visited]),
            "kept": plans.kept.copy(),
            "rewards": rewards | {f"_{name}": present.copy() for name in rewards},
        }
        return info | {f"_{name}": present.copy() for name in info}

    def _finals(self, ended: NDArray[np.bool_], parts: FloatArray) -> dict[str, Any]:
        """Last observations and information of the episodes that ended, as Gymnasium's own vector environments give."""
        observations = self._observations()
        final = np.full(self.num_envs, None, dtype=object)
        for index in np.flatnonzero(ended):
            final[index] = observations[index]
        info = _masked(self._info(parts), ended)
        return {"final_obs": final, "_final_obs": ended.copy(), "final_info": info, "_final_info": ended.copy()}


@dataclass(frozen=True, eq=False)
class _Plans:
    """Current plans of the episodes, one row a copy (see :class:`prune_gym.envs.scoring.PlanState`)."""

    kept: IntArray
    metrics: FloatArray
    reductions: FloatArray
    violations: FloatArray
    values: FloatArray
    scores: FloatArray


def _as_bytes(kept: IntArray) -> list[bytes]:
    """Every plan [B, L] as bytes, much faster than one by one."""
    rows = np.ascontiguousarray(kept)
    return rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel().tolist()


def _masked(info: Mapping[str, Any], mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Information with zeros, and False in the ``_name`` entries, outside the mask."""
    return {
        name: _masked(value, mask)
        if isinstance(value, dict)
        else np.where(mask.reshape(-1, *[1] * (value.ndim - 1)), value, np.zeros((), value.dtype))
        for name, value in info.items()
    }

"""A pruning problem of known optimum, in microseconds: no network, the same interface."""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
import numpy as np

from prune_gym.measuring.evaluation import Evaluation

GLOBALS = 5
FEATURES = 2


class SyntheticCosts:
    def __init__(self, shares: np.ndarray, units: int) -> None:
        self.shares, self.units = shares, units

    def reduction(self, kept: np.ndarray) -> np.ndarray:
        return 1.0 - (np.asarray(kept) / self.units) @ self.shares


class SyntheticReward:
    metric = "soft_accuracy"


@dataclass
class SyntheticProblem:
    log_curves: list[np.ndarray]
    cost: SyntheticCosts


class SyntheticPruning(gym.Env):
    """Layers whose true damage is their predicted loss times a hidden factor, plus interactions between neighbours.

    The log-odds of the soft accuracy are a quadratic of the log predicted losses: the start plan (equal ratios on the
    target) is not the best one. As in the real environment, the penalty depends on the plan of the episode before.
    """

    def __init__(
        self,
        num_layers: int = 8,
        units: int = 32,
        target: float = 0.8,
        seed: int = 0,
        horizon: int = 1,
        start="uniform",
        targets: tuple[float, ...] = (),
    ) -> None:
        rng, self.seed = np.random.default_rng(seed), seed
        self.num_layers, self.units, self.target, self.horizon = num_layers, units, target, horizon
        removed = np.arange(units)
        steepness = rng.uniform(0.8, 2.5, num_layers)
        scale = np.exp(rng.normal(0, 1.0, num_layers))
        curves = [s * (removed / (units - removed)) ** p for s, p in zip(scale, steepness, strict=True)]
        self.problem = SyntheticProblem(
            [np.log(curve + 1e-2) for curve in curves], SyntheticCosts(rng.dirichlet(np.full(num_layers, 3.0)), units)
        )
        self.centre = np.array([curve[int(0.6 * units)] for curve in self.problem.log_curves])
        self.slope = np.exp(rng.normal(0, 0.7, num_layers)) * 0.3
        self.curvature = np.diag(rng.uniform(0.02, 0.08, num_layers))
        for layer in range(num_layers - 1):
            self.curvature[layer, layer + 1] = self.curvature[layer + 1, layer] = rng.uniform(0, 0.02)
        self.archive: dict[tuple[int, ...], Evaluation] = {}
        self.reward, self.fidelity, self.beliefs = SyntheticReward(), "measured", None
        self.action_space = gym.spaces.Box(-1, 1, (num_layers,), np.float32)
        size = num_layers * (FEATURES + 1) + GLOBALS
        self.observation_space = gym.spaces.Box(-10, 10, (size,), np.float32)
        self.start, self.targets = start, targets
        self.penalty, self.kept = 3.0, None

    @property
    def cost(self) -> SyntheticCosts:
        return self.problem.cost

    def start_plan(self) -> np.ndarray:
        if not isinstance(self.start, str):
            return np.array(self.start)
        for kept in range(self.units, 0, -1):
            plan = np.full(self.num_layers, kept)
            if self.problem.cost.reduction(plan) >= self.target:
                return plan
        raise ValueError("target out of reach")

    def soft_accuracy(self, kept: np.ndarray) -> np.ndarray:
        columns = [curve[len(curve) - np.asarray(kept)[..., i]] for i, curve in enumerate(self.problem.log_curves)]
        offset = np.stack(columns, -1) - self.centre
        damage = offset @ self.slope + np.einsum("...i,ij,...j->...", offset, self.curvature, offset)
        return 1 / (1 + np.exp(-(4.0 - 0.4 * damage)))

    def decode(self, actions: np.ndarray, kept: np.ndarray | None = None) -> np.ndarray:
        now = self.kept if kept is None else kept
        ratio = np.clip(1 - now / self.units, 0.01, 0.97)
        moved = np.log(ratio / (1 - ratio)) + 2.0 * np.asarray(actions, dtype=np.float64)
        return np.clip(np.rint(self.units / (1 + np.exp(moved))), 1, self.units).astype(np.int64)

    def score_of(self, evaluations: np.ndarray, reductions: np.ndarray, kept: np.ndarray | None = None) -> np.ndarray:
        return evaluations - self.penalty * np.maximum(0, self.target - reductions) / self.target

    def fork(self, start=None, fidelity=None):
        start = self.start if start is None else self.start_plans[start]
        other = SyntheticPruning(self.num_layers, self.units, self.target, self.seed, self.horizon, start, self.targets)
        other.archive = self.archive
        if fidelity is not None:
            other.fidelity, other.beliefs = fidelity.name, fidelity
        return other

    def _measure(self) -> dict:
        plan = tuple(self.kept.tolist())
        if self.beliefs is None and plan not in self.archive:
            accuracy = float(self.soft_accuracy(self.kept))
            self.archive[plan] = Evaluation(accuracy, accuracy, -np.log(accuracy))
        known = self.archive[plan] if self.beliefs is None else self.beliefs.evaluate(self.problem, {}, self.kept)
        accuracy = known.soft_accuracy
        reduction = float(self.problem.cost.reduction(self.kept))
        return {
            "accuracy": accuracy,
            "soft_accuracy": accuracy,
            "flops_reduction": reduction,
            "target_flops_reduction": self.target,
            "violation": max(0.0, self.target - reduction) / self.target,
            "score": float(self.score_of(accuracy, reduction)),
            "lambda": self.penalty,
            "measured_evaluations": len(self.archive),
            "kept": self.kept.copy(),
        }

    def _observation(self) -> np.ndarray:
        features = np.stack([self.problem.cost.shares * self.num_layers, self.centre], -1).ravel()
        ratios = 1 - self.kept / self.units
        reduction = float(self.problem.cost.reduction(self.kept))
        rest = [0.0, reduction, self.target, self.penalty, self.steps / self.horizon]
        return np.concatenate([features, ratios, rest]).clip(-10, 10).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        if seed is not None or self.kept is None:
            self.penalty = 3.0
        else:
            self.penalty = 3.0 * self.archive[tuple(self.kept.tolist())].soft_accuracy
        if self.targets:
            self.target = (options or {}).get("target") or float(self.np_random.choice(self.targets))
        self.kept, self.steps = self.start_plan(), 0
        info = self._measure()
        self.score = info["score"]
        return self._observation(), info

    def step(self, action):
        self.kept, self.steps = self.decode(action), self.steps + 1
        info = self._measure()
        reward, self.score = info["score"] - self.score, info["score"]
        return self._observation(), reward, self.steps >= self.horizon, False, info


class IdentityEnv(gym.Env):
    """The reward is highest where the action repeats what each layer's first feature says."""

    def __init__(self, num_layers: int = 3, length: int = 1) -> None:
        self.num_layers, self.length = num_layers, length
        self.action_space = gym.spaces.Box(-1, 1, (num_layers,), np.float32)
        self.observation_space = gym.spaces.Box(-10, 10, (num_layers * (FEATURES + 1) + GLOBALS,), np.float32)

    def _observation(self) -> np.ndarray:
        self.wanted = self.np_random.uniform(-0.8, 0.8, self.num_layers)
        features = np.stack([self.wanted, np.zeros(self.num_layers)], -1).ravel()
        return np.concatenate([features, np.zeros(self.num_layers + GLOBALS)]).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action):
        reward = float(-np.square(np.asarray(action) - self.wanted).mean())
        self.steps += 1
        return self._observation(), reward, False, self.steps >= self.length, {}

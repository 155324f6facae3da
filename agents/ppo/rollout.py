"""Experience and its worth: the rollout buffer and generalised advantage estimation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hessian.support.layout import sent


def compute_gae(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    *,
    gamma: float,
    gae_lambda: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16).

    The last value is bootstrapped through truncations and the end of the rollout, not through terminations; the sum
    over later steps stops at both.

    Args:
        rewards: [T, N], N environments.
        values: V(s_t), [T, N].
        next_values: V(s_{t+1}) of the state the step really led to (before any reset), [T, N].
        terminated: bool [T, N].
        truncated: bool [T, N].
        gamma: discount.
        gae_lambda: the estimator's lambda.

    Returns:
        (advantages, returns), both [T, N]; returns = advantages + values.
    """
    deltas = rewards + gamma * next_values * ~terminated - values
    carries = gamma * gae_lambda * ~(terminated | truncated)
    advantages = np.zeros_like(deltas)
    running = np.zeros(deltas.shape[1:])
    for step in reversed(range(len(deltas))):
        running = deltas[step] + carries[step] * running
        advantages[step] = running
    return advantages, advantages + values


@dataclass(frozen=True)
class Batch:
    """N actions with what PPO needs of them, taken in M distinct states.

    Imagined episodes share their state; keeping the distinct ones apart lets the network run once for all of them.

    Attributes:
        observations: [M, D].
        state_index: the row of `observations` every action was taken in, LongTensor [N].
        pre_squash: actions before tanh [N, L].
        log_probs: of the policy that acted, [N].
        values: V(s) when it acted, [N].
        advantages: [N].
        returns: [N].
    """

    observations: torch.Tensor
    state_index: torch.Tensor
    pre_squash: torch.Tensor
    log_probs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor

    def __len__(self) -> int:
        return len(self.state_index)

    def select(self, index: torch.Tensor, where: torch.Tensor) -> Batch:
        """The actions at some places, with only the states they were taken in; nobody waits for the device.

        Args:
            index: [n], on the CPU.
            where: :attr:`state_index` on the CPU.
        """
        device = self.state_index.device
        states, state_index = (sent(each, device) for each in where[index].unique(return_inverse=True))
        index = sent(index, device)
        return Batch(
            self.observations[states],
            state_index,
            self.pre_squash[index],
            self.log_probs[index],
            self.values[index],
            self.advantages[index],
            self.returns[index],
        )


def joined(batches: Sequence[Batch]) -> Batch:
    """Several batches as one."""
    starts = np.cumsum([0, *(len(batch.observations) for batch in batches[:-1])])
    index = torch.cat([batch.state_index + int(start) for batch, start in zip(batches, starts, strict=True)])
    rest = [
        torch.cat([getattr(batch, name) for batch in batches])
        for name in ("pre_squash", "log_probs", "values", "advantages", "returns")
    ]
    return Batch(torch.cat([batch.observations for batch in batches]), index, *rest)


@dataclass(frozen=True)
class Decision:
    """Decisions of the policy in N environments at one step.

    Attributes:
        observations: [N, D].
        pre_squash: actions before tanh [N, L].
        log_probs: [N].
        values: [N].
    """

    observations: np.ndarray
    pre_squash: np.ndarray
    log_probs: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """Answers of N environments.

    Attributes:
        rewards: [N].
        terminated: bool [N].
        truncated: bool [N].
        next_observations: the states the step led to, before any reset [N, D].
        valid: bool [N]; False where the step was a vector environment's own reset.
    """

    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_observations: np.ndarray
    valid: np.ndarray


class RolloutBuffer:
    """Transitions of N environments in the order they happened; emptied after every policy update."""

    def __init__(self) -> None:
        self._decisions: list[Decision] = []
        self._outcomes: list[Outcome] = []

    def __len__(self) -> int:
        """Number of transitions that count (steps times environments, without resets)."""
        return sum(int(outcome.valid.sum()) for outcome in self._outcomes)

    def add(self, decision: Decision, outcome: Outcome) -> None:
        """Append one step.

        Raises:
            ValueError: a reward is NaN or infinite, or the number of environments changed.
        """
        bad = ~np.isfinite(outcome.rewards) & outcome.valid
        if bad.any():
            raise ValueError(
                f"the reward must be finite, got {outcome.rewards[bad][0]}; check the environment's reward function"
            )
        if outcome.rewards.shape != decision.log_probs.shape:
            raise ValueError(
                f"expected one reward for each of the {decision.log_probs.shape[0]} actions chosen, got "
                f"{outcome.rewards.shape[0]}"
            )
        if self._decisions and decision.log_probs.shape != self._decisions[0].log_probs.shape:
            raise ValueError(
                f"this rollout holds {self._decisions[0].log_probs.shape[0]} environments, got a step of "
                f"{decision.log_probs.shape[0]}; call update_policy or clear the buffer before changing"
            )
        self._decisions.append(decision)
        self._outcomes.append(outcome)

    def clear(self) -> None:
        """Forget everything."""
        self._decisions.clear()
        self._outcomes.clear()

    def next_observations(self) -> np.ndarray:
        """States the steps led to [T, N, D]."""
        return np.stack([outcome.next_observations for outcome in self._outcomes])

    def batch(self, next_values: np.ndarray, *, gamma: float, gae_lambda: float, device: torch.device) -> Batch:
        """Everything collected, as one batch for PPO.

        Args:
            next_values: V of :meth:`next_observations`, [T, N].
            gamma: discount.
            gae_lambda: of :func:`compute_gae`.
            device: where the batch goes.
        """
        values = np.stack([decision.values for decision in self._decisions]).astype(np.float64)
        advantages, returns = compute_gae(
            np.stack([outcome.rewards for outcome in self._outcomes]),
            values,
            next_values.astype(np.float64),
            np.stack([outcome.terminated for outcome in self._outcomes]),
            np.stack([outcome.truncated for outcome in self._outcomes]),
            gamma=gamma,
            gae_lambda=gae_lambda,
        )
        valid = np.stack([outcome.valid for outcome in self._outcomes])

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(array[valid], dtype=torch.float32, device=device)

        return Batch(
            tensor(np.stack([decision.observations for decision in self._decisions])),
            torch.arange(int(valid.sum()), device=device),
            tensor(np.stack([decision.pre_squash for decision in self._decisions])),
            tensor(np.stack([decision.log_probs for decision in self._decisions])),
            tensor(values),
            tensor(advantages),
            tensor(returns),
        )

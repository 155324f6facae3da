import numpy as np
import pytest
import torch

from agents.ppo.rollout import compute_gae
from agents.ppo.update import normalise


def explicit_gae(rewards, values, next_values, terminated, truncated, gamma, lam):
    """The definition: discounted sum of one-step errors up to the end of the episode."""
    steps = len(rewards)
    advantages = np.zeros(steps)
    for start in range(steps):
        weight = 1.0
        for step in range(start, steps):
            bootstrap = 0.0 if terminated[step] else gamma * next_values[step]
            advantages[start] += weight * (rewards[step] + bootstrap - values[step])
            if terminated[step] or truncated[step]:
                break
            weight *= gamma * lam
    return advantages


def test_constant_reward_has_the_closed_form():
    steps, gamma, lam = 12, 0.9, 0.8
    zeros = np.zeros((steps, 1))
    never = np.zeros((steps, 1), dtype=bool)
    advantages, returns = compute_gae(zeros + 1.0, zeros, zeros, never, never, gamma=gamma, gae_lambda=lam)
    remaining = np.arange(steps, 0, -1)
    expected = (1 - (gamma * lam) ** remaining) / (1 - gamma * lam)
    np.testing.assert_allclose(advantages[:, 0], expected)
    np.testing.assert_allclose(returns, advantages)


def test_episodes_in_parallel_match_the_definition():
    rng = np.random.default_rng(0)
    rewards, values, next_values = rng.normal(size=(3, 40, 5))
    terminated, truncated = rng.random((2, 40, 5)) < 0.1
    advantages, returns = compute_gae(rewards, values, next_values, terminated, truncated, gamma=0.97, gae_lambda=0.9)
    for lane in range(5):
        columns = (array[:, lane] for array in (rewards, values, next_values, terminated, truncated))
        np.testing.assert_allclose(advantages[:, lane], explicit_gae(*columns, 0.97, 0.9))
    np.testing.assert_allclose(returns, advantages + values)


@pytest.mark.parametrize(("terminated", "expected"), [(True, 1.0), (False, 1.0 + 0.5 * 10.0)])
def test_truncation_bootstraps_and_termination_does_not(terminated, expected):
    advantages, _ = compute_gae(
        np.array([[1.0]]),
        np.array([[0.0]]),
        np.array([[10.0]]),
        np.array([[terminated]]),
        np.array([[not terminated]]),
        gamma=0.5,
        gae_lambda=0.95,
    )
    assert advantages[0, 0] == expected


def test_a_single_advantage_is_not_normalised_to_nan():
    assert normalise(torch.tensor([3.0])).item() == 3.0
    spread = normalise(torch.tensor([1.0, 2.0, 6.0]))
    assert abs(spread.mean().item()) < 1e-6
    assert abs(spread.std().item() - 1) < 1e-5

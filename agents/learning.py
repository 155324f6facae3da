"""The two ways R-SPAR learns: from rollouts (plain PPO), and from imagined moves around a few measured ones."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch

from agents.experience import Experience, Imagination, Move, as_plan, fingerprint
from agents.lanes import lanes_of
from agents.monitor import Monitor
from agents.reward_model import RewardModel
from agents.rollout import Batch, Decision

if TYPE_CHECKING:
    from agents.rspar import RSPARAgent

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImaginationSettings:
    """Sizes of the imagined part.

    Attributes:
        moves: imagined moves for every measured plan.
        batch_size: of them a minibatch.
        epochs: passes over them.
        proposals: policy samples considered for measuring.
        refit_every: measurements between two fits of the reward model's hyper-parameters.
    """

    moves: int = 1024
    batch_size: int = 256
    epochs: int = 4
    proposals: int = 256
    refit_every: int = 8


DEFAULT_IMAGINATION = ImaginationSettings()


def learn_from_rollouts(
    agent: RSPARAgent, env: gym.Env | gym.vector.VectorEnv, total_timesteps: int, monitor: Monitor
) -> None:
    """Plain PPO: act `n_steps` in every lane, update, repeat."""
    lanes = lanes_of(env)
    observations = lanes.reset(seed=agent.config.seed + agent.num_timesteps)
    returns = np.zeros(lanes.num_lanes)
    done_steps = 0
    while done_steps < total_timesteps and not monitor.stopped:
        agent.buffer.clear()
        for _ in range(agent.config.n_steps):
            actions, _ = agent.select_action(observations)
            decision = agent.take_pending()
            step = lanes.step(actions)
            agent.buffer.add(decision, step.outcome)
            returns += np.where(step.outcome.valid, step.outcome.rewards, 0.0)
            observations = step.observations
            done_steps += lanes.num_lanes
            agent.num_timesteps += lanes.num_lanes
            monitor.advance(lanes.num_lanes)
            for lane, info in step.finished:
                monitor.episode(returns[lane], info, agent.num_timesteps)
                returns[lane] = 0.0
            if done_steps >= total_timesteps or monitor.stopped:
                break
        monitor.log(agent.update_policy(min(64, len(agent.buffer))), agent.num_timesteps)


def learn_with_imagination(
    agent: RSPARAgent, settings: ImaginationSettings, env: gym.Env, total_timesteps: int, monitor: Monitor
) -> None:
    """Practise on imagined moves, measure the most promising one, learn from the answer, repeat."""
    plans: Any = env.unwrapped
    # A seeded reset restores the environment's penalty weight, so only the very first one is seeded.
    observation, info = env.reset(seed=agent.config.seed if agent.num_timesteps == 0 else None)
    experience = _experience(agent, plans.problem, settings)
    experience.add(plans.problem, info["kept"], info["soft_accuracy"])
    if not agent.history:
        monitor.episode(0.0, info, agent.num_timesteps)
    episode_return = 0.0
    for _ in range(total_timesteps):
        if monitor.stopped:
            break
        imagination = Imagination(plans, experience, info["kept"], float(info["target_flops_reduction"]))
        monitor.log(practise(agent, settings, imagination, observation, float(info["score"])), agent.num_timesteps)
        samples = np.tanh(imagined_decisions(agent, observation, settings.proposals).pre_squash)
        action = agent.proposer.propose(imagination, samples, agent.rng)
        observation, reward, terminated, truncated, info = env.step(action)
        if not np.isfinite(reward):
            raise ValueError(f"the reward must be finite, got {reward}; check the environment's reward function")
        experience.add(plans.problem, info["kept"], info["soft_accuracy"])
        experience.moves.append(Move(as_plan(imagination.start), action, as_plan(info["kept"])))
        episode_return += float(reward)
        agent.num_timesteps += 1
        monitor.advance()
        if terminated or truncated:
            monitor.episode(episode_return, info, agent.num_timesteps)
            observation, info = env.reset()
            episode_return = 0.0


def practise(
    agent: RSPARAgent,
    settings: ImaginationSettings,
    imagination: Imagination,
    observation: np.ndarray,
    score: float,
) -> dict[str, float]:
    """A PPO update on imagined moves from here, rewarded with the believed change of the score.

    Args:
        agent: whose policy acts and learns.
        settings: how many moves, and how long to learn from them.
        imagination: where moves lead.
        observation: the current state [D].
        score: of the current plan.

    Returns:
        The update's diagnostics.
    """
    decisions = imagined_decisions(agent, observation, settings.moves)
    moves = imagination.moves(np.tanh(decisions.pre_squash))
    rewards = (imagination.scores(moves) - score).astype(np.float32)
    state_index = torch.zeros(settings.moves, dtype=torch.long, device=agent.device)
    columns = (decisions.pre_squash, decisions.log_probs, decisions.values, rewards - decisions.values, rewards)
    tensors = [torch.as_tensor(column, device=agent.device) for column in columns]
    batch = Batch(torch.as_tensor(decisions.observations[:1], device=agent.device), state_index, *tensors)
    diagnostics = agent.update_from(batch, settings.batch_size, settings.epochs)
    return diagnostics | {"imagined/reward_mean": float(rewards.mean())}


@torch.no_grad()
def imagined_decisions(agent: RSPARAgent, observation: np.ndarray, count: int) -> Decision:
    """Many samples of the policy in one state; the networks run once.

    Args:
        agent: whose policy acts.
        observation: the state [D].
        count: how many samples.
    """
    state = torch.as_tensor(observation, dtype=torch.float32, device=agent.device)[None]
    policy, value = agent.network.policy(state), agent.network.value(state)
    noise = torch.randn((count, agent.num_layers), generator=agent.generator).to(agent.device)
    pre_squash = policy.sample(noise)
    return Decision(
        state.expand(count, -1).cpu().numpy(),
        pre_squash.cpu().numpy(),
        policy.log_prob(pre_squash).cpu().numpy(),
        value.expand(count).cpu().numpy(),
    )


def _experience(agent: RSPARAgent, problem: Any, settings: ImaginationSettings) -> Experience:
    """The agent's measurements of this problem; another problem's are dropped."""
    identity = fingerprint(problem)
    if agent.experience is None or agent.experience.fingerprint != identity:
        if agent.experience is not None:
            logger.info(
                "another pruning problem: the %d plans measured before are dropped", len(agent.experience.plans)
            )
            agent.history.clear()
        agent.experience = Experience(identity, RewardModel(settings.refit_every))
    return agent.experience

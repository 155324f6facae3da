"""The two ways R-SPAR learns: from rollouts (plain PPO), and from imagined moves around a few measured ones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch

from agents.amortised.model import KnownNetwork
from agents.interface.monitor import Monitor
from agents.interface.protocol import PlannableEnv, bounded, finite_reward, plannable, target_of
from agents.model.acquisition import eligible
from agents.model.experience import Experience, Move, as_plan, fingerprint
from agents.model.imagination import Imagination
from agents.model.reward_model import Prior, RewardModel
from agents.ppo.rollout import Batch, Decision, joined
from agents.ppo.update import normalise
from agents.ppo.vectorized import lanes_of
from agents.rspar.other_targets import State, states_at_other_targets
from agents.rspar.state import ImaginationSettings, LearnerState

logger = logging.getLogger(__name__)


def learn_from_rollouts(
    agent: LearnerState, env: gym.Env | gym.vector.VectorEnv, total_timesteps: int, monitor: Monitor
) -> None:
    """Plain PPO: act `n_steps` in every lane, update, repeat."""
    lanes = lanes_of(env)
    observations = lanes.reset(agent.reset_seed)
    returns = np.zeros(lanes.num_lanes)
    last = agent.num_timesteps + total_timesteps
    while agent.num_timesteps < last and not monitor.stopped:
        agent.buffer.clear()
        for _ in range(agent.config.n_steps):
            decision = agent.decide(observations)
            step = lanes.step(np.tanh(decision.pre_squash))
            agent.buffer.add(decision, step.outcome)
            returns += np.where(step.outcome.valid, step.outcome.rewards, 0.0)
            observations = step.observations
            agent.num_timesteps += lanes.num_lanes
            monitor.advance(lanes.num_lanes)
            for lane, info in step.finished:
                monitor.episode(returns[lane], info, agent.num_timesteps)
                returns[lane] = 0.0
            if agent.num_timesteps >= last or monitor.stopped:
                break
        monitor.log(agent.update_policy(min(64, len(agent.buffer))), agent.num_timesteps)


def learn_with_imagination(
    agent: LearnerState,
    settings: ImaginationSettings,
    env: gym.Env,
    total_timesteps: int,
    monitor: Monitor,
    batch_size: int = 1,
) -> None:
    """Practise on imagined moves, measure the most promising ones, learn from the answers, repeat."""
    plans = plannable(env)
    observation, info = _first_reset(agent, env)
    experience = _experience(agent, plans, settings)
    carried = (agent.num_updates > 0 or agent.known is not None) and not experience.moves
    if not agent.history:
        monitor.episode(0.0, info, agent.num_timesteps)
    episode_return, over = 0.0, False
    chosen: list[np.ndarray] = []
    for step in range(total_timesteps):
        if monitor.stopped:
            break
        if over:
            # A batch is chosen for one target, which its episodes keep.
            observation, info = env.reset(options={"target": target_of(info)}) if chosen else env.reset()
            episode_return = 0.0
        else:
            chosen.clear()
        experience.absorb(plans)
        imagination = Imagination(plans, experience, info["kept"], target_of(info))
        if carried:
            chosen, carried = first_moves(agent, imagination, observation), False
        if not chosen:
            states = [State(observation, imagination, float(info["score"]))]
            met = [imagination.target, *(target_of(record) for record in agent.history)]
            states += states_at_other_targets(plans, experience, met, settings.other_targets, agent.rng)
            monitor.log(practise(agent, settings, states), agent.num_timesteps)
            samples = np.tanh(imagined_decisions(agent, observation, settings.proposals).pre_squash)
            if len(set(met)) == 1:
                samples = np.concatenate([samples, broad_moves(agent, settings.broad)])
            count = min(batch_size, total_timesteps - step) if getattr(plans, "horizon", 1) == 1 else 1
            chosen = choose_batch(agent, imagination, samples, count)
        action = chosen.pop(0)
        observation, reward, terminated, truncated, info = env.step(action)
        gain = finite_reward(reward)
        experience.moves.append(Move(as_plan(imagination.start), action, as_plan(info["kept"])))
        episode_return += gain
        agent.num_timesteps += 1
        monitor.advance()
        over = terminated or truncated
        if over:
            monitor.episode(episode_return, info, agent.num_timesteps)
    experience.absorb(plans)


def first_moves(agent: LearnerState, imagination: Imagination, observation: np.ndarray) -> list[np.ndarray]:
    """The move of an agent that learned elsewhere, before anything but the start plan is measured here.

    With an amortised model it leads to the plan that the model expects to lose least.

    Returns:
        The action [L], or nothing where it leads to no new plan on the target.
    """
    if agent.known is None:
        return carried_over(agent, imagination, observation)
    return list(eligible(imagination, known_move(agent.known, imagination)[None]).actions)


def known_move(known: KnownNetwork, imagination: Imagination) -> np.ndarray:
    """The action [L] towards the plan on the target that an amortised model expects to lose least."""
    env = bounded(imagination.env)
    plan = known.plan(imagination.target, cast(Any, env.cost), env.limits)
    step = (env.limits.logits(plan) - env.limits.logits(imagination.start)) / env.action_scale
    return np.clip(step, -1.0, 1.0).astype(np.float32)


def carried_over(agent: LearnerState, imagination: Imagination, observation: np.ndarray) -> list[np.ndarray]:
    """The first move of a policy that was trained elsewhere: its own, before learning here changes it.

    Args:
        agent: whose policy acts.
        imagination: where moves lead.
        observation: the first state [D].

    Returns:
        The action [L], or nothing where it leads to no new plan on the target.
    """
    action, _ = agent.predict(observation, deterministic=True)
    return list(eligible(imagination, action[None]).actions)


def broad_moves(agent: LearnerState, count: int) -> np.ndarray:
    """Normal moves as wide as the agent's first ones, whatever its policy has learned: float32 [count, L]."""
    moves = agent.rng.normal(0.0, agent.config.initial_std, (count, agent.num_layers))
    return np.clip(moves, -1.0, 1.0).astype(np.float32)


def choose_batch(agent: LearnerState, imagination: Imagination, samples: np.ndarray, count: int) -> list[np.ndarray]:
    """Moves to measure side by side: each is chosen on fantasies of those before it, at their expected scores.

    This is the kriging believer of Ginsbourger, Le Riche & Carraro (2010).

    Args:
        agent: whose proposer chooses.
        imagination: where moves lead.
        samples: of the policy [N, L].
        count: how many moves; fewer where no more new plans are in reach.

    Returns:
        Actions [L], at least one.
    """
    actions = [agent.proposer.propose(imagination, samples, agent.rng)]
    if count == 1:
        return actions
    plans = [as_plan(imagination.moves(actions[0][None]).kept[0])]
    while len(actions) < count:
        imagination = imagination.fantasize(actions[-1])
        action = agent.proposer.propose(imagination, samples, agent.rng)
        plan = as_plan(imagination.moves(action[None]).kept[0])
        if plan in imagination.experience.plans:
            break
        actions.append(action)
        plans.append(plan)
    imagination.env.problem.prefetch(plans)
    return actions


def practise(agent: LearnerState, settings: ImaginationSettings, states: Sequence[State]) -> dict[str, float]:
    """A PPO update on imagined one-move episodes, rewarded with the believed change of the score.

    Advantages are brought to the same scale in every state: what a move can gain differs greatly between targets.

    Args:
        agent: whose policy acts and learns.
        settings: how many moves, and how long to learn from them.
        states: where the moves start; each gets the same share of them.

    Returns:
        The update's diagnostics.
    """
    batches = [_imagined_batch(agent, state, settings.moves // len(states)) for state in states]
    batch = joined(batches)
    diagnostics = agent.update_from(batch, min(settings.batch_size, len(batch)), settings.epochs)
    return diagnostics | {"imagined/reward_mean": float(batches[0].returns.mean())}


def _imagined_batch(agent: LearnerState, state: State, count: int) -> Batch:
    """Imagined moves from one state."""
    decisions = imagined_decisions(agent, state.observation, count)
    moves = state.imagination.moves(np.tanh(decisions.pre_squash))
    rewards = (state.imagination.scores(moves) - state.score).astype(np.float32)
    columns = (decisions.pre_squash, decisions.log_probs, decisions.values, rewards - decisions.values, rewards)
    pre_squash, log_probs, values, advantages, returns = (
        torch.as_tensor(column, device=agent.device) for column in columns
    )
    observation = torch.as_tensor(decisions.observations, device=agent.device)
    index = torch.zeros(count, dtype=torch.long, device=agent.device)
    return Batch(observation, index, pre_squash, log_probs, values, normalise(advantages), returns)


@torch.no_grad()
def imagined_decisions(agent: LearnerState, observation: np.ndarray, count: int) -> Decision:
    """Many samples of the policy in one state; the networks run once.

    Args:
        agent: whose policy acts.
        observation: the state [D].
        count: how many samples.

    Returns:
        A decision with one observation and `count` actions.
    """
    state = torch.as_tensor(observation, dtype=torch.float32, device=agent.device)[None]
    policy, value = agent.network.policy(state), agent.network.value(state)
    noise = torch.randn((count, agent.num_layers), generator=agent.generator).to(agent.device)
    pre_squash = policy.sample(noise)
    return Decision(
        state.cpu().numpy(),
        pre_squash.cpu().numpy(),
        policy.log_prob(pre_squash).cpu().numpy(),
        value.expand(count).cpu().numpy(),
    )


def _experience(agent: LearnerState, plans: PlannableEnv, settings: ImaginationSettings) -> Experience:
    """The agent's measurements of this problem; of another one's, what the reward model learned from them stays."""
    identity, before = fingerprint(plans), agent.experience
    agent.known = None if agent.amortised is None else agent.amortised.at(cast(Any, plans.problem))
    if before is not None and before.fingerprint == identity:
        if agent.known is not None:
            before.model.prior = agent.known
        return before
    prior: Prior | None = agent.known
    if before is not None:
        logger.info("another problem: %d measured plans and the history are dropped", len(before.plans))
        agent.history.clear()
        if prior is None and len(before.model):
            prior = before.model
    agent.experience = Experience(identity, RewardModel(settings.refit_every, prior))
    return agent.experience


def _first_reset(agent: LearnerState, env: gym.Env) -> tuple[np.ndarray, dict[str, Any]]:
    """Begin, or go on where an earlier process stopped.

    An environment that does not know the plans measured before is told them, and repeats the last move (which is then
    free), because its penalty weight depends on the plan before.
    """
    plans, experience = plannable(env), agent.experience
    if experience is None or experience.fingerprint != fingerprint(plans) or not experience.restore_archive(plans):
        return env.reset(seed=agent.reset_seed)
    if experience.moves and agent.history:
        _, info = env.reset(options={"target": target_of(agent.history[-1])})
        if as_plan(info["kept"]) == experience.moves[-1].start:
            env.step(experience.moves[-1].action)
    return env.reset()

import numpy as np
import pytest

from agents import RSPARAgent
from agents.model.acquisition import ExpectedImprovement, Proposer
from agents.model.experience import Experience, fingerprint
from agents.model.reward_model import RewardModel
from agents.rspar.other_targets import ImaginedFidelity, states_at_other_targets
from agents.rspar.state import ImaginationSettings
from prune_gym.envs.fidelity import Fidelity
from tests.agents.synthetic import FEATURES, SyntheticPruning
from tests.prune_gym.tiny import make_tiny_env


def measured(env, count: int) -> Experience:
    experience = Experience(fingerprint(env), RewardModel())
    env.reset(seed=0)
    for seed in range(count):
        env.reset()
        env.step(np.random.default_rng(seed).uniform(-0.4, 0.4, env.action_space.shape).astype(np.float32))
    experience.absorb(env)
    return experience


def test_states_at_other_targets_are_believed_not_measured():
    env = make_tiny_env(constraint="hard").unwrapped
    experience = measured(env, 6)
    plans, observation, state = dict(env.archive), env.kept, env.np_random.bit_generator.state
    states = states_at_other_targets(env, experience, [0.4, 0.6, 0.5], 8, np.random.default_rng(0))

    assert env.archive == plans
    assert env.np_random.bit_generator.state == state
    np.testing.assert_array_equal(env.kept, observation)
    assert env.fidelity == "measured"
    targets = [state.imagination.target for state in states]
    assert len(set(targets)) > 3
    assert min(targets) >= 0.4
    assert max(targets) <= 0.6
    for state in states:
        assert state.observation[env.layout.slices["target_flops_reduction"]] == pytest.approx(state.imagination.target)
        moves = state.imagination.moves(np.zeros((1, len(env.kept))))
        assert state.imagination.scores(moves)[0] == pytest.approx(state.score)
        assert state.imagination.meets_target(moves.reductions).all() or moves.reductions[0] >= state.imagination.target


def test_one_target_has_no_others():
    env = SyntheticPruning()
    experience = measured(env, 3)
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    assert states_at_other_targets(env, experience, [0.8, 0.8], 7, generator) == []
    assert states_at_other_targets(env, experience, [0.7, 0.8], 0, generator) == []
    assert generator.bit_generator.state == before


def test_the_imagined_fidelity_is_one_an_environment_takes():
    env = make_tiny_env().unwrapped
    experience = measured(env, 4)
    imagined = env.fork(fidelity=ImaginedFidelity(experience))
    assert isinstance(ImaginedFidelity(experience), Fidelity)
    assert imagined.fidelity == "imagined"
    before = len(env.archive)
    _, info = imagined.reset(seed=1)
    _, _, _, _, after = imagined.step(np.full(env.action_space.shape, 0.3, dtype=np.float32))
    assert len(env.archive) == before
    assert 0 < after["soft_accuracy"] < 1
    assert info["soft_accuracy"] == info["accuracy"]


def test_the_policy_knows_targets_between_those_it_was_asked_for():
    """Asked for two targets only, it acts well at a third; and no worse than without practice there."""
    gains = {}
    for others in (0, 7):
        agent = RSPARAgent(8, FEATURES, hidden_dim=32, imagination=ImaginationSettings(other_targets=others))
        agent.learn(SyntheticPruning(targets=(0.6, 0.8)), 64)
        env = SyntheticPruning(targets=(0.7,))
        observation, _ = env.reset(seed=0)
        action, _ = agent.predict(observation, deterministic=True)
        gains[others] = env.step(action)[1]
    assert gains[7] > 0
    assert gains[7] > gains[0] - 0.01


@pytest.mark.parametrize(("targets", "considered"), [((), 256 + 40), ((0.7, 0.8), 256)])
def test_broad_moves_are_considered_where_there_is_one_target(targets, considered):
    seen = []

    class Looking(Proposer):
        def propose(self, imagination, policy_actions, rng):
            seen.append(policy_actions)
            return super().propose(imagination, policy_actions, rng)

    settings = ImaginationSettings(broad=40)
    agent = RSPARAgent(
        8, FEATURES, hidden_dim=16, imagination=settings, proposer=Looking(ExpectedImprovement()), initial_std=0.4
    )
    agent.learn(SyntheticPruning(targets=targets), 12)
    assert len(seen[-1]) == considered
    assert all(np.abs(actions).max() <= 1 and actions.dtype == np.float32 for actions in seen)
    if not targets:
        assert seen[-1][256:].std() == pytest.approx(0.4, rel=0.2)

import math

import numpy as np
import torch

from agents.ppo.networks import ActorCritic, SquashedGaussian, observation_size


def test_density_of_an_action_integrates_to_one():
    policy = SquashedGaussian(torch.tensor([0.4], dtype=torch.float64), torch.tensor([-0.3], dtype=torch.float64))
    actions = torch.linspace(-1, 1, 200_002, dtype=torch.float64)[1:-1]
    density = policy.log_prob(torch.atanh(actions)[:, None]).exp()
    assert abs(torch.trapezoid(density, actions).item() - 1) < 1e-4


def test_log_prob_is_that_of_torchs_transformed_normal():
    generator = torch.Generator().manual_seed(0)
    mean, log_std, noise = torch.randn(3, 50, 4, dtype=torch.float64, generator=generator)
    policy = SquashedGaussian(mean, log_std)
    pre_squash = policy.sample(noise)
    peer = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_std.exp()), torch.distributions.TanhTransform(cache_size=1)
    )
    actions = peer.transforms[0](pre_squash)
    torch.testing.assert_close(policy.log_prob(pre_squash), peer.log_prob(actions).sum(-1))


def test_saturated_actions_keep_a_finite_exact_log_prob():
    policy = SquashedGaussian(torch.zeros(1), torch.zeros(1))
    pre_squash = torch.tensor([30.0])
    exact = -0.5 * 900 - 0.5 * math.log(2 * math.pi) - (2 * math.log(2) - 60)
    assert torch.tanh(pre_squash).item() == 1.0
    assert abs(policy.log_prob(pre_squash).item() - exact) < 1e-3


def test_first_policy_stays_at_the_start_plan_with_modest_spread():
    network = ActorCritic(3, 32, 0.3, torch.Generator().manual_seed(1))
    observations = torch.randn(20, observation_size(7, 3), generator=torch.Generator().manual_seed(2))
    policy = network.policy(observations)
    assert policy.mean.abs().max() < 0.05
    np.testing.assert_allclose(policy.log_std.exp().detach(), 0.3, rtol=0.05)


def test_layers_are_treated_alike_and_see_each_other():
    layers, features = 5, 3
    network = ActorCritic(features, 32, 0.3, torch.Generator().manual_seed(1))
    rng = np.random.default_rng(0)
    rows, ratios, rest = rng.normal(size=(layers, features)), rng.random(layers), rng.random(5)

    def mean(rows, ratios):
        flat = np.concatenate([rows.ravel(), ratios, rest])
        return network.policy(torch.as_tensor(flat, dtype=torch.float32)).mean.detach().numpy()

    order = rng.permutation(layers)
    before = mean(rows, ratios)
    np.testing.assert_allclose(mean(rows[order], ratios[order]), before[order], atol=1e-6)
    rows[0] += 1.0
    assert np.abs(mean(rows, ratios) - before)[1:].min() > 1e-6

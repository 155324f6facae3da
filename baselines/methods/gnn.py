"""GNN-Pruning: a graph network reads the computational graph, PPO chooses layer rates (Yu et al., ICML 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from baselines.methods.network_graph import NUM_FEATURES, NetworkGraph, network_graph
from baselines.workshop.registry import register
from baselines.workshop.removal import keep_best
from baselines.workshop.workbench import Outcome, Scorer, Workbench
from hessian.patches.filter_norms import filter_norms
from prune_gym.cost.limits import FloatArray, IntArray

CLIP_RANGE, EPOCHS, GAMMA, STD = 0.2, 10, 0.99, 0.5
MAX_STEPS, LEAST_SHARE = 5, 0.1
EMBEDDING, HIDDEN = 50, 200


@register("gnn", "GNN-Pruning: graph embedding of the network, PPO over layer rates")
def gnn_prune(
    bench: Workbench,
    *,
    episodes: int = 100,
    episodes_per_update: int = 10,
    lr: float = 3e-4,
) -> Outcome:
    """GNN-RL (Yu, Mazaheri & Jannesari, ICML 2022).

    "Topology-Aware Network Pruning using Multi-stage Graph Embedding and Reinforcement Learning". The state is the
    network's hierarchical computational graph with the shares of channels still there. Graph convolutions embed
    operations, averages over blocks become the nodes of a second graph, and its embedding feeds the actor and the
    critic. A step's action holds a ratio for every layer, a Gaussian around the actor's tanh with standard deviation
    0.5, and takes that much of what is left (never below a tenth; a negative ratio gives back); steps go on until the
    target is met, five at most. Filters go by their L2 norm, and the reward of an episode, at its end, is the accuracy
    in percent minus 100 on the validation images, without any repair or fine-tuning. PPO: clip 0.2, 10 epochs an
    update, gamma 0.99, learning rate 3e-4, advantages are standardised returns minus the critic's value. Embeddings
    have 50 numbers, the actor's hidden layer 200. All of this is the authors' (their code, CIFAR-10). The best plan of
    all episodes is returned.

    Deviations:

    - Blocks are the modules that hold operations directly, where the authors write the hierarchy down for every
      architecture. Operations are nodes with features of their own, where the authors' are edges between feature maps
      of random features, drawn anew every step. Graph convolutions are plain torch, without dropout.
    - An update looks at every state; the authors' encoder returns the first state's embedding for all of them.
    - Candidates are what surgery leaves. The authors' are masked convolution by convolution, so that the filters of a
      residual stream need not agree and batch norms still shift what is masked. In their CIFAR ResNets the streams of
      all stages have one ratio, here every layer has its own.
    - The end of an episode is moved onto the target by one common shift in logit space, so that episodes are
      comparable: the authors accept any overshoot, and pay -100 for a target missed after five steps.
    - The reward is top-1 accuracy; theirs on ImageNet is top-5. Their entropy bonus is left out: at a fixed deviation
      it has no gradient.
    - An update every 10 episodes where theirs is every 100 steps; 100 episodes where they search for up to 15,000.

    Args:
        bench: the workbench.
        episodes: plans measured.
        episodes_per_update: episodes between two updates of the policy.
        lr: learning rate of Adam.

    Raises:
        ValueError: fewer than one episode, in all or an update.
    """
    if episodes < 1 or episodes_per_update < 1:
        raise ValueError(f"episodes and episodes_per_update are at least 1; got {episodes} and {episodes_per_update}")
    game = _Game(bench)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(bench.seed)
        agent = Agent(game.graph, len(bench.groups), lr)
        batch: list[Episode] = []
        for number in range(1, episodes + 1):
            batch.append(game.play(agent))
            bench.report("episodes", number, episodes)
            if len(batch) == episodes_per_update:
                agent.update(batch)
                batch = []
    best = max(range(episodes), key=game.rewards.__getitem__)
    return Outcome(keep_best(game.scores, game.plans[best]), details={"rewards": game.rewards})


@dataclass(frozen=True, eq=False)
class Episode:
    """One episode of T steps.

    Attributes:
        states: [T, N, F].
        actions: [T, L].
        log_probs: [T], of the policy that acted.
        reward: at the end.
    """

    states: Tensor
    actions: Tensor
    log_probs: Tensor
    reward: float


class _Game:
    """Prunes all layers a little a step until the target is met."""

    def __init__(self, bench: Workbench) -> None:
        self.graph = network_graph(bench.dense, bench.groups, bench.cost)
        self.scores = [filter_norms(group, bench.modules) for group in bench.groups]
        self.rewards: list[float] = []
        self.plans: list[IntArray] = []
        self._target, self._scorer = bench.target, Scorer(bench)
        self._least = np.maximum(bench.target.limits.minimum / bench.target.limits.units, LEAST_SHARE)

    def play(self, agent: Agent) -> Episode:
        shares: FloatArray = np.ones(len(self._least))
        units = self._target.limits.units
        states, actions, log_probs = [], [], []
        for _ in range(MAX_STEPS):
            states.append(self.graph.features(shares))
            action, log_prob = agent.act(states[-1])
            actions.append(action)
            log_probs.append(log_prob)
            shares = np.clip(shares * (1.0 - action.double().numpy()), self._least, 1.0)
            if self._target.reached(self._target.limits.round(shares * units)):
                break
        kept = self._target.project(1.0 - shares)
        reward = 100.0 * self._scorer.accuracy(keep_best(self.scores, kept)) - 100.0
        self.rewards.append(reward)
        self.plans.append(kept)
        return Episode(torch.stack(states), torch.stack(actions), torch.stack(log_probs), reward)


class Encoder(nn.Module):
    """A graph convolution over operations, pooled into blocks, another over blocks, pooled into one vector.

    Args:
        graph: structure of the network.
    """

    def __init__(self, graph: NetworkGraph) -> None:
        super().__init__()
        self._graph = graph
        self.first, self.inner = nn.Linear(NUM_FEATURES, EMBEDDING), nn.Linear(EMBEDDING, EMBEDDING)
        self.second, self.outer = nn.Linear(EMBEDDING, EMBEDDING), nn.Linear(EMBEDDING, EMBEDDING)

    def forward(self, states: Tensor) -> Tensor:
        """States [T, N, F] -> embeddings [T, EMBEDDING]."""
        x = torch.tanh(self._graph.operations @ self.first(states))
        x = torch.tanh(self.inner(self._graph.membership @ x))
        x = torch.tanh(self._graph.blocks @ self.second(x))
        return torch.tanh(self.outer(x.mean(dim=1)))


class Agent(nn.Module):
    """Actor and critic, each with an encoder of its own, and PPO.

    Args:
        graph: structure of the network.
        num_layers: L, the size of an action.
        lr: learning rate.
    """

    def __init__(self, graph: NetworkGraph, num_layers: int, lr: float) -> None:
        super().__init__()
        head = (nn.Linear(EMBEDDING, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, num_layers), nn.Tanh())
        self.actor = nn.Sequential(Encoder(graph), *head)
        self.critic = nn.Sequential(Encoder(graph), nn.Linear(EMBEDDING, 1), nn.Tanh())
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr)

    @torch.no_grad()
    def act(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Sample an action [L] in a state [N, F], with its log-probability."""
        policy = Normal(self.actor(state[None])[0], STD)
        action = policy.sample()
        return action, policy.log_prob(action).sum()

    def update(self, batch: list[Episode]) -> None:
        """PPO with the clipped surrogate (Schulman et al., 2017) on whole episodes."""
        states = torch.cat([episode.states for episode in batch])
        actions = torch.cat([episode.actions for episode in batch])
        old = torch.cat([episode.log_probs for episode in batch])
        # The reward comes last, so a step's return is the reward discounted by the steps that follow it.
        returns = torch.cat(
            [episode.reward * GAMMA ** torch.arange(len(episode.actions) - 1, -1, -1.0) for episode in batch]
        )
        returns = (returns - returns.mean()) / (returns.std(unbiased=False) + 1e-8)
        for _ in range(EPOCHS):
            ratio = (Normal(self.actor(states), STD).log_prob(actions).sum(dim=1) - old).exp()
            values = self.critic(states)[:, 0]
            advantages = returns - values.detach()
            surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP_RANGE, 1 + CLIP_RANGE) * advantages)
            loss = -surrogate.mean() + 0.5 * (values - returns).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

"""The ways to prune, by name: what ``pruning.method`` and ``--method`` accept.

A :class:`Method` searches for budgets on the environment and leaves selection and repair to H-OBS. Published methods
(:mod:`baselines`) do everything themselves, under the names of their own registry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from agents import RSPARAgent
    from benchmarks.settings.schema import PruningConfig, RSPARConfig
    from prune_gym.envs.hobs_prune import HOBSPruneEnv

Record = dict[str, Any]


class Search(Protocol):
    """A search for budgets: anything that learns on the environment and reports every episode."""

    def learn(self, env: Any, total_timesteps: int, callback: Callable[[Record], bool | None] | None = None) -> object:
        """Take ``total_timesteps`` moves in ``env`` and call ``callback`` with a record of every episode."""
        ...


@dataclass(frozen=True)
class Method:
    """A way to find budgets.

    Attributes:
        name: what users write.
        summary: one line for listings.
        build: makes the search for an environment, a configuration and a seed.
        start: the environment's start plan, ``"knapsack"`` or ``"uniform"``.
        searches: whether it looks at plans besides the start plan, ``rspar.num_episodes`` of them.
        fidelity: what those plans score: ``"measured"``, or ``"predicted"`` from the loss curves, where only the best
            one and the start plan are measured in the end and the better of the two is taken.
    """

    name: str
    summary: str
    build: Callable[[HOBSPruneEnv, PruningConfig, int], Search]
    start: str = "knapsack"
    searches: bool = True
    fidelity: Literal["measured", "predicted"] = "measured"

    def num_episodes(self, config: PruningConfig) -> int:
        """Return how many episodes the search gets."""
        return config.rspar.num_episodes if self.searches else 0


def _rspar(env: HOBSPruneEnv, config: PruningConfig, seed: int) -> Search:
    from agents import RSPARAgent

    layout, settings = env.layout, config.rspar
    if settings.initial_agent is not None:
        return load_agent(settings, layout.num_layers, layout.feature_dim, seed)
    return RSPARAgent(
        num_layers=layout.num_layers,
        layer_feature_dim=layout.feature_dim,
        hidden_dim=settings.hidden_dim,
        lr=settings.learning_rate,
        gamma=settings.gamma,
        seed=seed,
    )


def load_agent(settings: RSPARConfig, num_layers: int, feature_dim: int, seed: int) -> RSPARAgent:
    """Read the agent a configuration goes on from.

    Args:
        settings: with an ``initial_agent``.
        num_layers: L of the network that is pruned.
        feature_dim: features a layer it is observed by.
        seed: of what is drawn from now on.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no agent's file, or one of other features or another width.
    """
    from agents import RSPARAgent

    assert settings.initial_agent is not None
    return RSPARAgent.load(
        settings.initial_agent.expanduser(),
        num_layers,
        layer_feature_dim=feature_dim,
        hidden_dim=settings.hidden_dim,
        lr=settings.learning_rate,
        gamma=settings.gamma,
        seed=seed,
    )


def _control(name: str) -> Callable[[HOBSPruneEnv, PruningConfig, int], Search]:
    """Builds a search by its name among the agents."""

    def build(env: HOBSPruneEnv, config: PruningConfig, seed: int) -> Search:
        from agents.registry import create

        return create(name, env, seed)

    return build


def _predicted(name: str, summary: str) -> Method:
    """A search at predicted fidelity; none of a model, which would learn the predictions by heart."""
    return Method(f"predicted-{name}", f"{summary}, on predicted scores", _control(name), fidelity="predicted")


METHODS = {
    method.name: method
    for method in (
        Method("hobs-rspar", "R-SPAR: PPO with a learned reward model, from the knapsack plan", _rspar),
        Method(
            "hobs-knapsack", "the knapsack solution of the predicted loss curves", _control("knapsack"), searches=False
        ),
        Method(
            "hobs-uniform", "the same pruning ratio everywhere", _control("uniform"), start="uniform", searches=False
        ),
        Method("hobs-gp", "Gaussian-process search with expected improvement", _control("gp")),
        Method("hobs-cmaes", "covariance matrix adaptation", _control("cmaes")),
        Method("hobs-cem", "the cross-entropy method", _control("cem")),
        Method("hobs-annealing", "simulated annealing", _control("annealing")),
        Method("random", "random moves from the knapsack plan, the best measured one", _control("random")),
        _predicted("random", "random moves"),
        _predicted("cem", "the cross-entropy method"),
        _predicted("cmaes", "covariance matrix adaptation"),
        _predicted("annealing", "simulated annealing"),
    )
}


def method_names() -> list[str]:
    """Return the names of all methods, searches first."""
    import baselines

    return [*METHODS, *baselines.available()]

"""The ways to prune, by name: what ``pruning.method`` and ``--method`` accept.

A :class:`Method` searches for budgets on the environment and leaves selection and repair to H-OBS. Published methods
(:mod:`baselines`) do everything themselves, under the names of their own registry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from benchmarks.config import PruningConfig
    from prune_gym.env import HOBSPruneEnv

Record = dict[str, Any]


class Search(Protocol):
    """What finds budgets: anything that learns on the environment and reports every episode."""

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

    return RSPARAgent(
        num_layers=env.layout.num_layers,
        layer_feature_dim=env.layout.feature_dim,
        hidden_dim=config.rspar.hidden_dim,
        lr=config.rspar.learning_rate,
        gamma=config.rspar.gamma,
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

"""A network of the bench as a pruning problem: what environments and agents ask, answered from arrays."""

from __future__ import annotations

import functools
import os
from typing import Any, NoReturn

from prune_gym.allocation.loss_curves import LossCurves
from prune_gym.bench.cost import BenchCost
from prune_gym.bench.networks import BenchNetwork, bench_network, digest
from prune_gym.bench.surrogate import Surrogate
from prune_gym.cost.budgeted import BudgetedCost
from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.measuring.evaluation import Evaluation
from prune_gym.problem.features import FEATURES, FeatureSet, standardised
from prune_gym.problem.predictions import PredictedPlans

PREFIX = "bench/"
"""Beginning of the names of tasks that are networks of the bench."""


class NoNetworkError(ValueError):
    """A network of the bench was asked for what only a real network can do."""


class BenchProblem(PredictedPlans):
    """A network of the bench with its costs, predicted losses and surrogate; there is no network, and no data.

    It answers as :class:`prune_gym.problem.problem.PruningProblem` does, but for what needs weights or images.

    Args:
        network: of the bench.

    Attributes:
        network: as given.
        name: ``"bench/NAME"``.
        cost: FLOPs and parameters.
        default_target: FLOPs reduction asked for where no other is.
        dense: scores of the unpruned network on the reward split.
    """

    cost: BenchCost

    def __init__(self, network: BenchNetwork) -> None:
        super().__init__()
        self.network = network
        self.name = PREFIX + network.name
        self.default_target = network.description.default_target
        self.cost = BenchCost(network.description.layer_names, network.units, network.flops_form, network.params_form)
        self.dense = Evaluation(*network.dense[:3].tolist())
        self._losses = LossCurves(network.curves)
        self._features: dict[FeatureSet, FloatArray] = {}

    @classmethod
    def named(cls, task: str, path: str | os.PathLike[str] | None = None) -> BenchProblem:
        """The problem of a task ``"bench/NAME"``.

        Args:
            task: its name.
            path: file of the networks, see :func:`prune_gym.bench.networks.load_networks`.

        Raises:
            KeyError: no such network.
        """
        return cls.shared(task.removeprefix(PREFIX), path)

    @staticmethod
    def shared(name: str, path: str | os.PathLike[str] | None = None) -> BenchProblem:
        """The problem of a network, one object for all who ask: start plans are computed once a process.

        Raises:
            KeyError: no such network.
        """
        return _problem(bench_network(name, path))

    @property
    def layer_names(self) -> list[str]:
        """Names of the layers, in execution order."""
        return list(self.network.description.layer_names)

    @property
    def num_layers(self) -> int:
        """Number of prunable layers L."""
        return self.network.num_layers

    def load(self) -> BenchProblem:
        """Itself: everything is there."""
        return self

    @property
    def is_loaded(self) -> bool:
        """True: everything is there."""
        return True

    def features_of(self, features: FeatureSet) -> FloatArray:
        """Features of the layers, float64 [L, F]; not to be modified.

        Raises:
            NoNetworkError: features beyond the default ones.
        """
        for name in features.names:
            if name not in FEATURES:
                raise NoNetworkError(f"the bench has no feature {name!r} of {self.name}; it has {', '.join(FEATURES)}")
        if features not in self._features:
            columns = [FEATURES.index(name) for name in features.names]
            self._features[features] = standardised(self.network.features[:, columns])
        return self._features[features]

    @property
    def params_cost(self) -> BudgetedCost:
        """Parameters of plans as a cost that a target can limit."""
        return self.cost.params_cost

    def latency_cost(self) -> NoReturn:
        """Refused: no table of the bench has latencies.

        Raises:
            NoNetworkError: always.
        """
        self.refuse("measure latency")

    # ------------------------------------------------------------------ predictions

    @property
    def losses(self) -> LossCurves:
        """Predicted losses of every layer."""
        return self._losses

    def predicted_metrics(self, kept: IntArray) -> FloatArray:
        """Accuracy, soft accuracy and loss by the predicted losses alone: kept int [..., L] -> float64 [..., 3]."""
        return self.surrogate.predicted(self.log_predicted_loss(kept))

    @property
    def surrogate(self) -> Surrogate:
        """The fitted map from plans to what they are expected to measure.

        Raises:
            ValueError: the file has none for this network.
        """
        if self.network.surrogate is None:
            raise ValueError(f"the bench has no surrogate for {self.name}: too few of its plans were measured")
        return self.network.surrogate

    def surrogate_metrics(self, kept: IntArray) -> FloatArray:
        """Accuracy, soft accuracy and loss by the surrogate: kept int [..., L] -> float64 [..., 3]."""
        return self.surrogate.predict(kept)

    @property
    def latency_table(self) -> NoReturn:
        """Refused: no table of the bench has latencies.

        Raises:
            NoNetworkError: always.
        """
        self.refuse("measure latency")

    # ------------------------------------------------------------------ what a table cannot do

    def prefetch(self, plans: Any) -> None:
        """Nothing: no plan is measured."""

    @property
    def hobs(self) -> NoReturn:
        """Refused: there is no network to name channels of.

        Raises:
            NoNetworkError: always.
        """
        self.refuse("name channels")

    @property
    def evaluator(self) -> NoReturn:
        """Refused: there is no network to measure or export.

        Raises:
            NoNetworkError: always.
        """
        self.refuse("measure or export plans")

    def refuse(self, what: str, instead: str = "") -> NoReturn:
        """Say that only a real network can do something, and which task has it.

        Args:
            what: that cannot be done, a verb first.
            instead: what can be done here.

        Raises:
            NoNetworkError: always.
        """
        family = f"task 'family/{self.network.name}' trains it and does"
        raise NoNetworkError(f"{self.name} is a table and has no network to {what}{instead}; {family}")

    @property
    def measurement_key(self) -> str:
        """Digest of what decides what plans score here."""
        return self.network_key

    @property
    def network_key(self) -> str:
        """Digest of the network's arrays and description."""
        return digest(self.network.arrays(), {"description": self.network.description.model_dump_json()})


@functools.lru_cache(maxsize=1024)
def _problem(network: BenchNetwork) -> BenchProblem:
    return BenchProblem(network)

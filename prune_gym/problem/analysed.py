"""The heavy half of a pruning problem: what exists only once data, weights and curvature are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import nn

from hessian import HOBSSensitivityAnalyzer
from hessian.support.progress import Progress
from prune_gym.allocation.loss_curves import LossCurves
from prune_gym.cost.limits import FloatArray
from prune_gym.cost.model import CostModel
from prune_gym.measuring import predicted
from prune_gym.measuring.evaluation import Evaluation
from prune_gym.measuring.evaluator import Evaluator
from prune_gym.measuring.monotone import PredictedMetrics
from prune_gym.problem.features import FeatureSet
from prune_gym.surgery.pruner import PhysicalPruner, Refit
from prune_gym.tasks.task import PruningTask, network_digest


class AnalysedTask:
    """A task with its analysis; measures the dense network at once.

    Args:
        task: network and splits, on the device everything is computed on.
        hobs: the finished analysis of its network.
        cost: the network's cost model.
        repair: name of the repair of surviving weights.

    Attributes:
        task: as given.
        hobs: as given.
        evaluator: measures plans on the reward split.
        dense: what the unpruned network scores there.
        losses: what the analysis predicts for plans.
    """

    def __init__(self, task: PruningTask, hobs: HOBSSensitivityAnalyzer, cost: CostModel, repair: str) -> None:
        self.task = task
        self.hobs = hobs
        self.evaluator = Evaluator(task, hobs, repair)
        self.losses = LossCurves.of_analysis(hobs)
        self._cost = cost
        self._repair = repair
        self._features: dict[FeatureSet, FloatArray] = {}
        self.dense = self._measure_dense()

    @cached_property
    def network_key(self) -> str:
        """Digest of network and images, computed when first asked for."""
        return network_digest(self.task)

    def features_of(self, features: FeatureSet) -> FloatArray:
        """Features of the layers that no plan changes, float64 [L, F]; not to be modified."""
        if features not in self._features:
            self._features[features] = features.fixed(self.hobs, self._cost)
        return self._features[features]

    def cut(self, kept: Sequence[int], refit: Refit) -> nn.Module:
        """The network of a plan, physically smaller; see :meth:`prune_gym.problem.problem.PruningProblem.cut`."""
        task = self.task
        pruner = PhysicalPruner(
            task.model, task.example_input, ignored_layers=task.ignored_layers, damping=self.hobs.damping
        )
        analyzer = self.hobs if refit == "closed_form" else None
        calibration = None if refit == "none" else task.calibration
        return pruner.prune(self.hobs.plan(kept), refit=refit, calibration=calibration, analyzer=analyzer)

    def fit_predictor(self, progress: Progress | None) -> PredictedMetrics:
        """The map from predicted losses to metrics, fitted with an evaluator of its own: no archive hears of it."""
        evaluator = Evaluator(self.task, self.hobs, self._repair)
        return predicted.fit_to_measurements(evaluator, self.losses, self._cost, progress)

    def _measure_dense(self) -> Evaluation:
        """The unpruned network, measured apart so that it does not count as a plan someone asked for."""
        units = tuple(self._cost.units.tolist())
        dense = self.evaluator.evaluate(units)
        del self.evaluator.archive[units]
        return dense

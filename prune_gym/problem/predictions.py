"""Predictions of plans before any is measured: losses, costs, and the plans that searches begin from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from hessian.support.names import unknown
from prune_gym.allocation.loss_curves import LossCurves
from prune_gym.allocation.start import StartPlans
from prune_gym.cost.budgeted import BudgetedCost
from prune_gym.cost.limits import CountLimits, FloatArray, IntArray
from prune_gym.cost.target import QUANTITIES
from prune_gym.problem.features import FeatureSet

if TYPE_CHECKING:
    from typing_extensions import Self


class PredictedPlans(ABC):
    """Predictions of a problem, from the loss curves of its layers and the costs of its plans.

    Attributes:
        cost: FLOPs of plans.
    """

    cost: BudgetedCost

    def __init__(self) -> None:
        self._starts = StartPlans()

    @property
    @abstractmethod
    def losses(self) -> LossCurves:
        """Predicted losses of every layer."""

    @abstractmethod
    def features_of(self, features: FeatureSet) -> FloatArray:
        """Features of the layers that no plan changes, float64 [L, F]; not to be modified."""

    @abstractmethod
    def predicted_metrics(self, kept: IntArray) -> FloatArray:
        """Accuracy, soft accuracy and loss expected on the reward split: kept int [..., L] -> float64 [..., 3]."""

    @property
    @abstractmethod
    def params_cost(self) -> BudgetedCost:
        """Parameters of plans as a cost that a target can limit."""

    @abstractmethod
    def latency_cost(self) -> BudgetedCost:
        """Latency of plans as a cost that a target can limit."""

    @property
    def features(self) -> FloatArray:
        """The default features of the layers, standardised, float64 [L, F] (:mod:`prune_gym.problem.features`)."""
        return self.features_of(FeatureSet())

    def cost_of(self, quantity: str | BudgetedCost) -> BudgetedCost:
        """Cost that a target limits: ``"flops"``, ``"params"`` or ``"latency"`` (measured when first asked for).

        Raises:
            ValueError: another quantity, or latency where there is no network to time.
        """
        if isinstance(quantity, BudgetedCost):
            return quantity
        if quantity not in QUANTITIES:
            raise ValueError(unknown("quantity", quantity, QUANTITIES))
        if quantity == "latency":
            return self.latency_cost()
        return self.cost if quantity == "flops" else self.params_cost

    @property
    def curves(self) -> list[FloatArray]:
        """Predicted loss curves: a float64 array [num_units] a layer, nats, non-decreasing, [0] = 0."""
        return self.losses.curves

    @property
    def log_curves(self) -> list[FloatArray]:
        """Logarithms of :attr:`curves`, finite: losses below a thousandth of the median layer's at 50 % count alike."""
        return self.losses.log_curves

    def predicted_loss(self, kept: IntArray) -> FloatArray:
        """Predicted loss increase of plans, nats, summed over layers: kept int [..., L] -> float64 [...]."""
        return self.losses.of_plans(kept)

    def log_predicted_loss(self, kept: IntArray) -> FloatArray:
        """Finite logarithm of :meth:`predicted_loss`, float64 [...]."""
        return self.losses.log_of_plans(kept)

    def predicted_score(self, kept: IntArray) -> FloatArray:
        """Soft accuracy expected on the reward split: kept int [..., L] -> float64 [...]."""
        return self.predicted_metrics(kept)[..., 1]

    def start_plan(
        self,
        start: str,
        target: float,
        max_ratio: float = 0.95,
        *,
        limits: CountLimits | None = None,
        cost: BudgetedCost | None = None,
    ) -> IntArray:
        """Plan on the target that a search begins from.

        Args:
            start: ``"knapsack"`` (least summed predicted loss) or ``"uniform"`` (equal ratios).
            target: reduction of the cost.
            max_ratio: largest pruning ratio of a layer; ignored when ``limits`` are given.
            limits: legal counts.
            cost: what the target limits; None means FLOPs.

        Returns:
            int64 [L] kept units; ``cost.reduction(kept) >= target``.

        Raises:
            ValueError: unknown start, or a target out of reach.
        """
        limits = self.cost.limits(max_ratio) if limits is None else limits
        return self._starts.plan(start, self.curves, self.cost if cost is None else cost, target, limits)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Itself: what it computes never changes, so copies of an environment go on sharing one loaded problem."""
        return self

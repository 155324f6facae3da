"""Plans that meet the targets: a knapsack on the predicted loss curves under one budget or several.

A latency target is closed by measurement: the plan's network is cut and timed beside the dense one, and where the table
was wrong about their ratio, the next plan is found with the table put right.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from hessian.support.progress import Progress
from prune_gym.allocation.knapsack import knapsack
from prune_gym.cost.budgeted import BudgetedCost
from prune_gym.cost.joint import Budget, guided
from prune_gym.cost.latency_cost import LatencyCost
from prune_gym.cost.limits import CountLimits, IntArray
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.numbers import undisturbed_ms
from prune_gym.pruning.targets import Targets, TargetsNotMetError
from prune_gym.support.timing import compare_models, time_model
from prune_gym.surgery.pruner import PhysicalPruner

TIMED_PASSES = 60
CORRECTIONS = 4
"""Cuts timed for a latency target at most."""

SLACK = 0.03
"""A network this far below the latency asked for, relative to it, is taken; another would not be worth the time."""

AIM = 0.985
"""Latency aimed at, relative to the one asked for: half the slack, so that noise falls on either side."""

LABELS = {"flops": "FLOPs", "params": "parameters", "latency": "latency"}


@dataclass
class Planner:
    """Plans that meet cost targets.

    Attributes:
        problem: the network, its costs and its predicted losses.
        targets: what to reach.
        limits: legal counts.
        batch_size: images of the batch whose latency counts.
        correction: measured over tabulated latency of pruned networks, relative to the dense one.
    """

    problem: PruningProblem
    targets: Targets
    limits: CountLimits
    batch_size: int
    correction: float = 1.0
    _latency_share: float | None = field(default=None, init=False)

    def check(self) -> None:
        """Refuse targets of FLOPs and parameters that no legal network reaches; needs no data.

        Raises:
            TargetsNotMetError: with the reachable range.
        """
        asked = {"flops": self.targets.flops, "params": self.targets.params}
        for quantity, reduction in asked.items():
            if reduction is not None:
                self._check_reachable(quantity, self.problem.cost_of(quantity), reduction)

    def measure_latency(self) -> None:
        """Measure the table that latency targets need, and the dense network where milliseconds are asked for.

        Raises:
            TargetsNotMetError: the latency is out of reach, or the dense network is as fast already.
        """
        limit = self.targets.latency
        if limit is None:
            return
        share = limit.share
        if share is None:
            assert limit.milliseconds is not None
            model = self.problem.task.model
            dense = undisturbed_ms(time_model(model, self._batch(), num_iterations=TIMED_PASSES, num_warmup=5))
            share = limit.milliseconds / dense
            if share >= 1.0:
                raise TargetsNotMetError(
                    f"latency: the dense network takes {dense:.3g} ms for {self.batch_size} images, less than {limit}"
                )
        self._latency_share = share
        self._check_reachable("latency", self._latency_cost(), 1.0 - share)

    def _check_reachable(self, quantity: str, cost: BudgetedCost, reduction: float) -> None:
        reachable = cost.largest_reduction(self.limits)
        if reduction > reachable:
            raise TargetsNotMetError(
                f"{quantity}: at most {100 * reachable:.1f} % of the {LABELS[quantity]} can be removed from this "
                f"network, not {100 * reduction:.3g} %"
            )

    def budgets(self, flops_reduction: float = 0.0) -> list[Budget]:
        """All cost targets, and a FLOPs reduction beyond them if it is more than is asked for."""
        flops = max(self.targets.flops or 0.0, flops_reduction)
        found = [] if flops <= 0.0 else [Budget(self.problem.cost, flops)]
        if self.targets.params is not None:
            found.append(Budget(self.problem.cost.params_cost, self.targets.params))
        if self._latency_share is not None:
            found.append(Budget(self._latency_cost(), 1.0 - AIM * self._latency_share))
        return found

    def plan(self, flops_reduction: float = 0.0) -> IntArray:
        """The best predicted plan that meets all cost targets, int64 [L].

        Args:
            flops_reduction: to reach too.
        """
        budgets = self.budgets(flops_reduction)
        if not budgets:
            return self.limits.units.copy()
        if len(budgets) == 1:
            only = budgets[0]
            return self.problem.start_plan("knapsack", only.reduction, limits=self.limits, cost=only.cost)
        plans = [knapsack(self.problem.curves, cost, cost.target, limits=self.limits) for cost in guided(budgets)]
        return min(plans, key=lambda plan: float(self.problem.predicted_loss(plan)))

    def close_latency(self, kept: IntArray, flops_reduction: float, progress: Progress | None = None) -> IntArray:
        """The plan, or the next ones, until the latency is met by measurement; the plan as it is without such a target.

        Args:
            kept: from :meth:`plan`.
            flops_reduction: as it was given there.
            progress: called with (description, done, total).
        """
        share = self._latency_share
        if share is None:
            return kept
        best: tuple[float, IntArray] | None = None
        for step in range(CORRECTIONS):
            measured = self._measured_share(kept)
            if measured <= share and (best is None or measured > best[0]):
                best = measured, kept
            if progress is not None:
                progress("timing cuts", step + 1, CORRECTIONS)
            if share * (1.0 - SLACK) <= measured <= share:
                break
            predicted = float(self._latency_cost().of(kept)) / self._latency_cost().dense
            self.correction *= measured / predicted
            kept = self.plan(flops_reduction)
        return kept if best is None else best[1]

    def meets_latency(self, kept: IntArray) -> bool:
        """Return whether a plan's network measures as fast as asked for; true without a latency target."""
        return self._latency_share is None or self._measured_share(kept) <= self._latency_share

    def _measured_share(self, kept: IntArray) -> float:
        """Latency of a plan's network beside the dense one's; its weights do not matter for that."""
        task = self.problem.task
        pruner = PhysicalPruner(task.model, task.example_input[:1], ignored_layers=task.ignored_layers)
        networks: dict[str, nn.Module] = {"dense": task.model}
        networks["pruned"] = pruner.prune(self.problem.hobs.plan(kept.tolist()))
        times = compare_models(networks, self._batch(), num_iterations=TIMED_PASSES, num_warmup=5)
        return undisturbed_ms(times["pruned"]) / undisturbed_ms(times["dense"])

    def _latency_cost(self) -> LatencyCost:
        return LatencyCost(self.problem.latency_of_batches(self.batch_size), self.correction)

    def _batch(self) -> torch.Tensor:
        image = self.problem.task.example_input[:1]
        return image.expand(self.batch_size, *image.shape[1:]).contiguous()

"""Plans that meet the targets: a knapsack on the predicted loss curves under one budget or several.

A latency target is closed by measurement: the plan's network is cut and timed beside the dense one, and where the table
was wrong about their ratio, the next plan is found where a line through what was timed meets the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
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
TIMED_CUTS = 5
"""Cuts timed for a latency target at most."""

SLACK = 0.03
"""A network this far below the latency asked for, relative to it, is taken; another would not be worth the time."""

AIM = 0.985
"""Latency aimed at, relative to the one asked for: half the slack, so that noise falls on either side."""

LABELS = {"flops": "FLOPs", "params": "parameters", "latency": "latency"}


@dataclass(frozen=True)
class TimedCut:
    """A plan that was cut and timed.

    Attributes:
        tabulated: its latency by the table, relative to the dense network's.
        measured: its latency beside the dense network's.
        kept: the plan, int64 [L].
    """

    tabulated: float
    measured: float
    kept: IntArray


@dataclass
class Planner:
    """Plans that meet cost targets.

    Attributes:
        problem: the network, its costs and its predicted losses.
        targets: what to reach.
        limits: legal counts.
        batch_size: images of the batch whose latency counts.
    """

    problem: PruningProblem
    targets: Targets
    limits: CountLimits
    batch_size: int
    _latency_share: float | None = field(default=None, init=False)
    _tabulated_share: float = field(default=1.0, init=False)

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
        self._latency_share, self._tabulated_share = share, AIM * share
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
            found.append(Budget(self._latency_cost(), 1.0 - self._tabulated_share))
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

        Returns:
            The slowest plan timed that meets the target; the fastest one where all miss it by less than the slack.

        Raises:
            TargetsNotMetError: all plans timed are slower.
        """
        share = self._latency_share
        if share is None:
            return kept
        timed: list[TimedCut] = []
        while len(timed) < TIMED_CUTS and not any(np.array_equal(kept, cut.kept) for cut in timed):
            timed.append(TimedCut(self._tabulated(kept), self._measured_share(kept), kept))
            if progress is not None:
                progress("timing cuts", len(timed), TIMED_CUTS)
            if share * (1.0 - SLACK) <= timed[-1].measured <= share:
                return kept
            fastest = 1.0 - self._latency_cost().largest_reduction(self.limits)
            self._tabulated_share = min(max(aimed_share(timed, AIM * share), fastest), 1.0)
            kept = self.plan(flops_reduction)
        met = [cut for cut in timed if cut.measured <= share]
        found = max(met, key=_measured) if met else min(timed, key=_measured)
        if found.measured > share * (1.0 + SLACK):
            raise TargetsNotMetError(
                f"latency: the fastest of {len(timed)} networks cut and timed takes {found.measured:.3f}x the "
                f"dense one's time, more than {share:.3g}x; ask for more time, or measure on a quiet machine"
            )
        return found.kept

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

    def _tabulated(self, kept: IntArray) -> float:
        cost = self._latency_cost()
        return float(cost.of(kept)) / cost.dense

    def _latency_cost(self) -> BudgetedCost:
        return LatencyCost(self.problem.latency_of_batches(self.batch_size))

    def _batch(self) -> torch.Tensor:
        image = self.problem.task.example_input[:1]
        return image.expand(self.batch_size, *image.shape[1:]).contiguous()


def aimed_share(timed: Sequence[TimedCut], goal: float) -> float:
    """The latency by the table at which a machine should measure the goal, both relative to the dense network's.

    Args:
        timed: at least one plan.
        goal: to be measured.

    Returns:
        Where the line through the plans measured nearest above and below the goal meets it, or through the two nearest
        where all lie on one side; in proportion to the last one where there is no rising line.
    """
    near = sorted(timed, key=lambda cut: abs(cut.measured - goal))
    below = next((cut for cut in near if cut.measured <= goal), None)
    above = next((cut for cut in near if cut.measured > goal), None)
    first, second = (below, above) if below and above else (near[0], near[min(1, len(near) - 1)])
    run, rise = second.tabulated - first.tabulated, second.measured - first.measured
    if run * rise <= 0.0:
        return goal * timed[-1].tabulated / timed[-1].measured
    return first.tabulated + (goal - first.measured) * run / rise


def _measured(cut: TimedCut) -> float:
    return cut.measured

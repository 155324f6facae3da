"""Plans that a network of the bench is measured at: where a search would look, and where it would not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, cycle, islice

import numpy as np

from prune_gym.allocation.knapsack import knapsack
from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.problem.problem import PruningProblem

TARGETS = (0.4, 0.5, 0.6, 0.68, 0.75, 0.8, 0.85, 0.89, 0.92, 0.94, 0.96, 0.97)
"""FLOPs reductions that plans are made for, where the network reaches them."""

SEARCHED = (0.6, 0.75, 0.85, 0.92)
"""Those of a search."""

STEPS = 15
"""Plans a search measures."""

RANDOM = 4
"""Random plans a target."""

WIDTHS = (0.03, 0.06, 0.12, 0.25)
"""Standard deviations of the ratios of perturbed plans around the knapsack's."""

PLANS = 300
"""Distinct plans a network; fewer than the starts, random and searched ones together are not made."""

MAX_RATIO = 0.95
"""Largest pruning ratio of a layer."""

TRIES = 50
"""Draws before a plan not seen before is given up."""

Plan = tuple[int, ...]


@dataclass(frozen=True)
class Proposal:
    """A plan to measure.

    Attributes:
        kept: units a layer.
        source: ``"knapsack"``, ``"uniform"``, ``"random"``, ``"perturbed"`` or ``"search"``.
        target: FLOPs reduction it was made for.
    """

    kept: Plan
    source: str
    target: float


class Sampler:
    """Draws distinct plans of a problem.

    Args:
        problem: loaded.
        seed: of the draws.
        plans: how many, searches included.
    """

    def __init__(self, problem: PruningProblem, seed: int, plans: int = PLANS) -> None:
        self._problem, self._plans = problem, plans
        self._rng = np.random.default_rng(seed)
        self._limits = problem.cost.limits(MAX_RATIO)
        self.targets = [target for target in TARGETS if self._reachable(target)]
        self._seen: set[Plan] = set()
        # The bench keeps curves in float32, and its knapsack has to be the one measured here.
        curves = [curve.astype(np.float32).astype(np.float64) for curve in problem.curves]
        self._knapsack = {t: knapsack(curves, problem.cost, t, limits=self._limits) for t in self.targets}

    def proposals(self, score: Callable[[Proposal], float]) -> Iterator[Proposal]:
        """All plans in turn; a search's depend on what was measured before.

        Args:
            score: of a plan that was yielded before, higher is better.
        """
        made: list[Proposal] = []
        searched = [target for target in SEARCHED if target in self.targets]
        spread = self._spread()
        for proposal in chain(self._starts(), self._random(), self._until(self._plans - STEPS * len(searched), spread)):
            made.append(proposal)
            yield proposal
        for target in searched:
            yield from self._searched(target, [proposal for proposal in made if proposal.target == target], score)
        yield from self._until(self._plans, spread)  # where a search found nothing new

    def _starts(self) -> Iterator[Proposal]:
        for target in self.targets:
            uniform = self._problem.start_plan("uniform", target, MAX_RATIO)
            yield from self._new("knapsack", target, self._knapsack[target])
            yield from self._new("uniform", target, uniform)

    def _random(self) -> Iterator[Proposal]:
        for target in self.targets * RANDOM:
            yield from self._drawn("random", target, self._anywhere)

    def _spread(self) -> Iterator[Proposal]:
        """Perturbed plans around the knapsack's, targets and widths in turn, as many as there are."""
        for width in islice(cycle(WIDTHS), self._plans):
            for target in self.targets:
                yield from self._drawn("perturbed", target, partial(self._perturbed, target, width))

    def _searched(self, target: float, known: list[Proposal], score: Callable[[Proposal], float]) -> Iterator[Proposal]:
        """Plans of an evolution on a target, which begins at the best known."""
        for _ in range(STEPS if known else 0):
            best = max(known, key=score)
            for found in self._drawn("search", target, partial(self._mutated, best)):
                known.append(found)
                yield found

    def _until(self, count: int, proposals: Iterator[Proposal]) -> Iterator[Proposal]:
        """Proposals until so many plans were made in all."""
        while len(self._seen) < count and (found := next(proposals, None)) is not None:
            yield found

    def _anywhere(self) -> FloatArray:
        return self._rng.uniform(0.0, MAX_RATIO, self._problem.num_layers)

    def _perturbed(self, target: float, width: float) -> FloatArray:
        ratios = 1.0 - self._knapsack[target] / self._problem.cost.units
        return np.clip(ratios + self._rng.normal(0.0, width, len(ratios)), 0.0, MAX_RATIO)

    def _mutated(self, parent: Proposal) -> FloatArray:
        """Ratios of a plan with one or two layers changed, as in the level switches of EvoPress."""
        ratios = 1.0 - np.array(parent.kept) / self._problem.cost.units
        chosen = self._rng.choice(len(ratios), size=min(2, len(ratios)), replace=False)
        ratios[chosen] += self._rng.normal(0.0, 0.15, len(chosen))
        return np.clip(ratios, 0.0, MAX_RATIO)

    def _drawn(self, source: str, target: float, draw: Callable[[], FloatArray]) -> Iterator[Proposal]:
        """A plan not seen before, of ratios brought onto the target, or nothing where the draws give none."""
        for _ in range(TRIES):
            for found in self._new(source, target, self._problem.cost.project(draw(), target, limits=self._limits)):
                yield found
                return

    def _new(self, source: str, target: float, kept: IntArray) -> Iterator[Proposal]:
        """The plan, if it was not seen before."""
        plan = tuple(kept.tolist())
        if plan not in self._seen:
            self._seen.add(plan)
            yield Proposal(plan, source, target)

    def _reachable(self, target: float) -> bool:
        try:
            self._problem.cost.check_target(target, self._limits)
        except ValueError:
            return False
        return True

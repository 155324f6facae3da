"""Latency targets are closed by measurement, on a machine whose clock is a formula."""

from functools import cached_property

import pytest

from prune_gym.cost.planwise import PlanwiseCost
from prune_gym.problem import PruningProblem
from prune_gym.pruning.planning import TIMED_CUTS, Planner, TimedCut, aimed_share
from prune_gym.pruning.targets import Targets, TargetsNotMetError


class TableOfFlops(PlanwiseCost):
    """A latency table that takes a FLOP to be a FLOP."""

    quantity = label = "latency"

    def __init__(self, cost):
        self.cost = cost
        self.groups, self.units = cost.groups, cost.units

    @property
    def dense(self):
        return self.cost.dense

    @cached_property
    def form(self):
        return self.cost.form

    def of(self, kept):
        return self.cost.flops(kept)


class Machine(Planner):
    """A planner whose networks take so much time whatever they keep, and the rest by their FLOPs."""

    overhead = 0.0
    noise = ()

    def _latency_cost(self):
        return TableOfFlops(self.problem.cost)

    def _measured_share(self, kept):
        self.timed = [*getattr(self, "timed", []), kept]
        noise = self.noise[len(self.timed) - 1] if len(self.timed) <= len(self.noise) else 0.0
        return self.share(kept) * (1.0 + noise)

    def share(self, kept):
        return self.overhead + (1.0 - self.overhead) * float(self.problem.cost.flops(kept)) / self.problem.cost.dense


@pytest.fixture(scope="module")
def problem():
    return PruningProblem("digits-resnet20", device="cpu").load()


def machine(problem, share, overhead, noise=()):
    planner = Machine(problem, Targets.of(latency=f"{share}x"), problem.cost.limits(0.95), 32)
    planner.overhead, planner.noise = overhead, noise
    planner.measure_latency()
    return planner


@pytest.mark.parametrize("overhead", [0.0, 0.1, 0.25])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
def test_what_the_machine_measures_is_within_five_percent_of_what_was_asked_for(problem, share, overhead):
    planner = machine(problem, share, overhead)
    found = planner.share(planner.close_latency(planner.plan(), 0.0))
    assert 0.95 * share <= found <= share
    assert len(planner.timed) <= TIMED_CUTS


@pytest.mark.parametrize("noise", [(0.2,), (-0.05,), (0.05, -0.05, 0.05)])
def test_a_disturbed_timing_is_made_up_for_by_the_next(problem, noise):
    planner = machine(problem, 0.6, 0.1, noise)
    assert 0.93 * 0.6 <= planner.share(planner.close_latency(planner.plan(), 0.0)) <= 0.6


def test_a_table_that_is_far_off_is_put_right(problem):
    """Half of the time whatever is kept: the first plan, which the table likes, takes a third too long."""
    planner = machine(problem, 0.6, 0.5)
    assert 0.95 * 0.6 <= planner.share(planner.close_latency(planner.plan(), 0.0)) <= 0.6


def test_a_latency_that_no_network_has_is_refused_and_says_what_was_measured(problem):
    planner = machine(problem, 0.6, 0.65)
    with pytest.raises(TargetsNotMetError, match=r"takes 0\.6\d\dx the dense one's time, more than 0\.6x"):
        planner.close_latency(planner.plan(), 0.0)
    assert len(planner.timed) <= TIMED_CUTS


@pytest.mark.parametrize(
    ("timed", "expected"),
    [
        ([(0.6, 0.8)], 0.45),  # in proportion
        ([(0.6, 0.8), (0.45, 0.7)], 0.30),  # on the line through both
        ([(0.6, 0.8), (0.2, 0.5), (0.4, 0.7)], 0.30),  # between the nearest on either side
        ([(0.6, 0.7), (0.5, 0.8)], 0.375),  # a line that falls is noise
    ],
)
def test_the_next_plan_is_where_the_line_meets_the_goal(timed, expected):
    cuts = [TimedCut(tabulated, measured, None) for tabulated, measured in timed]
    assert aimed_share(cuts, 0.6) == pytest.approx(expected)

import itertools

import numpy as np
import pytest

from prune_gym.bench.problem import BenchProblem
from prune_gym.bench.protocol import Scale, best_known, contests, measured_scale, reachable, surrogate_scale
from tests.prune_gym.bench.synthetic import network


def test_the_best_known_plan_is_the_best_of_all_plans_of_a_small_network():
    problem = BenchProblem(network(0))
    limits, target = problem.cost.limits(), 0.75
    every = np.array(list(itertools.product(*(limits.choices(layer) for layer in range(problem.num_layers)))))
    every = every[problem.cost.reduction(every) >= target]
    found = best_known(problem, target)
    assert problem.cost.reduction(found) >= target
    best = problem.surrogate_metrics(every)[:, 1].max()
    assert problem.surrogate_metrics(found)[1] == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("index", range(1, 5))
def test_the_best_known_plan_beats_knapsack_and_chance(index):
    problem = BenchProblem(network(index))
    for target, scale in contests(problem).items():
        logits = np.random.default_rng(1).normal(0, 1.5, (3000, problem.num_layers))
        chance = problem.cost.project_logits(logits, target, problem.cost.limits())
        assert scale.best >= max(problem.surrogate_metrics(chance)[:, 1].max(), scale.knapsack) - 1e-9


def test_a_known_plan_can_only_help():
    problem = BenchProblem(network(4))
    target = 0.85
    known = best_known(problem, target, seed=1)
    again = best_known(problem, target, [known], seed=2)
    soft = problem.surrogate_metrics(np.stack([known, again]))[:, 1]
    assert soft[1] >= soft[0] - 1e-12


def test_scores_are_0_for_the_knapsack_and_1_for_the_best():
    problem = BenchProblem(network(3))
    for target, scale in contests(problem).items():
        plans = np.stack([problem.start_plan("knapsack", target), problem.network.references[target]])
        np.testing.assert_allclose(scale(problem.surrogate_metrics(plans)[:, 1]), [0.0, 1.0], atol=1e-12)
    assert sorted(problem.network.references) == reachable(problem.network)
    with pytest.raises(ValueError, match=r"no reference plan at target 0.55, only at 0\.6"):
        surrogate_scale(problem, 0.55)
    assert not Scale(0.8, 0.8005).is_contest


def test_measured_plans_make_a_scale_of_their_own():
    kept = np.array([[4, 4], [3, 5], [5, 3], [1, 1]])
    soft, reductions = np.array([0.8, 0.85, 0.9, 0.1]), np.array([0.75, 0.76, 0.5, 0.95])
    assert measured_scale(kept, soft, reductions, kept[0], 0.75) == Scale(0.8, 0.85)
    with pytest.raises(ValueError, match="not among the measured"):
        measured_scale(kept, soft, reductions, np.array([2, 2]), 0.75)

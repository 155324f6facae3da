"""Every search: better than chance at equal evaluations, exact about its budget, reproducible, clear about misuse."""

import functools

import numpy as np
import pytest

from agents import (
    AnnealingSearch,
    CEMSearch,
    CMAESSearch,
    GPSearch,
    LevelSwitchSearch,
    RandomSearch,
    RSPARAgent,
    ScaledGPSearch,
)
from agents.interface.monitor import until
from agents.registry import AGENTS, create
from tests.agents.synthetic import FEATURES, SyntheticPruning

SEARCHES = {
    "random": RandomSearch,
    "cem": CEMSearch,
    "cmaes": CMAESSearch,
    "gp": GPSearch,
    "annealing": AnnealingSearch,
    "level_switch": LevelSwitchSearch,
}


@pytest.fixture(params=SEARCHES)
def search(request):
    return SEARCHES[request.param]


@functools.cache
def mean_score(search, evaluations, seeds):
    landscapes = (0, 1, 2)
    return np.mean(
        [
            search(seed=seed).learn(SyntheticPruning(seed=landscape), evaluations).best["score"]
            for landscape in landscapes
            for seed in range(seeds)
        ]
    )


@pytest.mark.parametrize("name", ["cem", "cmaes", "annealing", "level_switch"])
def test_a_search_beats_random_moves_at_equal_evaluations(name):
    assert mean_score(SEARCHES[name], 80, 3) > mean_score(RandomSearch, 80, 3)


@pytest.mark.parametrize("search", [GPSearch, ScaledGPSearch])
def test_a_gaussian_process_needs_fewer_evaluations_than_random_moves(search):
    assert mean_score(search, 16, 1) > mean_score(RandomSearch, 32, 2)


def test_every_step_measures_a_new_plan_on_the_target(search):
    env = SyntheticPruning()
    found = search().learn(env, 40 if search is not GPSearch else 8)
    steps = found.num_timesteps
    assert [record["measured_evaluations"] for record in found.history] == list(range(1, steps + 2))
    assert len({tuple(record["kept"]) for record in found.history}) == steps + 1 == len(env.archive)
    for record in found.history[1:]:
        assert 0.8 <= record["flops_reduction"] <= 0.82


def test_a_budget_counts_the_start_plan_and_is_met_exactly(search):
    env = SyntheticPruning()
    search().learn(env, 10_000, callback=until(7))
    assert len(env.archive) == 7


def test_plans_measured_before_are_free(search):
    env = SyntheticPruning()
    first = search(seed=1).learn(env, 5)
    measured = set(env.archive)
    again = search(seed=1).learn(env, 5)
    assert not measured & {tuple(record["kept"]) for record in again.history[1:]}
    assert len(env.archive) == len(measured) + 5
    assert first.history[0]["score"] == again.history[0]["score"]


def test_a_small_space_is_searched_and_left(search):
    env = SyntheticPruning(num_layers=2, units=6, target=0.4)
    found = search().learn(env, 500)
    plans = np.stack(np.meshgrid(range(1, 7), range(1, 7)), -1).reshape(-1, 2)
    reductions = env.problem.cost.reduction(plans)
    on_target = {tuple(plan) for plan in plans[(reductions >= 0.4) & (reductions <= 0.42)].tolist()}
    assert {tuple(record["kept"]) for record in found.history[1:]} == on_target - {(3, 3)}


def test_same_seed_same_search(search):
    first, second, other = (search(seed=seed).learn(SyntheticPruning(), 6) for seed in (3, 3, 4))
    assert first.history == second.history
    assert first.history != other.history


def test_going_on_is_as_not_having_stopped(search):
    env = SyntheticPruning()
    stopped = search(seed=2).learn(env, 4)
    stopped.learn(env, 4)
    assert stopped.history == search(seed=2).learn(SyntheticPruning(), 8).history


def test_an_interrupted_search_keeps_what_it_measured_and_goes_on(search):
    env = SyntheticPruning()

    def interrupt(record):
        if record["episode"] == 3:
            raise KeyboardInterrupt

    found = search(seed=2)
    with pytest.raises(KeyboardInterrupt):
        found.learn(env, 8, callback=interrupt)
    assert len(found.history) == len(env.archive) == 4
    assert found.best is not None
    found.learn(env, 4)
    assert len(found.history) == len(env.archive) == 8


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rewards_that_are_no_numbers_are_refused(search, bad):
    class Broken(SyntheticPruning):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, bad, *rest

    with pytest.raises(ValueError, match="reward must be finite"):
        search().learn(Broken(), 2)


def test_a_search_serves_one_target(search):
    with pytest.raises(ValueError, match="serves one problem at one target"):
        search().learn(SyntheticPruning(targets=(0.7, 0.75, 0.8)), 10)
    found = search().learn(SyntheticPruning(), 2)
    with pytest.raises(ValueError, match="make another search"):
        found.learn(SyntheticPruning(seed=1), 2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: CEMSearch(population=4, elites=4),
            "elites must be at least 1 and fewer than the population, got 4 of 4",
        ),
        (lambda: CEMSearch(smoothing=0), "smoothing must lie in"),
        (lambda: CEMSearch(std=-1), "std must be positive, got -1"),
        (lambda: CMAESSearch(sigma=float("nan")), "sigma must be positive"),
        (lambda: CMAESSearch(population=1), "population must be at least 2, got 1"),
        (lambda: GPSearch(samples=0), "must be at least 1, got 0 and 512"),
        (lambda: GPSearch(trend="cubic"), "'trend' must be one of linear, quadratic, got 'cubic'"),
        (lambda: AnnealingSearch(cooling=0), "cooling must be at least 1 evaluation, got 0"),
        (lambda: AnnealingSearch(temperatures=(0.1, 0.2)), "temperatures fall"),
        (lambda: AnnealingSearch(share=2), "share must lie in"),
        (lambda: until(0), "evaluations must be at least 1"),
        (
            lambda: create("cem", SyntheticPruning(), populaton=8),
            "unknown option of cem 'populaton'; did you mean 'population'",
        ),
        (lambda: create("cma", SyntheticPruning()), "unknown agent 'cma'; did you mean 'cmaes'"),
    ],
)
def test_bad_arguments(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_single_layer_is_not_for_cma_es():
    with pytest.raises(ValueError, match="at least two layers"):
        CMAESSearch().learn(SyntheticPruning(num_layers=1), 2)


def test_the_registry_makes_every_control():
    for name, search in (SEARCHES | {"gp_scaled": ScaledGPSearch}).items():
        assert isinstance(create(name, SyntheticPruning(), seed=5), search)
    assert set(AGENTS) >= {"rspar", "uniform", "knapsack", "ppo", "a2c", "sac", "td3", "ddpg"}


def test_a_budget_is_met_by_rspar_too():
    env = SyntheticPruning()
    RSPARAgent(8, FEATURES, hidden_dim=8).learn(env, 100, callback=until(5))
    assert len(env.archive) == 5

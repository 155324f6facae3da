"""Plans in batches and on pools: the same results as one by one in this process."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
from torch.nn.functional import cross_entropy

import prune_gym  # noqa: F401  registers the environment
from agents import RSPARAgent
from agents.registry import create
from agents.rspar.state import ImaginationSettings
from prune_gym.problem import PruningProblem
from prune_gym.problem.plan_pool import PlanPool, PoolError, ProcessPool, RayPool

SMALL = ImaginationSettings(moves=32, batch_size=32, epochs=1, proposals=32)


class HerePool(PlanPool):
    """A pool of this process, that keeps what it was asked for."""

    def __init__(self, problem):
        super().__init__(problem)
        self.asked = []

    def measure(self, plans):
        self.asked.append(list(plans))
        evaluator = self.problem.evaluator
        return [(plan, (evaluator._measure(plan), 0.0)) for plan in plans]


@pytest.fixture
def problem(tiny_task, tmp_path_factory):
    return PruningProblem(tiny_task, cache_dir=tmp_path_factory.getbasetemp() / "batches")


def make_env(problem, **options):
    return gym.make("HOBSPrune-v0", problem=problem, target_flops_reduction=0.6, **options)


def rspar(env):
    layout = env.unwrapped.layout
    return RSPARAgent(layout.num_layers, layout.feature_dim, hidden_dim=8, imagination=SMALL, seed=0)


def archive_of(env):
    return list(env.unwrapped.archive.items())


@pytest.mark.parametrize("pool", [ProcessPool, RayPool])
def test_a_pool_measures_what_this_process_measures_to_the_bit(problem, pool):
    if pool is RayPool:
        ray = pytest.importorskip("ray")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    problem.load()
    rng = np.random.default_rng(0)
    plans = [tuple(rng.integers(1, problem.cost.units + 1).tolist()) for _ in range(8)]
    try:
        with pool(problem, workers=2) as attached:
            problem.prefetch([*plans, plans[0]])
            assert problem.pool is attached
        found = {plan: problem.evaluator.archive[plan] for plan in plans}
        assert all(problem.evaluator.seconds[plan] > 0 for plan in plans)
    finally:
        if pool is RayPool:
            ray.shutdown()
    assert problem.pool is None
    problem.evaluator.archive.clear()
    assert {plan: problem.evaluator.evaluate(plan) for plan in plans} == found


def test_a_lost_process_is_an_error_and_the_problem_goes_on_without_the_pool(problem):
    pool = ProcessPool(problem, workers=1)
    problem.prefetch([tuple(problem.cost.units.tolist())])
    for process in list(pool._executor._processes.values()):
        process.kill()
    plan = tuple((problem.cost.units // 2).tolist())
    with pytest.raises(PoolError, match="a measuring process was lost"):
        problem.prefetch([plan])
    assert problem.pool is None
    problem.evaluator.evaluate(plan)


def test_a_problem_has_one_pool_and_at_least_one_process(problem):
    with HerePool(problem), pytest.raises(ValueError, match="has a pool already"):
        HerePool(problem)
    with pytest.raises(ValueError, match="workers is a whole number, at least 1; got 0"):
        ProcessPool(problem, workers=0)


def test_a_problem_that_cannot_be_sent_is_left_without_a_pool(tiny_task, tmp_path):
    task = dataclasses.replace(tiny_task, criterion=lambda logits, labels: cross_entropy(logits, labels))
    problem = PruningProblem(task, cache_dir=tmp_path)
    with pytest.raises(ValueError, match="cannot be sent to another process"):
        ProcessPool(problem, workers=1)
    assert problem.pool is None


@pytest.mark.parametrize("name", ["random", "cem", "cmaes", "annealing", "gp"])
def test_batches_change_the_speed_of_a_search_and_never_its_result(problem, name):
    one_by_one = make_env(problem)
    create(name, one_by_one, 0).learn(one_by_one, 10)
    problem.evaluator.archive.clear()
    in_batches = make_env(problem)
    with HerePool(problem) as pool:
        agent = create(name, in_batches, 0)
        agent.learn(in_batches, 10, batch_size=4)
    assert archive_of(in_batches) == archive_of(one_by_one)
    assert max(map(len, pool.asked)) == 4
    if name == "random":  # whose proposals do not depend on scores: nothing is measured in vain
        assert len(problem.evaluator.archive) == len(in_batches.unwrapped.archive)


def test_rspar_learns_the_same_in_batches_with_and_without_a_pool(problem):
    alone, pooled = make_env(problem), make_env(problem)
    first = rspar(alone).learn(alone, 8, batch_size=3)
    problem.evaluator.archive.clear()
    with HerePool(problem) as pool:
        second = rspar(pooled).learn(pooled, 8, batch_size=3)
    assert first.history == second.history
    assert archive_of(alone) == archive_of(pooled)
    assert [len(plans) for plans in pool.asked] == [3, 3, 2]
    # The start plan, and eight more: plans of a batch are distinct and new.
    assert len(pooled.unwrapped.archive) == 9


def test_rspar_in_batches_of_one_is_the_rspar_there_was(problem):
    plain, batched = make_env(problem), make_env(problem)
    assert rspar(plain).learn(plain, 5).history == rspar(batched).learn(batched, 5, batch_size=1).history


def test_the_episodes_of_a_batch_keep_their_target(problem):
    env = gym.make("HOBSPrune-v0", problem=problem, target_flops_reduction=(0.5, 0.7))
    agent = rspar(env).learn(env, 6, batch_size=3)
    targets = [record["target_flops_reduction"] for record in agent.history[1:]]
    assert len(set(targets[:3])) == len(set(targets[3:])) == 1
    assert targets[0] != targets[3]


def test_longer_episodes_choose_one_move_at_a_time(problem):
    env = make_env(problem, horizon=2)
    with HerePool(problem) as pool:
        rspar(env).learn(env, 4, batch_size=3)
    assert pool.asked == []


def test_a_vector_environment_measures_its_copies_on_the_pool(problem):
    env = gym.make_vec("HOBSPrune-v0", num_envs=3, problem=problem, target_flops_reduction=0.6)
    env.reset(seed=0)
    with HerePool(problem) as pool:
        env.step(np.linspace(-0.9, 0.9, 3 * problem.num_layers, dtype=np.float32).reshape(3, -1))
    assert 2 <= len(pool.asked[0]) <= 3


@pytest.mark.parametrize("size", [0, True, 1.5])
def test_a_batch_is_a_number_of_plans(problem, size):
    env = make_env(problem)
    with pytest.raises(ValueError, match="batch_size must be a whole number of plans"):
        create("random", env, 0).learn(env, 2, batch_size=size)
    with pytest.raises(ValueError, match="batch_size must be a whole number of plans"):
        rspar(env).learn(env, 2, batch_size=size)

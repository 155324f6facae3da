"""Plans on a cluster of two nodes of different size: one is lost, and no plan is."""

import numpy as np
import pytest

from prune_gym.problem import PruningProblem
from prune_gym.problem.plan_pool import PoolError, RayPool

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")


@pytest.fixture
def cluster():
    """A head with two CPUs, which the driver is on, and room for another node."""
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def join(cluster):
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")


@pytest.fixture
def problem(tiny_task, tmp_path):
    return PruningProblem(tiny_task, cache_dir=tmp_path).load()


def some_plans(problem, count):
    rng = np.random.default_rng(0)
    return list(dict.fromkeys(tuple(rng.integers(1, problem.cost.units + 1).tolist()) for _ in range(count)))


def test_actors_fill_nodes_of_different_size_and_a_lost_node_loses_no_plan(cluster, problem):
    second = cluster.add_node(num_cpus=3)
    join(cluster)
    plans = some_plans(problem, 12)
    with RayPool(problem, workers=None, threads=1) as pool:
        assert len(pool._actors) == 4
        problem.prefetch(plans[:4])
        measured = pool.measure(plans)
        first, _ = next(measured)
        cluster.remove_node(second, allow_graceful=False)
        found = {first, *(plan for plan, _ in measured)}
        assert found == set(plans)
        assert len(pool._actors) == 1
        problem.prefetch(plans)
    known = dict(problem.evaluator.archive)
    assert list(known) == plans
    problem.evaluator.archive.clear()
    assert {plan: problem.evaluator.evaluate(plan) for plan in plans[:3]} == {plan: known[plan] for plan in plans[:3]}


def test_without_actors_what_was_measured_before_stays_known(cluster, problem):
    join(cluster)
    plans = some_plans(problem, 6)
    pool = RayPool(problem, workers=1, threads=1)
    measure = pool.measure

    def lost_on_the_way(asked):
        for done, each in enumerate(measure(asked)):
            if done == 1:
                ray.kill(pool._actors[0])
            yield each

    pool.measure = lost_on_the_way
    with pytest.raises(PoolError, match="every measuring actor was lost"):
        problem.prefetch(plans)
    assert problem.pool is None
    assert plans[:2] == list(problem.evaluator.archive)[:2]


def test_an_actor_that_fits_nowhere_is_refused(cluster, problem):
    join(cluster)
    with pytest.raises(ValueError, match="no node has room for an actor of 2 CPUs and 0 GPUs"):
        RayPool(problem, workers=None, threads=2)
    assert problem.pool is None

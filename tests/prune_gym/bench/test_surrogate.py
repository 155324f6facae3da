import numpy as np
import pytest

from hessian.audit.rank_correlation import spearman
from prune_gym.bench.surrogate import Surrogate, latent_of, metrics_of
from tests.prune_gym.bench.synthetic import network, plans, truth


@pytest.mark.parametrize("index", range(5))
def test_left_out_plans_are_ranked_as_they_measure(index):
    bench = network(index)
    fresh = plans(bench, 300, seed=7)
    predicted = bench.surrogate.predict(fresh.kept)
    measured = truth(bench, fresh.kept)
    for column in range(3):
        assert spearman(np.stack([predicted[:, column], measured[:, column]], axis=-1)) > 0.95
    assert (bench.surrogate.spearman > 0.95).all()


def test_the_stated_noise_is_what_new_plans_differ_by():
    bench = network(4, surrogate=False)
    known, fresh = plans(bench, 400), plans(bench, 400, seed=7)
    rng = np.random.default_rng(0)
    noisy = metrics_of(latent_of(known.metrics) + 0.3 * rng.normal(size=(400, 3)))
    surrogate = Surrogate.fit(bench.curves, known.kept, noisy)
    left = latent_of(fresh.metrics) + 0.3 * rng.normal(size=(400, 3)) - surrogate.latent(fresh.kept)
    standard = left / surrogate.noise_of(surrogate.latent(fresh.kept))
    np.testing.assert_allclose(standard.std(axis=0), 1.0, rtol=0.25)


def test_one_plan_scores_as_its_row_in_a_batch():
    bench = network(2)
    kept = plans(bench, 20, seed=3).kept
    batch = bench.surrogate.predict(kept)
    for row, plan in zip(batch, kept, strict=True):
        np.testing.assert_allclose(bench.surrogate.predict(plan), row, rtol=1e-9)


def test_latent_metrics_and_metrics_are_inverses():
    metrics = np.array([[0.9, 0.8, 0.3], [0.1, 0.2, 3.0]])
    np.testing.assert_allclose(metrics_of(latent_of(metrics)), metrics, rtol=1e-12)


def test_too_few_plans_are_refused():
    bench = network(0, surrogate=False)
    few = plans(bench, 12)
    with pytest.raises(ValueError, match="needs 40 plans"):
        Surrogate.fit(bench.curves, few.kept, few.metrics)

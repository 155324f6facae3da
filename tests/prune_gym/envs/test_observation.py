import numpy as np
import pytest

from prune_gym.envs.observation import GLOBALS, ObservationLayout
from prune_gym.problem import PruningProblem
from prune_gym.problem.features import FEATURES, layer_features, raw_features
from tests.prune_gym.tiny import tiny_task


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> PruningProblem:
    return PruningProblem(tiny_task(), cache_dir=tmp_path_factory.mktemp("cache")).load()


def test_slices_tile_the_observation():
    layout = ObservationLayout(4, ("a", "b", "c"))
    assert layout.size == 4 * 3 + 4 + 5
    blocks = [layout.slices[name] for name in ("features", "ratios", *GLOBALS)]
    assert [block.start for block in blocks] == [0, *(block.stop for block in blocks[:-1])]
    assert blocks[-1].stop == layout.size
    assert layout.slices["globals"] == slice(16, 21)


def test_features_are_found_by_name_layer_major():
    layout = ObservationLayout(2, ("a", "b", "c"))
    observation = np.arange(layout.size)
    assert layout.feature(observation, "b").tolist() == [1, 4]
    assert layout.features(np.stack([observation, observation])).shape == (2, 2, 3)
    with pytest.raises(KeyError, match="there are a, b, c"):
        layout.feature(observation, "d")


def test_features_are_standardised_across_layers(problem):
    table = layer_features(problem.hobs, problem.cost)
    assert table.shape == (problem.num_layers, len(FEATURES))
    np.testing.assert_allclose(table.mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(table.std(axis=0), 1.0, atol=1e-9)


def test_features_mean_what_they_say(problem):
    raw = raw_features(problem.hobs, problem.cost)
    for layer, group in enumerate(problem.groups):
        curve = problem.hobs.curves[group.name]
        factors = [problem.hobs.factors[member.module] for member in group.consumers]
        assert raw["log_price_50"][layer] == pytest.approx(np.log(curve[group.num_units // 2].item()))
        traces = [np.log(factor.A.double().diagonal(dim1=-2, dim2=-1).mean().item()) for factor in factors]
        assert raw["log_input_trace"][layer] == pytest.approx(np.mean(traces))
        halved = problem.cost.units.copy()
        halved[layer] -= halved[layer] // 2
        assert raw["log_flops_share"][layer] == pytest.approx(np.log(problem.cost.reduction(halved)))
        assert 0.0 <= raw["compensability_50"][layer] <= 1.0
    assert (raw["log_price_25"] <= raw["log_price_50"]).all()
    assert (raw["log_price_50"] <= raw["log_price_75"]).all()
    assert (raw["input_effective_rank"] <= 1e-9).all()


def test_a_single_layer_has_all_zero_features(problem):
    class OneLayer:
        groups = problem.groups[:1]
        curves, obd_curves, factors = problem.hobs.curves, problem.hobs.obd_curves, problem.hobs.factors

    class OneCost:
        units = problem.cost.units[:1]
        dense_flops, dense_params = problem.cost.dense_flops, problem.cost.dense_params

        class flops_form:
            @staticmethod
            def change(kept, other):
                return np.array([-1000.0])

        params_form = flops_form

    np.testing.assert_array_equal(layer_features(OneLayer(), OneCost()), np.zeros((1, len(FEATURES))))

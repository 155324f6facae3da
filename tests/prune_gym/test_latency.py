import numpy as np
import pytest

from hessian.channels import find_channel_groups
from prune_gym.cost import CostModel
from prune_gym.latency import LatencyTable, LayerTimes, latency_table, measure
from tests.hessian import networks


def build(kind):
    model = networks.make(kind).eval()
    images, _ = networks.images(2, 0)
    return model, images, CostModel(find_channel_groups(model, images[:1]), model, images[:1])


def test_times_are_bilinear_between_the_sizes_timed_and_constant_outside():
    outputs, inputs = np.array([2.0, 4.0, 8.0]), np.array([3.0, 6.0])
    times = LayerTimes(outputs, inputs, outputs[:, None] * 10 + inputs)
    np.testing.assert_allclose(times(np.array([2, 3, 8, 99]), np.array([3, 4, 6, 0])), [23, 34, 86, 83])


def test_one_size_is_its_time():
    times = LayerTimes(np.array([5.0]), np.array([3.0, 6.0]), np.array([[1.0, 2.0]]))
    assert times(np.array(5), np.array(6)) == 2.0


@pytest.mark.parametrize("kind", networks.ALL)
def test_every_structure_is_timed_and_priced(kind):
    model, images, cost = build(kind)
    table = measure(model, images, cost)
    assert set(table.layers) == set(cost.input_shapes)
    plans = np.random.default_rng(0).integers(1, cost.units + 1, (6, len(cost.units)))
    latencies = table(plans)
    assert latencies.shape == (6,)
    assert (latencies > 0).all()
    np.testing.assert_allclose([table(plan) for plan in plans], latencies)
    assert table.relative(cost.units) == 1.0


def test_a_damaged_table_is_measured_again(tmp_path, caplog):
    model, images, cost = build(networks.Residual)

    def table() -> LatencyTable:
        return latency_table(model, images, cost, "tiny", tmp_path, None)

    first = table()
    assert table()(cost.units) == first(cost.units)
    (path,) = tmp_path.glob("tiny-latency-*.safetensors")
    path.write_bytes(path.read_bytes()[:-7])
    assert table()(cost.units) > 0
    assert "computed again" in caplog.text

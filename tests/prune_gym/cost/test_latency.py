import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hessian.channels import find_channel_groups
from prune_gym.cost import CostModel
from prune_gym.cost.latency import BATCH_SIZE, LatencyTable, LayerTimes, latency_table, measure
from prune_gym.support.timing import Timing, compare_models
from prune_gym.surgery.pruner import PhysicalPruner
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


class Stopwatch:
    """A machine on which everything takes as long as its FLOPs."""

    def __init__(self, idle: float = 0.0):
        self.idle = idle

    def time_callable(self, function, **_):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            function()
        return Timing(np.array([float(counter.get_total_flops())]), "cpu", 1)

    def time_model(self, model, images, **_):
        layers = self.time_callable(lambda: model(images))
        return Timing(layers.samples_ms + self.idle, "cpu", 1)


@pytest.mark.parametrize("kind", networks.ALL)
def test_where_layers_take_their_flops_plans_take_theirs(kind, monkeypatch):
    model, images, cost = build(kind)
    plans = np.random.default_rng(0).integers(1, cost.units + 1, (20, len(cost.units)))
    for idle in (0.0, 1e6):
        watch = Stopwatch(idle)
        monkeypatch.setattr("prune_gym.cost.latency.time_callable", watch.time_callable)
        monkeypatch.setattr("prune_gym.cost.latency.time_model", watch.time_model)
        rest = idle * plans.sum(axis=1) / cost.units.sum()
        np.testing.assert_allclose(measure(model, images, cost)(plans), BATCH_SIZE * cost.flops(plans) + rest)


def test_whole_pruned_networks_are_as_fast_in_order_as_predicted():
    model = networks.enliven(networks.Residual(width=48))
    images, _ = networks.images(BATCH_SIZE, 0)
    cost = CostModel(find_channel_groups(model, images[:1]), model, images[:1])
    pruner = PhysicalPruner(model, images[:1])
    plans = {divisor: np.maximum(1, cost.units // divisor) for divisor in (1, 2, 8)}
    pruned = {
        str(divisor): pruner.prune(
            {
                group.name: [channel for unit in group.units[kept:] for channel in unit]
                for group, kept in zip(cost.groups, plan, strict=True)
            }
        )
        for divisor, plan in plans.items()
    }
    times = compare_models(pruned, images, num_iterations=30, num_warmup=5)
    fastest = [times[name].samples_ms.min() for name in pruned]
    predicted = measure(model, images, cost)(np.array(list(plans.values())))
    assert (np.diff(fastest) < 0).all()
    assert (np.diff(predicted) < 0).all()


def test_layers_are_timed_in_the_networks_own_type(monkeypatch):
    model, images, cost = build(networks.Residual)
    seen = set()

    def note(function, **_):
        seen.update((function.func.weight.dtype, function.args[0].dtype))
        return Timing(np.array([1.0]), "cpu", 1)

    monkeypatch.setattr("prune_gym.cost.latency.time_callable", note)
    measure(model.double(), images.double(), cost)
    assert seen == {torch.float64}

"""Every layer gets its FLOPs, its time and the reason that its shape gives."""

import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

from benchmarks.metrics import SystemMetrics
from benchmarks.system_eval import rounding_gain, slowness
from benchmarks.system_eval.layer_record import LayerRecord
from benchmarks.system_eval.slowness import explain_slowness, reason_of, slowness_table
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.tasks.models import resnet20

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    dense = resnet20(in_channels=3).eval()
    pruner = PhysicalPruner(dense, IMAGES[:1])
    return dense, pruner.prune({group.name: list(range(5)) for group in pruner.groups})


def test_flops_of_the_layers_add_up_to_the_networks(pair, device):
    dense, pruned = (model.to(device) for model in pair)
    report = explain_slowness(dense, pruned, IMAGES.to(device), num_iterations=2, num_warmup=1)
    for model, attribute in ((dense, "dense_flops"), (pruned, "pruned_flops")):
        counted = len(IMAGES) * SystemMetrics.count_flops(model, (1, 3, 16, 16))
        assert sum(getattr(layer, attribute) for layer in report.layers) == counted
    assert report.dense_ms == pytest.approx(sum(layer.dense_ms for layer in report.layers))
    assert all(layer.dense_ms > 0 and layer.pruned_ms > 0 for layer in report.layers)
    names = [name for name, module in dense.named_modules() if next(module.children(), None) is None]
    assert {layer.name for layer in report.layers} <= set(names)
    assert json.loads(json.dumps(report.as_json(), allow_nan=False))["layers"][0]["name"] == "conv1"


def seen(**changes):
    base = LayerRecord("Conv2d", (64, 64), 1, False, 1e8, 1e6, (1, 64, 8, 8), False, 1.0)
    return replace(base, **changes)


DENSE = seen(sizes=(128, 128), flops=4e8, moved_bytes=4e6, ms=4.0)


@pytest.mark.parametrize(
    ("dense", "pruned", "reason"),
    [
        (DENSE, seen(ms=1.0), slowness.FINE),
        (DENSE, seen(sizes=(63, 64), ms=3.0), slowness.ODD),
        (DENSE, seen(sizes=(128, 128), flops=4e8, ms=4.0), slowness.UNPRUNED),
        (DENSE, seen(sizes=(128, 64), flops=2e8, ms=3.5), slowness.NEIGHBOUR),
        (DENSE, seen(flops=1e5, ms=3.0), slowness.SMALL),
        (DENSE, seen(moved_bytes=1e8, ms=3.0), slowness.MEMORY),
        (DENSE, seen(depthwise=True, ms=3.0), slowness.DEPTHWISE),
        (DENSE, seen(ms=3.0), slowness.OVERHEAD),
        (seen(sizes=None, flops=0.0), seen(sizes=None, flops=0.0), slowness.NO_WEIGHTS),
    ],
)
def test_the_reason_is_read_from_the_layers_shape(dense, pruned, reason):
    assert reason_of(dense, pruned) == reason


def test_rounding_gains_are_measured_on_other_channel_counts(pair, monkeypatch):
    calls = []

    def pretend(functions, **kwargs):
        calls.append(set(functions))
        times = {"0": 2.0, "8": 1.0, "16": 1.5, "32": 3.0}
        return {name: type("T", (), {"p50_ms": times[name]})() for name in functions if function_runs(functions[name])}

    def function_runs(function):
        function()
        return True

    monkeypatch.setattr(rounding_gain, "compare_interleaved", pretend)
    report = explain_slowness(*pair, IMAGES, num_iterations=1, num_warmup=0)
    layer = next(layer for layer in report.layers if layer.name == "layer1.0.conv1")
    assert layer.channels == (11, 11)
    assert layer.rounding == 8
    assert layer.rounding_gain_ms == 1.0
    assert {"0", "8", "16"} <= calls[1]
    assert all(layer.rounding is None for layer in report.layers if layer.channels is None)


def test_models_and_their_modes_are_left_as_they_were(pair):
    dense, pruned = pair
    pruned.train()
    before = {name: tensor.clone() for name, tensor in pruned.state_dict().items()}
    explain_slowness(dense, pruned, IMAGES, num_iterations=1)
    assert pruned.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in pruned.modules())
    for name, tensor in pruned.state_dict().items():
        assert torch.equal(tensor, before[name])
    pruned.eval()


def test_the_table_names_layers_reasons_and_totals(pair, capsys):
    report = explain_slowness(*pair, IMAGES, num_iterations=1)
    Console(width=160).print(slowness_table(report, rows=100))
    text = capsys.readouterr().out
    assert "of the FLOPs removed" in text
    assert "layer1.0.conv1" in text
    assert slowness.NO_WEIGHTS in text


def test_networks_that_do_not_belong_together_are_refused(pair):
    dense, pruned = pair
    with pytest.raises(ValueError, match="do not have the same modules"):
        explain_slowness(dense, nn.Conv2d(3, 4, 1), IMAGES)
    with pytest.raises(ValueError, match="num_iterations >= 1"):
        explain_slowness(dense, pruned, IMAGES, num_iterations=0)

"""Metrics count exactly, measure on the model's device, and explain failures."""

import json

import pytest
import safetensors.torch
import torch
from torch import nn

from benchmarks.metrics import SystemMetrics
from prune_gym.tasks.models import resnet20


class Net(nn.Module):
    """Conv (strided, grouped and depthwise), transposed conv, norm and linear: one of each that counts or must not."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4, bias=False)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.up = nn.ConvTranspose2d(12, 4, 2, stride=2)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = self.up(self.depthwise(self.grouped(self.norm(self.conv(x)).relu())))
        return self.fc(x.mean(dim=(2, 3)))


# Input 3x8x8; conv, grouped and depthwise produce 4x4 positions, up reads 4x4 positions.
MACS = 16 * (8 * 3 * 9) + 16 * (12 * 2 * 9) + 16 * (12 * 9) + 16 * (12 * 4 * 4) + 4 * 5
PARAMETERS = (8 * 3 * 9 + 8) + 16 + 12 * 2 * 9 + (12 * 9 + 12) + (12 * 4 * 4 + 4) + (4 * 5 + 5)
SHAPE = (3, 8, 8)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def test_flops_are_twice_the_macs_of_conv_and_linear_counted_by_hand(net):
    assert SystemMetrics.count_flops(net, (1, *SHAPE)) == 2 * MACS


def test_flops_are_of_one_input_whatever_the_batch(net):
    assert SystemMetrics.count_flops(net, (16, *SHAPE)) == 2 * MACS


def test_flops_of_resnet20_match_the_sum_over_layers():
    model = resnet20(num_classes=10, in_channels=3)
    macs = 0

    def add(module, args, output):
        nonlocal macs
        positions = output[0, 0].numel() if output.ndim == 4 else 1
        macs += positions * module.weight.numel()

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(add)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    expected = 2 * macs  # read now: the hooks go on counting
    assert SystemMetrics.count_flops(model, (1, 3, 32, 32)) == expected


def test_parameters_count_frozen_ones_and_shared_ones_once(net):
    assert SystemMetrics.count_parameters(net) == PARAMETERS
    net.conv.weight.requires_grad_(False)
    net.alias = net.fc
    assert SystemMetrics.count_parameters(net) == PARAMETERS


def test_bytes_on_disk_is_the_size_of_the_file(net, tmp_path):
    safetensors.torch.save_file(net.state_dict(), tmp_path / "net.safetensors")
    assert SystemMetrics.bytes_on_disk(net) == (tmp_path / "net.safetensors").stat().st_size


def test_measure_all_reports_every_number_and_its_conditions(net, device):
    net.to(device).train()
    result = SystemMetrics.measure_all(
        net, batch_size=4, input_shape=SHAPE, latency_iterations=3, throughput_iterations=2, num_warmup=1
    )
    assert result["flops"] == 2 * MACS
    assert result["parameters"] == PARAMETERS
    assert result["latency_ms"] > 0
    assert result["latency_std_ms"] >= 0
    assert result["latency_p50_ms"] <= result["latency_p90_ms"] <= result["latency_p99_ms"]
    assert result["throughput_imgs_per_sec"] > 0
    assert result["bytes_on_disk"] > 4 * PARAMETERS
    assert result["batch_size"] == 4
    assert result["input_shape"] == [3, 8, 8]
    assert result["device"] == str(device)
    assert result["dtype"] == "float32"
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert all(module.training for module in net.modules())


def test_throughput_is_the_batch_over_the_latency(net, monkeypatch):
    shapes = []

    def measure_latency(model, input_shape, num_iterations, *, num_warmup):
        shapes.append(tuple(input_shape))
        return 20.0, 0.0

    monkeypatch.setattr(SystemMetrics, "measure_latency", staticmethod(measure_latency))
    assert SystemMetrics.measure_throughput(net, 8, SHAPE) == pytest.approx(400.0)
    assert shapes == [(8, 3, 8, 8)]


def test_measuring_changes_neither_weights_nor_statistics(net):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.train()
    SystemMetrics.measure_latency(net, (2, *SHAPE), 2)
    SystemMetrics.count_flops(net, (1, *SHAPE))
    SystemMetrics.peak_memory(net, (2, *SHAPE))
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in net.parameters())


def test_inputs_have_the_models_dtype(net):
    mean, std = SystemMetrics.measure_latency(net.double(), (1, *SHAPE), 2)
    assert mean > 0
    assert std >= 0


def test_peak_memory_grows_with_the_activations_whatever_was_freed_before():
    """Blocks too small for pages of their own, freed below one that stays, are a hole in the heap that fits the run."""
    blocks = [torch.ones(250_000) for _ in range(400)]
    kept = torch.ones(250_000)
    del blocks

    class Hungry(nn.Module):
        def forward(self, x):
            return x.new_ones(8_000_000 * x.shape[0]).sum()

    peak = SystemMetrics.peak_memory(Hungry(), (8, 1))
    if peak is None:
        pytest.skip("this platform does not report peak memory")
    small = SystemMetrics.peak_memory(Hungry(), (1, 1))
    assert peak[0] - small[0] > 100_000_000
    assert kept.sum() == 250_000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: SystemMetrics.measure_latency(net, (1, *SHAPE), 0), "num_iterations must be at least 1, got 0"),
        (lambda net: SystemMetrics.measure_throughput(net, 4, SHAPE, 0), "num_iterations must be at least 1"),
        (lambda net: SystemMetrics.measure_throughput(net, 0, SHAPE), "batch_size must be at least 1, got 0"),
        (lambda net: SystemMetrics.measure_all(net, -1, SHAPE), "batch_size"),
        (lambda net: SystemMetrics.measure_latency(net, (1, 5, 8, 8)), r"Net does not run on inputs of shape \(1, 5"),
        (lambda net: SystemMetrics.count_flops(net, SHAPE), "does not run on inputs of shape"),
        (lambda net: SystemMetrics.count_flops(net, ()), "an input shape is"),
        (lambda net: SystemMetrics.measure_latency(net, (1, 3, 0, 8)), "all positive"),
        (lambda net: SystemMetrics.measure_latency(nn.Module(), (1, 3)), "Module does not run"),
    ],
)
def test_bad_requests_are_explained(net, call, message):
    with pytest.raises(ValueError, match=message):
        call(net)


def test_a_batch_too_large_for_memory_suggests_a_smaller_one():
    class Exploding(nn.Module):
        def forward(self, x):
            return x.new_empty(1 << 58)

    with pytest.raises(MemoryError, match=r"a batch of 64 inputs of shape \(3,\).*try a batch of 32"):
        SystemMetrics.measure_throughput(Exploding(), 64, (3,))
    with pytest.raises(MemoryError, match="not even one input fits"):
        SystemMetrics.measure_latency(Exploding(), (1, 3))
    with pytest.raises(MemoryError, match="does not fit"):
        SystemMetrics.measure_latency(nn.Identity(), (1 << 40, 1 << 20))

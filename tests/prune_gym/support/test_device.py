import pytest
import torch
from torch import nn

from prune_gym.support import device as devices
from prune_gym.support.device import available_devices, module_device, resolve_device, synchronize


def pretend_gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("gpus", "expected"), [(0, torch.device("cpu")), (1, torch.device("cuda", 0)), (2, torch.device("cpu"))]
)
def test_no_request_means_the_only_gpu_else_the_cpu(monkeypatch, gpus, expected):
    pretend_gpus(monkeypatch, gpus)
    assert resolve_device() == expected


@pytest.mark.parametrize("spec", [1, "1", "cuda:1", torch.device("cuda", 1)])
def test_every_spelling_of_a_gpu_is_understood(monkeypatch, spec):
    pretend_gpus(monkeypatch, 2)
    assert resolve_device(spec) == torch.device("cuda", 1)


def test_an_index_is_filled_in(monkeypatch):
    pretend_gpus(monkeypatch, 1)
    assert resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cpu:0") == torch.device("cpu")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (3, r"device 3 is not present; available here: cpu, cuda:0"),
        (999, "unknown device 999"),
        ("cud", "unknown device 'cud'"),
        (-1, "0 or more"),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_what_is(monkeypatch, spec, message):
    pretend_gpus(monkeypatch, 1)
    with pytest.raises(ValueError, match=message):
        resolve_device(spec)


@pytest.mark.parametrize("spec", [True, 1.0, ["cpu"]])
def test_a_device_of_the_wrong_type_is_refused(spec):
    with pytest.raises(TypeError, match="a device is a name"):
        resolve_device(spec)


def test_the_device_of_a_module_is_that_of_its_tensors(device):
    assert module_device(nn.Linear(2, 2).to(device)) == device
    assert module_device(nn.ReLU()) == torch.device("cpu")


def test_a_model_over_two_devices_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    with pytest.raises(ValueError, match="spread over cpu, meta"):
        module_device(model)


def test_synchronizing_a_present_device_returns(device):
    synchronize(device)
    assert device in available_devices()
    assert available_devices()[0] == torch.device("cpu")
    assert devices.resolve_device(device) == device

"""Networks out of ``torch.export`` archives."""

import pytest
import torch
from torch import nn

from prune_gym import PhysicalPruner
from prune_gym.saving.export import export_program
from prune_gym.saving.exported import ExportedError, exported_network, network_of
from tests.prune_gym.tiny import tiny_task


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    task = tiny_task()
    path = tmp_path_factory.mktemp("archive") / "tiny.pt2"
    export_program(task.model, task.example_input, path)
    return path


def test_it_computes_what_was_exported_under_the_same_names(archive):
    task = tiny_task()
    network = exported_network(archive)
    images = task.test.images[:9]
    assert torch.equal(network(images), task.model(images))
    for name, tensor in task.model.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)


def test_it_can_be_cut_as_the_original_can(archive):
    task = tiny_task()
    plan = {"conv1": [0, 3], "fc1": [1, 2, 5]}
    cut = [
        PhysicalPruner(network, task.example_input).prune(plan) for network in (exported_network(archive), task.model)
    ]
    images = task.test.images[:9]
    torch.testing.assert_close(cut[0](images), cut[1](images))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, stride=2, padding=1, dilation=2),
        nn.Conv2d(3, 6, (3, 1), padding=(1, 0), groups=3, bias=False),
        nn.Conv2d(3, 4, 1),
    ],
)
def test_settings_of_convolutions_are_kept(layer):
    model = nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU6(), nn.Flatten()).eval()
    images = torch.randn(2, 3, 9, 9)
    network = network_of(torch.export.export(model, (images,)))
    torch.testing.assert_close(network(images), model(images))
    assert repr(network.get_submodule("0")) == repr(layer)


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "no.pt2").write_bytes(b"nothing of the kind")
    with pytest.raises(ExportedError, match="cannot be read"):
        exported_network(tmp_path / "no.pt2")
    with pytest.raises(FileNotFoundError):
        exported_network(tmp_path / "nowhere.pt2")
    with pytest.raises(ExportedError, match="no convolution"):
        network_of(torch.export.export(nn.ReLU(), (torch.zeros(1, 3),)))

import pytest
import torch
from torch import nn

from prune_gym.tasks import models
from prune_gym.tasks.models import build_model, register_model, resnet20, resnet56


@pytest.mark.parametrize(("build", "weighted", "parameters"), [(resnet20, 20, 269_434), (resnet56, 56, 852_730)])
def test_depth_and_size_are_those_of_the_paper_plus_the_projections(build, weighted, parameters):
    """He et al. count 0.27 M and 0.85 M with free shortcuts; a 1x1 projection adds its weights and batch norm."""
    model = build(in_channels=1)
    main_path = [
        module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and "downsample" not in name
    ]
    assert len(main_path) == weighted
    projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters + projections


def test_a_block_adds_its_shortcut_before_the_last_relu():
    model = resnet20().eval()
    block = model.layer2[0]
    x = torch.randn(2, 16, 8, 8)
    inner = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    assert torch.equal(block(x), (inner + block.downsample(x)).relu())
    assert block(x).shape == (2, 32, 4, 4)


def test_only_downsampling_blocks_project():
    projected = [name for name, module in resnet20().named_modules() if name.endswith("downsample.0")]
    assert projected == ["layer2.0.downsample.0", "layer3.0.downsample.0"]


def test_convolutions_have_no_bias():
    assert all(module.bias is None for module in resnet56().modules() if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize("size", [16, 28, 32])
def test_widths_classes_channels_and_image_size_are_free(size):
    model = resnet20(num_classes=7, in_channels=3, widths=(4, 6, 9)).eval()
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_two_or_four_widths_are_refused():
    with pytest.raises(ValueError, match="three stages"):
        resnet20(widths=(16, 32))


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(KeyError, match=r"unknown model 'resnet02'.* did you mean 'resnet20'.*resnet56"):
        build_model("resnet02")


def test_a_registered_model_is_built_by_name_and_not_replaced_by_accident(monkeypatch):
    monkeypatch.setattr(models, "MODEL_FACTORIES", dict(models.MODEL_FACTORIES))
    register_model("line", nn.Linear)
    assert build_model("line", in_features=2, out_features=3).weight.shape == (3, 2)
    with pytest.raises(ValueError, match="already registered"):
        register_model("line", nn.Identity)
    register_model("line", nn.Identity, overwrite=True)
    assert isinstance(build_model("line"), nn.Identity)

"""Half of every layer removed from narrow versions of torchvision's networks: every view of the result agrees."""

import json
from functools import partial

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import (
    convnext,
    densenet,
    efficientnet,
    mobilenetv2,
    mobilenetv3,
    regnet,
    resnet,
    vgg,
)
from torchvision.models.googlenet import GoogLeNet, Inception

from benchmarks.studies.evidence import architectures, coverage
from benchmarks.studies.evidence.architectures import Coverage, check_network, rows_of
from benchmarks.studies.evidence.coverage import NETWORKS
from benchmarks.studies.speed import random_networks
from benchmarks.studies.speed.random_networks import enliven, random_images
from hessian import HOBSSensitivityAnalyzer
from prune_gym.saving.checkpoint import load_pruned, save_pruned
from prune_gym.saving.export import export_state_dict
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.surgery.state_dict import read_state_dict, shrink_to

CLASSES = 5


class Unswept(HOBSSensitivityAnalyzer):
    """Factors as ever, but a plan removes the first units of a layer: surgery does not depend on which ones go."""

    def compute_sensitivity(self, dataloader, criterion=None, num_batches=10, *, progress=None):
        self.measure_curvature(dataloader, criterion, num_batches, progress=progress)
        return {}

    def plan(self, kept):
        return {
            group.name: group.channels(range(group.num_units - count))
            for group, count in zip(self.groups, kept, strict=True)
            if count < group.num_units
        }


def narrow_resnet(block, **options):
    return resnet.ResNet(block, [1, 1, 1, 1], num_classes=CLASSES, **options)


def narrow_vgg():
    model = vgg.VGG(vgg.make_layers([8, "M", 12, "M", 16, 16, "M"], batch_norm=True), num_classes=CLASSES)
    model.classifier = nn.Sequential(
        nn.Linear(16 * 49, 24),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(24, 20),
        nn.ReLU(),
        nn.Linear(20, CLASSES),
    )
    return model


def narrow_mobilenet_v3():
    block = partial(mobilenetv3.InvertedResidualConfig, dilation=1, width_mult=1.0)
    blocks = [
        block(16, 3, 16, 16, True, "RE", 2),
        block(16, 3, 32, 24, False, "RE", 2),
        block(24, 5, 48, 24, True, "HS", 1),
    ]
    return mobilenetv3.MobileNetV3(blocks, last_channel=32, num_classes=CLASSES)


def narrow_efficientnet():
    block = partial(efficientnet.MBConvConfig, width_mult=0.25, depth_mult=0.5)
    blocks = [block(1, 3, 1, 32, 16, 1), block(6, 3, 2, 16, 24, 2), block(6, 5, 2, 24, 40, 2)]
    return efficientnet.EfficientNet(blocks, dropout=0.2, last_channel=48, num_classes=CLASSES)


def narrow_convnext():
    blocks = [convnext.CNBlockConfig(16, 24, 1), convnext.CNBlockConfig(24, None, 1)]
    return convnext.ConvNeXt(blocks, num_classes=CLASSES)


def narrow_googlenet():
    model = GoogLeNet(num_classes=CLASSES, aux_logits=False, init_weights=False)
    model.inception3a = Inception(192, 16, 8, 16, 4, 8, 8)
    model.inception3b = Inception(48, 16, 8, 16, 4, 8, 8)
    model.maxpool3 = model.inception4a = model.inception4b = model.inception4c = nn.Identity()
    model.inception4d = model.inception4e = model.maxpool4 = model.inception5a = model.inception5b = nn.Identity()
    model.fc = nn.Linear(48, CLASSES)
    return model


NARROW = {
    "resnet18": partial(narrow_resnet, resnet.BasicBlock),
    "resnet50": partial(narrow_resnet, resnet.Bottleneck, width_per_group=8),
    "resnext50_32x4d": partial(narrow_resnet, resnet.Bottleneck, groups=4, width_per_group=4),
    "wide_resnet50_2": partial(narrow_resnet, resnet.Bottleneck, width_per_group=16),
    "vgg16_bn": narrow_vgg,
    "mobilenet_v2": partial(
        mobilenetv2.MobileNetV2, CLASSES, width_mult=0.25, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2]]
    ),
    "mobilenet_v3_small": narrow_mobilenet_v3,
    "efficientnet_b0": narrow_efficientnet,
    "densenet121": partial(densenet.DenseNet, 8, (2, 2), 16, num_classes=CLASSES),
    "regnet_y_400mf": lambda: regnet.RegNet(
        regnet.BlockParams.from_init_params(4, 16, 8.0, 2.0, group_width=8, se_ratio=0.25), num_classes=CLASSES
    ),
    "convnext_tiny": narrow_convnext,
    "googlenet": narrow_googlenet,
}


def test_a_network_whose_outputs_are_not_numbers_has_failed():
    found = Coverage(1, 2, 0.5, 0, {"sequential": 0.0, "closed_form": float("nan")}, (), 0.1)
    assert not found.passed
    assert rows_of({"net": found})[0]["logit_error"] == {"sequential": 0.0, "closed_form": None}


def test_every_network_of_the_command_has_a_narrow_version():
    assert set(NARROW) == set(NETWORKS) <= set(models.list_models())


@pytest.mark.parametrize("name", NARROW)
def test_evaluator_surgery_and_cost_agree(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = enliven(NARROW[name]())
    found = check_network(model, *random_images(4, 32, CLASSES), analyzer=Unswept)
    assert found.uncounted_flops == 0
    assert found.untrained == ()
    assert max(found.logit_error.values()) <= 1e-4
    assert found.layers >= 4
    assert found.flops_reduction > 0.3


@pytest.mark.parametrize("name", NARROW)
def test_pruned_networks_survive_a_round_trip_through_both_kinds_of_checkpoint(name, tmp_path):
    def factory():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return enliven(NARROW[name]())

    model, (images, _) = factory(), random_images(2, 32, CLASSES)
    pruner = PhysicalPruner(model, images[:1])
    pruned = pruner.prune({group.name: group.channels(range(group.num_units // 2)) for group in pruner.groups})
    loaded = load_pruned(save_pruned(tmp_path / "net", pruned, factory=factory), factory=factory)
    rebuilt = shrink_to(factory(), read_state_dict(export_state_dict(pruned, tmp_path / "plain.pt")))
    with torch.no_grad():
        expected = pruned(images)
        assert torch.equal(loaded(images), expected)
        assert torch.equal(rebuilt(images), expected)


def test_some_networks_leave_the_file_of_all_alone(tmp_path, monkeypatch):
    everything = tmp_path / "coverage.json"
    monkeypatch.setattr(coverage, "RESULTS", everything)
    monkeypatch.setattr(random_networks, "random_network", lambda name: enliven(NARROW[name]()))
    monkeypatch.setattr(random_networks, "random_images", lambda count, size, classes: random_images(4, 32, CLASSES))
    monkeypatch.setattr(architectures, "check_network", partial(check_network, analyzer=Unswept))
    assert coverage.main(["resnet18"]) == 0
    assert not everything.exists()
    assert coverage.main(["resnet18", "--json", str(tmp_path / "one.json")]) == 0
    (row,) = json.loads((tmp_path / "one.json").read_text())["networks"]
    assert row["network"] == "resnet18"

"""Narrow versions of published networks: their structure, in milliseconds."""

from functools import partial

import torch
from torch import nn
from torchvision.models import (
    convnext,
    densenet,
    efficientnet,
    mobilenetv2,
    mobilenetv3,
    regnet,
    resnet,
    shufflenetv2,
    squeezenet,
    vgg,
)
from torchvision.models.googlenet import GoogLeNet, Inception

CLASSES = 5


class NarrowResNet(resnet.ResNet):
    """A ResNet of one block a stage, with a quarter of the channels."""

    def __init__(self, block, **options):
        super().__init__(block, [1, 1, 1, 1], num_classes=CLASSES, **options)
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(16)
        self.fc = nn.Linear(128 * block.expansion, CLASSES)

    def _make_layer(self, block, planes, *args, **options):
        if planes == 64:
            self.inplanes = 16
        return super()._make_layer(block, planes // 4, *args, **options)


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
    "resnet18": partial(NarrowResNet, resnet.BasicBlock),
    "resnet50": partial(NarrowResNet, resnet.Bottleneck, width_per_group=32),
    "resnext50_32x4d": partial(NarrowResNet, resnet.Bottleneck, groups=4, width_per_group=16),
    "wide_resnet50_2": partial(NarrowResNet, resnet.Bottleneck, width_per_group=64),
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
"""Torchvision networks under their names."""


def narrow_squeezenet():
    with torch.no_grad():
        model = squeezenet.SqueezeNet("1_1", num_classes=CLASSES)
        model.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            squeezenet.Fire(8, 4, 8, 8),
            squeezenet.Fire(16, 4, 8, 12),
        )
        model.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(20, CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        return model


def timm_resnet(block, **options):
    from timm.models import resnet as timm_resnets

    if isinstance(block, str):
        block = getattr(timm_resnets, block)
    return timm_resnets.ResNet(block, (1, 1, 1, 1), num_classes=CLASSES, channels=(8, 12, 16, 24), **options)


def narrow_eca():
    return timm_resnet("Bottleneck", block_args={"attn_layer": "eca"})


def narrow_resnest():
    from timm.models.resnest import ResNestBottleneck

    return timm_resnet(ResNestBottleneck, stem_type="deep", stem_width=4, block_args={"radix": 2, "avd": True})


def narrow_res2net():
    from timm.models.res2net import Bottle2neck

    return timm_resnet(Bottle2neck, base_width=26, block_args={"scale": 4})


def narrow_selective_kernel():
    from timm.models.sknet import SelectiveKernelBasic

    return timm_resnet(SelectiveKernelBasic, block_args={"sk_kwargs": {"rd_ratio": 0.5, "split_input": True}})


def narrow_ghostnet():
    from timm.models.ghostnet import GhostNet

    blocks = [[[3, 16, 16, 0, 1]], [[3, 24, 16, 0.25, 2]], [[5, 40, 24, 0, 2]]]
    return GhostNet(blocks, num_classes=CLASSES, width=0.5)


def timm_test(name):
    import timm

    return timm.create_model(name, pretrained=False, num_classes=CLASSES)


NARROW_ZOO = {
    "shufflenet_v2": partial(shufflenetv2.ShuffleNetV2, [2, 2, 2], [8, 16, 24, 32, 40], num_classes=CLASSES),
    "squeezenet": narrow_squeezenet,
    "eca": narrow_eca,
    "resnest": narrow_resnest,
    "res2net": narrow_res2net,
    "selective kernel": narrow_selective_kernel,
    "ghostnet": narrow_ghostnet,
    "timm resnet": partial(timm_test, "test_resnet"),
    "timm efficientnet": partial(timm_test, "test_efficientnet"),
    "timm efficientnet gn": partial(timm_test, "test_efficientnet_gn"),
    "timm convnext": partial(timm_test, "test_convnext"),
    "timm byobnet": partial(timm_test, "test_byobnet"),
}
"""Structures that the networks above do not have."""

"""Published convolutional networks by name: how each is built, with random weights, and what it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

_TIMM = """
    resnet18 resnet26d resnet50 resnet50_gn resnetrs50 resnetblur50 resnetaa50 resnet33ts wide_resnet50_2
    resnext50_32x4d seresnet50 seresnext26d_32x4d ecaresnet26t ecaresnet50t eca_resnet33ts gcresnet50t skresnet18
    skresnext50_32x4d resnest14d resnest50d res2net50_26w_4s res2next50 dla34 dla60x dla60_res2net hrnet_w18_small
    hrnet_w18_small_v2 densenet121 densenetblur121d rdnet_tiny dpn68 dpn68b vgg11_bn inception_v3 inception_v4
    inception_resnet_v2 xception41 legacy_xception mobilenetv1_100 mobilenetv2_100 mobilenetv3_large_100
    mobilenetv3_small_050 mobilenetv4_conv_small efficientnet_b0 efficientnet_es efficientnetv2_rw_t tf_efficientnet_b0
    tf_efficientnet_lite0 tf_efficientnetv2_b0 mixnet_s tf_mixnet_s mnasnet_100 semnasnet_075 spnasnet_100 fbnetc_100
    fbnetv3_b hardcorenas_a tinynet_e lcnet_050 ghostnet_100 ghostnetv2_100 repghostnet_050 rexnet_100 regnetx_002
    regnety_002 regnetz_b16 repvgg_a0 mobileone_s0 gernet_s selecsls42 vovnet39a ese_vovnet19b_dw hgnet_tiny hgnetv2_b0
    cspresnet50 cspresnext50 cspdarknet53 cs3darknet_s cs3darknet_focus_s darknet53 convnext_atto convnext_tiny
    convnextv2_atto inception_next_atto convmixer_768_32 poolformer_s12 mambaout_femto starnet_s1 fasternet_t0
    repvit_m0_9 resnetv2_50 resnetv2_50d_gn nf_resnet50 nf_regnet_b0 eca_nfnet_l0 dm_nfnet_f0
"""
_CLASSIFICATION = """
    alexnet vgg11 vgg11_bn vgg16_bn resnet18 resnet34 resnet50 resnext50_32x4d wide_resnet50_2 squeezenet1_0
    squeezenet1_1 densenet121 densenet169 googlenet inception_v3 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large
    shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 mnasnet0_5 mnasnet1_0 mnasnet1_3
    efficientnet_b0 efficientnet_b1 efficientnet_v2_s regnet_x_400mf regnet_x_800mf regnet_y_400mf regnet_y_800mf
    convnext_tiny
"""
_INCEPTIONS = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False, "aux_logits": False}}
"""Their own initialisation takes minutes; the second one's auxiliary head wants images of 299 pixels."""
_VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18")
_SEGMENTATION = ("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
_TWO_STAGE = ("rpn.head", "roi_heads.box_predictor")
_DETECTION = {
    "fasterrcnn_resnet50_fpn": _TWO_STAGE,
    "fasterrcnn_resnet50_fpn_v2": _TWO_STAGE,
    "fasterrcnn_mobilenet_v3_large_fpn": _TWO_STAGE,
    "fasterrcnn_mobilenet_v3_large_320_fpn": _TWO_STAGE,
    "maskrcnn_resnet50_fpn": (*_TWO_STAGE, "roi_heads.mask_predictor"),
    "keypointrcnn_resnet50_fpn": (*_TWO_STAGE, "roi_heads.keypoint_predictor"),
    "retinanet_resnet50_fpn": ("head",),
    "fcos_resnet50_fpn": ("head",),
    "ssd300_vgg16": ("head",),
    "ssdlite320_mobilenet_v3_large": ("head",),
}
_FEW_PROPOSALS = {
    "rpn_nms_thresh": 1.0,
    "rpn_pre_nms_top_n_test": 60,
    "rpn_post_nms_top_n_test": 60,
    "box_score_thresh": 0.0,
    "box_detections_per_img": 20,
}
_SIZES = {
    "timm/inception_v3": 128,
    "timm/inception_v4": 128,
    "timm/inception_resnet_v2": 128,
    "timm/legacy_xception": 96,
    "timm/selecsls42": 96,
    "torchvision/inception_v3": 128,
    "torchvision/alexnet": 96,
    "torchvision/ssd300_vgg16": 300,
    "torchvision/ssdlite320_mobilenet_v3_large": 320,
}
"""Pixels a side where `SIZE` is too small for the network."""
SIZE = 64
CLASSES = 10


@dataclass(frozen=True)
class Architecture:
    """A published network.

    Attributes:
        library: ``"timm"`` or ``"torchvision"``.
        name: in that library.
        task: ``"classification"``, ``"video"``, ``"segmentation"`` or ``"detection"``.
        size: pixels a side of its images.
        options: arguments of its factory.
        watched: modules whose outputs are compared instead of the network's: a detector's heads.
        auxiliary: whether other modules run in training mode than in evaluation mode.
    """

    library: str
    name: str
    task: str = "classification"
    size: int = SIZE
    options: Mapping[str, Any] = field(default_factory=dict)
    watched: tuple[str, ...] = ()
    auxiliary: bool = False

    @property
    def key(self) -> str:
        """Library and name."""
        return f"{self.library}/{self.name}"

    def build(self, seed: int = 0) -> nn.Module:
        """The network with random weights.

        Raises:
            ImportError: the library is not installed.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.library == "timm":
                import timm

                return timm.create_model(self.name, pretrained=False, num_classes=CLASSES, **self.options)
            import torchvision

            return torchvision.models.get_model(self.name, weights=None, **self.options)

    def example(self, images: int, dtype: torch.dtype, seed: int = 0) -> Any:
        """An input of so many images: a tensor, or a detector's list of images as its one argument."""
        generator = torch.Generator().manual_seed(seed)
        shape = (images, 3, 4, self.size, self.size) if self.task == "video" else (images, 3, self.size, self.size)
        values = torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)
        return (list(values),) if self.task == "detection" else values


def architectures() -> dict[str, Architecture]:
    """All of them by key, timm's first."""
    found = [Architecture("timm", name) for name in _TIMM.split()]
    for name in _CLASSIFICATION.split():
        options: dict[str, Any] = {"num_classes": CLASSES, **_INCEPTIONS.get(name, {})}
        found.append(Architecture("torchvision", name, options=options, auxiliary=name == "googlenet"))
    found += [Architecture("torchvision", name, "video", options={"num_classes": CLASSES}) for name in _VIDEO]
    for name in _SEGMENTATION:
        options = {"weights_backbone": None, "num_classes": CLASSES, "aux_loss": True}
        if name.startswith("lraspp"):
            del options["aux_loss"]
        found.append(Architecture("torchvision", name, "segmentation", options=options))
    found += [_detector(name, watched) for name, watched in _DETECTION.items()]
    sized = (replace(each, size=_SIZES.get(each.key, each.size)) for each in found)
    return {each.key: each for each in sized}


def _detector(name: str, watched: tuple[str, ...]) -> Architecture:
    """A detector that keeps proposals however unsure and however close to another; few, as its images are small."""
    options: dict[str, Any] = {"weights_backbone": None, **(_FEW_PROPOSALS if "rcnn" in name else {})}
    if not name.startswith("ssd"):
        options |= {"min_size": 96, "max_size": 128}
    if "num_keypoints" not in name and not name.startswith("keypoint"):
        options["num_classes"] = CLASSES
    return Architecture("torchvision", name, "detection", 96, options, watched)

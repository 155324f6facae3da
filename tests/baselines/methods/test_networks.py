"""Every method on narrow versions of torchvision's networks."""

import pytest
import torch

from benchmarks.studies.speed.random_networks import enliven, random_images
from tests.baselines.fast import FAST, prune
from tests.narrow_networks import CLASSES, NARROW

METHODS = [name for name in FAST if name != "unpruned"]


@pytest.mark.parametrize("network", ["resnet18", "vgg16_bn", "mobilenet_v2", "densenet121"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("ignore:adaprune removed")
def test_method_runs_on(name, network):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = enliven(NARROW[network]())
    images, labels = random_images(8, 32, CLASSES)
    pruned, info = prune(name, model, [(images, labels)], 0.3, ratio_of="flops", batch_size=4, return_info=True)
    assert pruned(images).shape == (8, CLASSES)
    assert info.on_target or name == "adaprune"

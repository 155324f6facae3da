"""Strided 1x1 convolutions of few channels, trained channels last: a kernel of oneDNN is wrong there."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from prune_gym.training.strided_pointwise import strided_pointwise_avoided

TRAINED_ON_AVX2 = """
import torch
from tests.prune_gym.training.test_strided_pointwise import shortcut, weight_gradient
from prune_gym.training.strided_pointwise import strided_pointwise_avoided
torch.set_num_threads(1)
for channels in range(1, 10):
    model, images, towards = shortcut(channels)
    with strided_pointwise_avoided(model):
        gradient = weight_gradient(model, images, towards)
    expected = weight_gradient(model.double(), images.double(), towards.double()).float()
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)
"""


def shortcut(channels):
    """A shortcut, images that lie channels last, and the gradient of its output."""
    generator = torch.Generator().manual_seed(channels)
    images = torch.randn(32, channels, 16, 16, generator=generator).to(memory_format=torch.channels_last)
    model = nn.Conv2d(channels, 8, 1, stride=2, bias=False)
    return model, images, torch.randn(32, 8, 8, 8, generator=generator)


def weight_gradient(model, images, towards):
    (gradient,) = torch.autograd.grad(model(images), model.weight, towards)
    return gradient


@pytest.mark.parametrize("keyword", [False, True])
def test_the_result_is_the_same_and_the_network_is_left_as_it_was(keyword):
    model, images, _ = shortcut(3)
    expected = conv2d(images, model.weight, stride=2)
    with strided_pointwise_avoided(model):
        assert model.stride == (1, 1)
        torch.testing.assert_close(model(input=images) if keyword else model(images), expected)
    assert model.stride == (2, 2)
    assert not model._forward_pre_hooks
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(16, 4, 1, stride=2),  # enough channels
        nn.Conv2d(3, 4, 1, stride=2, padding=1),  # pixels from beyond the border
        nn.Conv2d(3, 4, 3, stride=2),
        nn.Conv2d(3, 4, 1),
    ],
)
def test_other_convolutions_are_not_touched(other):
    stride = other.stride
    with strided_pointwise_avoided(other):
        assert other.stride == stride
        assert not other._forward_pre_hooks


def test_weight_gradients_are_right_where_the_kernel_is_not():
    """On AVX2, which any x86 processor can be held to, the kernel ends the process."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", TRAINED_ON_AVX2], check=True, env=environment, timeout=120)

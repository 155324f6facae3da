"""A sample of output positions is what the whole layer gives there."""

import math

import pytest
import torch
from torch import nn

from hessian.patches.subsampling import PositionSample

LAYERS = {
    "conv2d": (nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), (4, 11, 9)),
    "reflect": (nn.Conv2d(4, 6, (3, 1), padding=(1, 0), padding_mode="reflect"), (4, 6, 5)),
    "same": (nn.Conv2d(4, 6, 3, padding="same"), (4, 6, 5)),
    "conv1d": (nn.Conv1d(4, 6, 3), (4, 9)),
    "conv3d": (nn.Conv3d(2, 3, 2, padding=1), (2, 4, 3, 5)),
    "tokens": (nn.Linear(4, 6), (7, 4)),
    "linear": (nn.Linear(4, 6), (4,)),
}


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_the_layer_gives_at_the_windows_what_it_gives_at_the_positions(name):
    module, shape = LAYERS[name]
    batches = [torch.randn(5, *shape), torch.randn(3, *shape)]
    outputs = [module(batch) for batch in batches]
    sample = PositionSample(module, outputs, 7)
    single, windows = sample.inputs(module, batches)
    wanted = sample.outputs(outputs)
    assert sum(map(len, wanted)) == 7
    for window, output in zip(windows, wanted, strict=True):
        torch.testing.assert_close(single(window), output)


@torch.no_grad()
def test_every_image_has_its_share_and_the_batches_do_not_matter():
    module, images = nn.Conv2d(2, 3, 3), torch.randn(12, 2, 7, 7)
    marked = torch.arange(12.0).view(12, 1, 1, 1).expand(12, 1, 5, 5)
    wholes = []
    for parts in ((12,), (5, 7)):
        sample = PositionSample(module, [module(part) for part in images.split(parts)], 36)
        drawn = torch.cat(sample.outputs(marked.split(parts))).flatten()
        assert drawn.long().bincount(minlength=12).tolist() == [3] * 12
        wholes.append(torch.cat(sample.outputs([module(part) for part in images.split(parts)])))
    torch.testing.assert_close(*wholes)


def test_all_positions_are_drawn_when_all_are_wanted():
    module = nn.Conv2d(1, 1, 1)
    outputs = [torch.arange(24.0).view(2, 1, 3, 4)]
    sample = PositionSample(module, outputs, math.prod((2, 3, 4)))
    assert torch.cat(sample.outputs(outputs)).flatten().tolist() == list(range(24))

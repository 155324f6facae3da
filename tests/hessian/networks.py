"""Smallest networks that show one structure each, with random weights and lively BatchNorm statistics."""

import torch
from torch import nn

IMAGE = (3, 8, 8)


def enliven(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and BatchNorm statistics, evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            fan = max(1, parameter[0].numel()) if parameter.ndim > 1 else 4
            parameter.data = torch.randn(parameter.shape, generator=generator) * (1.5 / fan**0.5)
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = torch.rand(module.weight.shape, generator=generator) + 0.5
            module.running_mean = torch.randn(module.running_mean.shape, generator=generator) * 0.1
            module.running_var = torch.rand(module.running_var.shape, generator=generator) + 0.5
    return model.eval()


class Residual(nn.Module):
    """Two blocks on one stream, then a projection: 4 layers."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn0 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.down = nn.Conv2d(width, 2 * width, 1, stride=2, bias=True)
        self.conv3 = nn.Conv2d(width, 5, 3, stride=2, padding=1)
        self.conv4 = nn.Conv2d(5, 2 * width, 3, padding=1)
        self.head = nn.Linear(2 * width, 4)

    def forward(self, x):
        x = torch.relu(self.bn0(self.stem(x)))
        x = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + x)
        x = torch.relu(self.conv4(torch.relu(self.conv3(x))) + self.down(x))
        return self.head(x.mean(dim=(2, 3)))


class Concat(nn.Module):
    """Two branches concatenated into one consumer, and a flatten into a Linear."""

    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1)
        self.right = nn.Conv2d(3, 5, 1)
        self.norm = nn.BatchNorm2d(9)
        self.merge = nn.Conv2d(9, 6, 3, stride=4, padding=1)
        self.head = nn.Linear(6 * 4, 4)

    def forward(self, x):
        x = torch.cat([self.left(x), self.right(x)], dim=1)
        x = torch.relu(self.merge(torch.relu(self.norm(x))))
        return self.head(x.flatten(1))


class Grouped(nn.Module):
    """A grouped convolution between two dense ones."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.last = nn.Conv2d(12, 5, 1)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        x = torch.relu(self.last(torch.relu(self.grouped(torch.relu(self.first(x))))))
        return self.head(x.mean(dim=(2, 3)))


class MobileBlock(nn.Module):
    """Expansion, depthwise convolution, squeeze-excitation, projection."""

    def __init__(self):
        super().__init__()
        self.expand = nn.Conv2d(3, 8, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.excite = nn.Conv2d(4, 8, 1)
        self.project = nn.Conv2d(8, 6, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.relu(self.bn1(self.expand(x)))
        x = torch.relu(self.bn2(self.depthwise(x)))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean(dim=(2, 3), keepdim=True)))))
        x = self.bn3(self.project(x * gate))
        return self.head(x.mean(dim=(2, 3)))


class Upsampling(nn.Module):
    """A transposed convolution that consumes and produces prunable channels."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(6, 5, 3, stride=2, padding=1, output_padding=1)
        self.last = nn.Conv2d(5, 4, 3, padding=1)
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        x = torch.relu(self.up(torch.relu(self.first(x))))
        return self.head(torch.relu(self.last(x)).mean(dim=(2, 3)))


class ByPosition(nn.Module):
    """Transposed and plain convolutions, one of them before a BatchNorm, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.up, self.head = nn.ConvTranspose2d(6, 5, 2, stride=2), nn.Linear(5, 4)

    def forward(self, x):
        x = self.up(torch.relu(self.norm(self.first(x))))
        return self.head(x.mean(dim=(2, 3)))


class ByKeyword(ByPosition):
    def forward(self, x):
        x = self.up(input=torch.relu(self.norm(input=self.first(input=x))))
        return self.head(input=x.mean(dim=(2, 3)))


ALL = (Residual, Concat, Grouped, MobileBlock, Upsampling)


def make(kind, seed: int = 0) -> nn.Module:
    return enliven(kind(), seed)


def images(count: int = 24, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *IMAGE, generator=generator)
    return x, torch.randint(0, 4, (count,), generator=generator)

"""Prune a segmentation network: by its mean IoU, or without any labels.

The network is DeepLab in small: a strided backbone, dilated convolutions side by side, and bilinear upsampling.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

import prune_gym
from prune_gym import TensorSplit


def conv(inputs: int, outputs: int, stride: int = 1, dilation: int = 1, size: int = 3) -> nn.Module:
    """Convolution, batch normalisation, ReLU."""
    layer = nn.Conv2d(inputs, outputs, size, stride, dilation * (size // 2), dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class SmallDeepLab(nn.Module):
    """Maps images [N, 1, H, W] to logits [N, classes, H, W]."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv(1, 16, stride=2), conv(16, 32, stride=2), conv(32, 32))
        self.pyramid = nn.ModuleList([conv(32, 16, size=1), conv(32, 16), conv(32, 16, dilation=2)])
        self.project = conv(48, 32, size=1)
        self.head = nn.Conv2d(32, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of every pixel."""
        features = self.backbone(x)
        features = torch.cat([branch(features) for branch in self.pyramid], dim=1)
        scores = self.head(self.project(features))
        return interpolate(scores, scale_factor=4.0, mode="bilinear", align_corners=False)


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy images [N, 1, 32, 32] of a square and a disk, and what every pixel is [N, 32, 32]."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(5, 27, (count, 2, 2, 1, 1), generator=generator)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    away = torch.stack([rows - place[:, :, 0], columns - place[:, :, 1]], dim=2).float()  # [N, 2, 2, 32, 32]
    square = away[:, 0].abs().amax(dim=1) <= 4
    disk = away[:, 1].square().sum(dim=1) <= 25
    masks = torch.where(disk, 2, torch.where(square, 1, 0))
    images = (masks > 0).float()[:, None] + 0.3 * torch.randn(count, 1, 32, 32, generator=generator)
    return images, masks


def mean_iou(model: nn.Module, split: TensorSplit) -> float:
    """Intersection over union, averaged over the classes: higher is better."""
    found = torch.cat([model(part).argmax(dim=1) for part in split.images.split(100)])
    ious = []
    for label in range(3):
        mine, truth = found == label, split.labels == label
        ious.append((mine & truth).sum() / (mine | truth).sum().clamp_min(1))
    return float(torch.stack(ious).mean())


def trained(images: Tensor, masks: Tensor, epochs: int = 6) -> nn.Module:
    """A network that can do it."""
    torch.manual_seed(0)
    model = SmallDeepLab()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(32):
            optimizer.zero_grad()
            cross_entropy(model(images[part]), masks[part]).backward()
            optimizer.step()
    return model.eval()


def main(count: int = 600) -> None:
    """Prune by metric, then by agreement with the dense network."""
    images, masks = pictures(count, seed=0)
    held_out = pictures(200, seed=1)
    model = trained(images, masks)
    by_metric = prune_gym.prune(model, images, masks, val=held_out, metric=mean_iou, flops=0.5)
    print(by_metric.report())  # noqa: T201
    unlabelled = prune_gym.prune(model, images, val=held_out[0], flops=0.5)
    print(unlabelled.report())  # noqa: T201


if __name__ == "__main__":
    main()

"""Prune a small detector by the F1 score of its boxes, or without labels.

The network looks at an 8 x 8 grid and says for every cell whether a box has its centre there, and which one.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss

import prune_gym
from prune_gym import TensorSplit

GRID, CELL = 8, 4


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    """Convolution, batch normalisation, ReLU."""
    layer = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class SmallDetector(nn.Module):
    """Maps images [N, 1, 32, 32] to [N, 5, 8, 8]: a score, the centre within the cell, and the logarithmic size."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv(1, 16, stride=2), conv(16, 32, stride=2), conv(32, 48), conv(48, 48))
        self.score, self.box = nn.Conv2d(48, 1, 1), nn.Conv2d(48, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs of every cell."""
        features = self.backbone(x)
        return torch.cat([self.score(features), self.box(features)], dim=1)


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy images [N, 1, 32, 32] of two bright boxes, and the boxes [N, 2, 4] as (row, column, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.randint(4, 10, (count, 2, 2), generator=generator)
    centre = torch.randint(6, 26, (count, 2, 2), generator=generator)
    boxes = torch.cat([centre, size], dim=2).float()
    axis = torch.arange(32)
    inside = ((axis - centre[..., None]).abs() * 2 <= size[..., None]).float()  # [N, 2, 2, 32]
    images = torch.einsum("nbi,nbj->nbij", inside[:, :, 0], inside[:, :, 1]).amax(dim=1, keepdim=True)
    return images + 0.2 * torch.randn(images.shape, generator=generator), boxes


def targets(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Which cells hold a centre [N, 8, 8], and the regression targets there [N, 4, 8, 8]."""
    wanted, values = torch.zeros(len(boxes), GRID, GRID), torch.zeros(len(boxes), 4, GRID, GRID)
    cells = (boxes[..., :2] / CELL).long()
    for image, box in ((image, box) for image in range(len(boxes)) for box in range(boxes.shape[1])):
        row, column = cells[image, box].tolist()
        wanted[image, row, column] = 1.0
        offset = boxes[image, box, :2] / CELL - cells[image, box]
        values[image, :, row, column] = torch.cat([offset, boxes[image, box, 2:].div(CELL).log()])
    return wanted, values


def loss(outputs: Tensor, wanted: Tensor, values: Tensor) -> Tensor:
    """Score everywhere, box where there is one."""
    there = wanted[:, None] > 0
    return binary_cross_entropy_with_logits(outputs[:, 0], wanted) + smooth_l1_loss(
        outputs[:, 1:][there.expand_as(values)], values[there.expand_as(values)]
    )


def boxes_of(outputs: Tensor) -> list[Tensor]:
    """Boxes [n, 4] of every image whose score is above one half."""
    found = []
    for image in outputs:
        rows, columns = (image[0] > 0).nonzero(as_tuple=True)
        values = image[1:, rows, columns].T
        centre = (values[:, :2] + torch.stack([rows, columns], dim=1)) * CELL
        found.append(torch.cat([centre, values[:, 2:].exp() * CELL], dim=1))
    return found


def iou(mine: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of boxes [n, 4] and [m, 4]: [n, m]."""
    low = torch.maximum((mine[:, :2] - mine[:, 2:] / 2)[:, None], (truth[:, :2] - truth[:, 2:] / 2)[None])
    high = torch.minimum((mine[:, :2] + mine[:, 2:] / 2)[:, None], (truth[:, :2] + truth[:, 2:] / 2)[None])
    shared = (high - low).clamp_min(0).prod(dim=2)
    return shared / (mine[:, 2:].prod(dim=1)[:, None] + truth[:, 2:].prod(dim=1)[None] - shared)


def f1_score(model: nn.Module, split: TensorSplit) -> float:
    """F1 of boxes that overlap a true one by half: higher is better."""
    right = found = 0
    outputs = torch.cat([model(part) for part in split.images.split(100)])
    for mine, truth in zip(boxes_of(outputs), split.labels, strict=True):
        found += len(mine)
        right += int((iou(mine, truth) > 0.5).any(dim=0).sum()) if len(mine) else 0
    return 2 * right / (found + split.labels.shape[0] * split.labels.shape[1])


def trained(images: Tensor, boxes: Tensor, epochs: int = 10) -> nn.Module:
    """A detector that finds most boxes."""
    torch.manual_seed(0)
    model = SmallDetector()
    wanted, values = targets(boxes)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(32):
            optimizer.zero_grad()
            loss(model(images[part]), wanted[part], values[part]).backward()
            optimizer.step()
    return model.eval()


def main(count: int = 800) -> None:
    """Prune by metric, then by agreement with the dense network."""
    images, boxes = pictures(count, seed=0)
    held_out = pictures(200, seed=1)
    model = trained(images, boxes)
    options = {"val": held_out, "flops": 0.5, "outputs": "numbers"}
    print(prune_gym.prune(model, images, boxes, metric=f1_score, **options).report())  # noqa: T201
    print(prune_gym.prune(model, images, val=held_out[0], flops=0.5, outputs="numbers").report())  # noqa: T201


if __name__ == "__main__":
    main()

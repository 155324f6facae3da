"""Prune a network whose outputs are numbers: where a blob is, and how wide."""

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import prune_gym
from prune_gym import TensorSplit


def network() -> nn.Module:
    """Maps images [N, 1, 24, 24] to (row, column, width) [N, 3]."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 48)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(48 * 9, 64), nn.ReLU(), nn.Linear(64, 3))


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy images of a Gaussian blob, and its place and width, in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    truth = 2 * torch.rand(count, 3, generator=generator) - 1
    axis = torch.linspace(-1.2, 1.2, 24)
    width = (0.3 + 0.15 * truth[:, 2])[:, None, None]
    rows, columns = (axis - truth[:, :1])[:, :, None], (axis - truth[:, 1:2])[:, None, :]
    images = torch.exp(-(rows.square() + columns.square()) / (2 * width.square()))[:, None]
    return images + 0.1 * torch.randn(images.shape, generator=generator), truth


def r_squared(model: nn.Module, split: TensorSplit) -> float:
    """Share of the variance that is explained: higher is better, 1 at most."""
    found = torch.cat([model(part) for part in split.images.split(100)])
    return float(1 - mse_loss(found, split.labels) / split.labels.var(dim=0).mean())


def trained(images: Tensor, truth: Tensor, epochs: int = 10) -> nn.Module:
    """A network that measures blobs."""
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(32):
            optimizer.zero_grad()
            mse_loss(model(images[part]), truth[part]).backward()
            optimizer.step()
    return model.eval()


def main(count: int = 800) -> None:
    """Prune by metric, then by agreement with the dense network."""
    images, truth = pictures(count, seed=0)
    held_out = pictures(200, seed=1)
    model = trained(images, truth)
    print(prune_gym.prune(model, images, truth, val=held_out, metric=r_squared, flops=0.5).report())  # noqa: T201
    print(prune_gym.prune(model, images, val=held_out[0], flops=0.5, outputs="numbers").report())  # noqa: T201


if __name__ == "__main__":
    main()

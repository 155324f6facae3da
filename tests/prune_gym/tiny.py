"""A pruning problem small enough for tests: real digits, a network of four layers trained for a second."""

from functools import cache
from typing import Any

import gymnasium as gym
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from prune_gym.tasks import PruningTask, register_task


class TinyNet(nn.Module):
    """Two convolutions, a residual one and a hidden linear layer: four prunable layers, one of them a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1, stride=2, bias=False)
        self.bn2 = nn.BatchNorm2d(12)
        self.conv3 = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(12)
        self.fc1 = nn.Linear(12 * 4, 16)
        self.fc2 = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = torch.relu(x + self.bn3(self.conv3(x)))
        x = torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.fc2(torch.relu(self.fc1(x)))


@cache
def _trained() -> tuple[TinyNet, torch.Tensor, torch.Tensor]:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8.0 - 0.6
    labels = torch.tensor(digits.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TinyNet()
        order = torch.randperm(len(labels))
        images, labels = images[order], labels[order]
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(6):
            for batch in torch.randperm(1000).split(50):
                optimizer.zero_grad()
                cross_entropy(model(images[batch]), labels[batch]).backward()
                optimizer.step()
    return model.eval().requires_grad_(True), images, labels


def tiny_task(name: str = "tiny") -> PruningTask:
    model, images, labels = _trained()
    for parameter in model.parameters():
        parameter.grad = None
    return PruningTask(
        name=name,
        model=model,
        example_input=images[:1],
        calibration=(images[:200], labels[:200]),
        reward=(images[1000:1300], labels[1000:1300]),
        test=(images[1300:], labels[1300:]),
        default_target=0.7,
        train=(images[:1000], labels[:1000]),
    )


def register_tiny() -> None:
    """Make the task available by name in this process; also what a spawned process calls."""
    register_task("tiny", tiny_task, overwrite=True)


def make_tiny_env(env_id: str = "HOBSPrune-v0", **kwargs: Any) -> gym.Env:
    """An environment on the tiny task, in whatever process this is called in."""
    register_tiny()
    return gym.make(f"prune_gym:{env_id}", task="tiny", **kwargs)

"""A task that a whole run of the main job takes seconds on, registered as ``crash-cnn`` when this is imported."""

from __future__ import annotations

import torch
from torch import nn

from prune_gym.data.splits import load_digits_splits
from prune_gym.tasks import PruningTask, register_task, task_names

NAME = "crash-cnn"

CONFIG = """
model: {{name: cnn}}
dataset: {{name: crash}}
pruning:
  target_flops_reduction: 0.6
  rspar: {{num_episodes: 4, hidden_dim: 8}}
  reconstruction: {{steps: 10, images: 60, candidates: [{{learning_rate: 0.004}}, {{learning_rate: 0.001}}]}}
  finetune: {{epochs: 2, batch_size: 32}}
experiment: {{name: crash, save_dir: {save_dir}, random_seeds: [3]}}
"""

SWEEP = """
name: crash
save_dir: {save_dir}
methods: [hobs-uniform, hobs-knapsack]
tasks: [crash-cnn]
targets: [0.6]
seeds: [3]
run:
  pruning: {{reconstruction: {{steps: 5, images: 60}}, finetune: {{epochs: 1, batch_size: 32}}}}
"""


def build() -> PruningTask:
    """Three convolutions with random weights, on a few hundred digits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
            *(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
        )
    splits = load_digits_splits()
    return PruningTask(
        name=NAME,
        model=model.eval(),
        example_input=splits.train.images[:1],
        calibration=splits.calibration.subset(slice(60)),
        reward=splits.reward.subset(slice(60)),
        test=splits.test.subset(slice(60)),
        train=splits.train.subset(slice(120)),
    )


if NAME not in task_names():
    register_task(NAME, build)

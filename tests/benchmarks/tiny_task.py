"""The smallest real task the main job runs on: a three-layer CNN on a few hundred digits."""

import copy
import functools
from dataclasses import replace

import torch
from torch import nn

from prune_gym.data.splits import load_digits_splits
from prune_gym.tasks import PruningTask, register_task, task_names
from prune_gym.training import train_dense

CONFIG = """\
model: {{name: cnn}}
dataset: {{name: tiny}}
pruning:
  target_flops_reduction: 0.6
  rspar: {{num_episodes: 6, hidden_dim: 8}}
  reconstruction: {{steps: 30, images: 150, candidates: [{{learning_rate: 0.004}}, {{learning_rate: 0.001}}]}}
  finetune: {{epochs: 1, batch_size: 32}}
experiment: {{name: tiny, save_dir: "{save_dir}", random_seeds: [3]}}
"""


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10)),
    )


@functools.cache
def trained():
    splits = load_digits_splits()
    model = network()
    train_dense(model, splits.train.subset(slice(500)), epochs=10, lr=0.1, batch_size=50)
    return model.eval(), splits


def build():
    model, splits = trained()
    return PruningTask(
        name="tiny-cnn",
        model=model,
        example_input=splits.train.images[:1],
        calibration=splits.calibration.subset(slice(100)),
        reward=splits.reward.subset(slice(100)),
        test=splits.test.subset(slice(200)),
        train=splits.train.subset(slice(200)),
    )


def another():
    """The same task with another dense network, as after training it again elsewhere."""
    task = build()
    model = copy.deepcopy(task.model)
    with torch.no_grad():
        model[0].weight.mul_(1.01)
    return replace(task, model=model)


def shallow():
    """Another network, of two layers instead of three, on the same images."""
    task = build()
    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Conv2d(1, 10, 3, stride=2, padding=1), nn.BatchNorm2d(10), nn.ReLU()),
        *(nn.Conv2d(10, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)),
    )
    return PruningTask(
        name="tiny-shallow",
        model=model.eval(),
        example_input=task.example_input,
        calibration=task.calibration,
        reward=task.reward,
        test=task.test,
    )


def register(name="tiny-cnn", factory=build):
    if name not in task_names():
        register_task(name, factory, default_target=0.5, description="for the tests")

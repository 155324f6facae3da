"""Half of every layer removed from narrow versions of torchvision's networks: every view of the result agrees."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from benchmarks.metrics.system_metrics import SystemMetrics
from benchmarks.studies.speed.random_networks import enliven, random_images
from hessian import HOBSSensitivityAnalyzer
from prune_gym.cost.model import CostModel
from prune_gym.data.splits import TensorSplit
from prune_gym.measuring.evaluator import Evaluator
from prune_gym.measuring.repair import REPAIRS
from prune_gym.saving.checkpoint import load_pruned, save_pruned
from prune_gym.saving.export import export_state_dict
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.surgery.state_dict import read_state_dict, shrink_to
from prune_gym.tasks.task import PruningTask
from tests.narrow_networks import CLASSES, NARROW

TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest logit."""


class Unswept(HOBSSensitivityAnalyzer):
    """Factors as ever, but a plan removes the first units of a layer: surgery does not depend on which ones go."""

    def plan(self, kept):
        return {
            group.name: group.channels(range(group.num_units - count))
            for group, count in zip(self.groups, kept, strict=True)
            if count < group.num_units
        }


def made(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return enliven(NARROW[name]())


def trained(model, images, labels):
    """Parameters that get a finite gradient in a forward and backward pass."""
    parameters = dict(model.requires_grad_(True).named_parameters())
    loss = cross_entropy(model(images), labels)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name
        for name, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None and torch.isfinite(gradient).all()
    }


@pytest.mark.parametrize("name", NARROW)
def test_evaluator_surgery_and_cost_agree(name):
    model, (images, labels) = made(name), random_images(4, 32, CLASSES)
    split = TensorSplit(images, labels)
    task = PruningTask("known", model, images[:1], calibration=split, reward=split, test=None)
    hobs = Unswept(model, example_input=images[:1])
    hobs.measure_curvature(split.batches(8), num_batches=None)
    kept = np.array([max(1, group.num_units // 2) for group in hobs.groups])
    for repair in REPAIRS:
        evaluator = Evaluator(task, hobs, repair)
        small = evaluator.export(kept)
        with torch.no_grad():
            physical = small(images)
        assert (evaluator.logits(kept, images) - physical).abs().max() <= TOLERANCE * physical.abs().max()
    cost = CostModel(hobs.groups, model, images[:1])
    assert cost.flops(kept) == SystemMetrics.count_flops(small, (1, *images.shape[1:]))
    assert trained(model, images, labels) <= trained(small, images, labels)
    assert len(hobs.groups) >= 4
    assert cost.reduction(kept) > 0.3


@pytest.mark.parametrize("name", NARROW)
def test_pruned_networks_survive_a_round_trip_through_both_kinds_of_checkpoint(name, tmp_path):
    images, _ = random_images(2, 32, CLASSES)
    pruner = PhysicalPruner(made(name), images[:1])
    pruned = pruner.prune({group.name: group.channels(range(group.num_units // 2)) for group in pruner.groups})
    loaded = load_pruned(save_pruned(tmp_path / "net", pruned, factory=lambda: made(name)), factory=lambda: made(name))
    rebuilt = shrink_to(made(name), read_state_dict(export_state_dict(pruned, tmp_path / "plain.pt")))
    with torch.no_grad():
        expected = pruned(images)
        assert torch.equal(loaded(images), expected)
        assert torch.equal(rebuilt(images), expected)

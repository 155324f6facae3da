"""The examples of networks that do not classify run, and pruning hardly hurts them."""

import importlib.util
from pathlib import Path

import pytest

import prune_gym
from prune_gym.reconstruction.settings import Reconstruction

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
METRICS = {"segmentation": "mean_iou", "detection": "f1_score", "regression": "r_squared"}


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"prune_{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", METRICS)
def test_pruned_by_metric_and_by_agreement(name, tmp_path):
    example = load(name)
    images, truth = example.pictures(200, seed=0)
    held_out = example.pictures(100, seed=1)
    model = example.trained(images, truth, epochs=4)
    metric = getattr(example, METRICS[name])
    outputs = "classes" if name == "segmentation" else "numbers"
    options = {"flops": 0.4, "outputs": outputs, "reconstruct": Reconstruction(steps=40), "cache_dir": tmp_path}
    by_metric = prune_gym.prune(model, images, truth, val=held_out, metric=metric, **options)
    assert by_metric.scored_by == METRICS[name].replace("_", " ")
    assert by_metric.pruned.score.value > by_metric.dense.score.value - 0.15
    unlabelled = prune_gym.prune(model, images, val=held_out[0], **options)
    assert unlabelled.scored_by == "agreement with the dense network"
    assert unlabelled.dense.score.value == pytest.approx(1.0)
    assert 0.7 < unlabelled.pruned.score.value <= 1.0
    assert by_metric.flops_reduction >= 0.4
    assert unlabelled.flops_reduction >= 0.4

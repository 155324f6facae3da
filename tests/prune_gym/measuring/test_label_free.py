"""Plans judged by the dense network instead of labels, and after the first steps of a reconstruction."""

import math
from dataclasses import replace

import gymnasium as gym
import pytest
import torch
from torch.nn.functional import kl_div, log_softmax

from hessian.channels.slicing import NetworkSlicer, installed
from prune_gym.measuring.curvature_cache import CurvatureSettings
from prune_gym.measuring.measurement_key import measurement_key
from prune_gym.measuring.repair import make_repair
from prune_gym.problem import PruningProblem
from tests.hessian import networks
from tests.prune_gym.measuring.test_evaluator import evaluator_of, half


def test_judges_and_repairs_have_measurements_of_their_own():
    task = evaluator_of(networks.Residual, "none").task
    keys = {
        measurement_key(replace(task, metric=metric), CurvatureSettings(), repair, "hobs")
        for metric in (None, "agreement")
        for repair in ("sequential", "reconstructed")
    }
    assert len(keys) == 4


@torch.no_grad()
def test_a_short_reconstruction_comes_closer_to_the_dense_network_and_is_the_same_every_time():
    evaluator = evaluator_of(networks.Residual, "sequential")
    task, hobs = evaluator.task, evaluator.hobs
    cut = NetworkSlicer(task.model, hobs.groups).cut(hobs.plan(half(evaluator)))
    images, distances, states = task.reward.images, {}, {}
    dense = task.model(images)
    for name in ("sequential", "reconstructed"):
        repair = make_repair(name, task, hobs)
        states[name] = repair.state(cut)
        again = repair.state(cut)
        assert all(torch.equal(tensor, again[key]) for key, tensor in states[name].items())
        with installed(task.model, states[name], cut.attributes):
            logs = [log_softmax(logits, dim=1) for logits in (dense, task.model(images))]
        distances[name] = kl_div(logs[1], logs[0], reduction="batchmean", log_target=True).item()
    assert distances["reconstructed"] < distances["sequential"]
    assert math.isfinite(distances["reconstructed"])


def test_environments_take_the_judge_and_the_short_reconstruction():
    env = gym.make("HOBSPrune-v0", judge="dense", repair="reconstructed", target_flops_reduction=0.9)
    _, info = env.reset(seed=0)
    assert env.unwrapped.problem.dense.accuracy == 1.0  # it agrees with itself
    assert 0.5 < info["accuracy"] < 1.0
    assert 0.0 < info["loss"] < 1.0


def test_an_unknown_judge_is_refused():
    with pytest.raises(ValueError, match="unknown judge 'teacher'"):
        PruningProblem("digits-resnet20", judge="teacher")

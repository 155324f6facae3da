"""Kernels of a plan are kept, and not those of a whole search; a user's own number stands."""

import os
import subprocess
import sys

import pytest

from prune_gym.problem.problem import PruningProblem
from prune_gym.support.kernel_cache import VARIABLES, bound_kernels
from tests.pages import ROOT
from tests.prune_gym.tiny import tiny_task


@pytest.mark.parametrize(("layers", "kernels"), [(5, "512"), (100, "800"), (320, "1024")])
def test_the_bound_follows_the_network_and_is_never_more_than_without_it(monkeypatch, layers, kernels):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    bound_kernels(layers)
    assert [os.environ[variable] for variable in VARIABLES] == [kernels, kernels]


def test_a_problem_sets_the_bound_before_its_network_runs_and_leaves_the_user_s_alone(monkeypatch, tmp_path):
    for variable, value in zip(VARIABLES, ("7", None), strict=True):
        monkeypatch.delenv(variable, raising=False)
        if value is not None:
            monkeypatch.setenv(variable, value)
    PruningProblem(tiny_task(), device="cpu", cache_dir=tmp_path)
    assert [os.environ[variable] for variable in VARIABLES] == ["7", "512"]


SHAPES = """
import os, sys, torch
from prune_gym.support.kernel_cache import bound_kernels
from benchmarks.metrics.measured_memory import resident_mib
if sys.argv[1] == "bounded":
    bound_kernels(20)
torch.set_num_threads(1)
def run(first, last):
    for number in range(first, last):
        channels, filters = 8 + number % 40, 8 + number // 40
        torch.nn.functional.conv2d(torch.randn(2, channels, 8, 8), torch.randn(filters, channels, 3, 3))
    return resident_mib()
print(run(0, 600) - run(600, 1000))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process's memory")
def test_new_shapes_add_less_memory_once_so_many_were_seen():
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    grown = {}
    for arm in ("bounded", "not"):
        command = [sys.executable, "-c", SHAPES, arm]
        grown[arm] = -float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert grown["bounded"] < 0.5 * grown["not"]

"""What several tests of studies stand on."""

import functools

import pytest

from benchmarks.job import pipeline
from benchmarks.studies.engine import running
from prune_gym.problem import PruningProblem
from tests.benchmarks import tiny_task

DRAW = running.draw


@pytest.fixture(scope="module")
def tiny_problem():
    """The smallest task, loaded."""
    tiny_task.register()
    return PruningProblem("tiny-cnn").load()


@pytest.fixture
def quick_job(monkeypatch):
    """The main job without pictures and with one measurement a time, for tests that look at neither."""
    monkeypatch.setattr(pipeline, "save_plots", lambda *_: None)
    monkeypatch.setattr(pipeline, "measure_networks", functools.partial(pipeline.measure_networks, num_iterations=1))


@pytest.fixture
def undrawn(monkeypatch):
    """Studies without pictures, for tests that do not look at them."""
    monkeypatch.setattr(running, "draw", lambda report: None)


@pytest.fixture
def drawn(undrawn, monkeypatch):
    """Studies with pictures, where those of the other tests have none."""
    monkeypatch.setattr(running, "draw", DRAW)

"""What several tests of studies stand on."""

import pytest

from prune_gym.problem import PruningProblem
from tests.benchmarks import tiny_task


@pytest.fixture(scope="module")
def tiny_problem():
    """The smallest task, loaded."""
    tiny_task.register()
    return PruningProblem("tiny-cnn").load()

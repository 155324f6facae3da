"""What several tests of studies stand on."""

import pytest

from prune_gym.problem import PruningProblem
from tests.benchmarks import tiny_task


@pytest.fixture(scope="module")
def tiny_problem(tmp_path_factory):
    """The smallest task, loaded; for as long as a module's tests run it goes by its name, with one cache for all."""
    tiny_task.register()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNE_GYM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield PruningProblem("tiny-cnn").load()

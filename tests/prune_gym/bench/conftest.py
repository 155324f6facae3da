import pytest

from prune_gym.bench.networks import write_networks
from tests.prune_gym.bench.synthetic import networks


@pytest.fixture(scope="session")
def bench_file(tmp_path_factory):
    """A file of five networks made from formulas."""
    return write_networks(tmp_path_factory.mktemp("bench") / "networks.safetensors", networks())

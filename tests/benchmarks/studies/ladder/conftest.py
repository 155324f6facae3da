from tests.prune_gym.bench.conftest import bench_file

__all__ = ["bench_file"]

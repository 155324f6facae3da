"""Cells of a study on a cluster of two nodes of different size: one is lost, and no finished cell is."""

import functools
import os
import time
from dataclasses import dataclass

import pytest
from rich.console import Console

from benchmarks.studies.engine.running import run_cells
from benchmarks.sweep.ray_workers import RayWorkers
from tests.benchmarks.studies.engine.grid import Squares, results

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")


@dataclass(frozen=True)
class Held(Squares):
    """Cells that say where they run. On the second node the first ends and the others wait, until the file `lost`."""

    second: str = ""

    def run(self, cell):
        node = ray.get_runtime_context().get_node_id()
        with (self.folder / f"begun-{cell.value}").open("a") as file:
            file.write(f"{node} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
        if node == self.second:
            try:
                (self.folder / "first").open("x").close()
            except FileExistsError:
                while not (self.folder / "lost").exists():
                    time.sleep(0.1)
        return super().run(cell) | {"node": node, "device": str(self.device)}


def begin(study, device):
    return Held(study.folder, study.count, second=study.second, device=device).run


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_nodes_of_different_size_share_the_cells_and_a_lost_one_loses_none(tmp_path):
    small = {"num_cpus": 1, "num_gpus": 1, "include_dashboard": False}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=small)
    second = cluster.add_node(num_cpus=2, num_gpus=2)
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        study = Held(tmp_path, count=3, second=second.node_id)
        study.open()
        workers = RayWorkers(None, None, threads=1, gpu=True)
        there, removed = [], False
        for cell in run_cells(study, functools.partial(begin, study), workers, Console()):
            there.append((cell.value, study.store.result(cell)["node"]))
            if not removed and study.store.result(cell)["node"] == second.node_id:
                finished = study.store.result(cell)
                wait_until(lambda: sum(second.node_id in path.read_text() for path in tmp_path.glob("begun-*")) > 1)
                cluster.remove_node(second, allow_graceful=False)
                (tmp_path / "lost").touch()
                removed = True
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert removed
    assert results(tmp_path) == {f"number-{value}": value**2 for value in range(3)}
    on_second = [value for value, node in there if node == second.node_id]
    assert on_second
    begun = [(tmp_path / f"begun-{value}").read_text().splitlines() for value in range(3)]
    # What the lost node had finished is as it was; what it was at was begun again on the other.
    assert all(len(begun[value]) == 1 for value in on_second)
    assert any(len(nodes) == 2 for nodes in begun)
    assert {line.split()[1] for nodes in begun for line in nodes if second.node_id in line} == {"0", "1"}
    assert finished["device"] == "cuda:0"

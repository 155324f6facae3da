"""Two processes, each with half of the batches, find what one process finds with all of them."""

import itertools
import weakref
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from hessian import HOBSSensitivityAnalyzer, KFACHessianApproximator
from hessian.obs.moments import DenseMoment, RowMoment
from hessian.support.distributed import SingleProcess, current_workers, shares
from tests.hessian import networks

PROCESSES = 2
PATIENCE = timedelta(seconds=60)


def join_group(rank, folder, name):
    store = f"file://{folder}/{name}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES, timeout=PATIENCE)


def in_a_process(rank, folder):
    """All that needs two processes, in two: starting one takes longer than any of it."""
    torch.set_num_threads(1)
    train_and_leave(rank, folder)
    join_group(rank, folder, "rendezvous")
    try:
        for job in (save_analysis, hooked, one_has_no_images):
            job(rank, folder)
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What both processes wrote; an error in one ends both and is raised here."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(in_a_process, args=(str(folder),), nprocs=PROCESSES)
    return folder


class Mixed(nn.Module):
    """Dense factors in front, rows behind: 12 images are few for the wide Linear."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 8, 3, padding=1)
        self.hidden = nn.Linear(8 * 64, 20)
        self.head = nn.Linear(20, 4)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        return self.head(torch.relu(self.hidden(x.flatten(1))))


def batches():
    """Four batches, of unequal sizes."""
    x, y = networks.images(12)
    return list(zip(x.split([4, 3, 2, 3]), y.split([4, 3, 2, 3]), strict=True))


def analyse(loader, fisher="sketch"):
    hobs = HOBSSensitivityAnalyzer(networks.make(Mixed), fisher=fisher, trace_calibration=True)
    hobs.compute_sensitivity(loader, num_batches=None)
    return hobs


def save_analysis(rank, folder):
    for fisher in ("sketch", "type-2"):
        torch.save(analyse(batches()[rank::PROCESSES], fisher).tensors(), f"{folder}/{fisher}{rank}.pt")


def test_two_processes_find_what_one_finds(folder):
    for fisher in ("sketch", "type-2"):
        alone = analyse(batches(), fisher)
        assert isinstance(alone.factors["hidden"].inputs, RowMoment)
        assert isinstance(alone.factors["second"].inputs, DenseMoment)
        expected, metadata = alone.tensors()
        plan = alone.get_pruning_plan(0.5)
        for rank in range(PROCESSES):
            tensors, same_metadata = torch.load(folder / f"{fisher}{rank}.pt")
            assert same_metadata == metadata
            for name, tensor in expected.items():
                if not name.endswith("/rows"):
                    torch.testing.assert_close(tensors[name], tensor, rtol=1e-5, atol=1e-7, msg=name)
            other = HOBSSensitivityAnalyzer(alone.model, example_input=networks.images(1)[0])
            other.restore(tensors, metadata)
            assert other.get_pruning_plan(0.5) == plan
            for name, tensor in other.compensate(plan).items():
                torch.testing.assert_close(tensor, alone.compensate(plan)[name], rtol=1e-5, atol=1e-5)


def hooked(rank, folder):
    model = networks.make(networks.Residual)
    with KFACHessianApproximator(model, update_freq=1).register_hooks() as kfac:
        x, y = networks.images(8)
        share = slice(4 * rank, 4 * rank + 4)
        torch.nn.functional.cross_entropy(model(x[share]), y[share]).backward()
        kfac.update_factors()
    torch.save((kfac.factors["conv1"].A, kfac.factors["conv1"].G), f"{folder}/factors{rank}.pt")


def test_hooks_in_a_data_parallel_loop_see_all_images(folder):
    model, (x, y) = networks.make(networks.Residual), networks.images(8)
    expected = KFACHessianApproximator(model).estimate([(x, y)], None, None, "empirical")["conv1"]
    for rank in range(PROCESSES):
        A, G = torch.load(folder / f"factors{rank}.pt")
        torch.testing.assert_close(A, expected.A)
        torch.testing.assert_close(G, expected.G)


def one_has_no_images(rank, folder):
    with pytest.raises(ValueError if rank else RuntimeError, match=r"no images|failed in process \[1\]"):
        analyse(batches() if rank == 0 else [])
    Path(folder, f"told{rank}").touch()


def test_an_error_in_one_process_ends_the_others_instead_of_leaving_them_waiting(folder):
    assert all((folder / f"told{rank}").is_file() for rank in range(PROCESSES))


def train_and_leave(rank, folder):
    """The optimizer's first step imports what holds on to a group that is there already."""
    join_group(rank, folder, "before")
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    group = weakref.ref(dist.group.WORLD)
    dist.destroy_process_group()
    assert group() is None
    Path(folder, f"left{rank}").touch()


def test_a_group_ends_with_its_threads_when_it_is_left(folder):
    assert all((folder / f"left{rank}").is_file() for rank in range(PROCESSES))


def test_the_exact_path_is_refused():
    class OneOfTwo(SingleProcess):
        size = 2

    with pytest.raises(ValueError, match="one process"):
        HOBSSensitivityAnalyzer(networks.make(Mixed), use_kfac=False, workers=OneOfTwo()).compute_sensitivity(batches())


def test_without_a_process_group_nothing_is_shared():
    assert isinstance(current_workers(torch.device("cpu")), SingleProcess)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_shares_cover_all_jobs_and_are_no_worse_than_the_greedy_bound(size):
    costs = [float(cost) for cost in (5, 1, 8, 2, 2, 7, 3)]
    owners = shares(costs, size)
    load = [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == worker) for worker in range(size)]
    best = min(
        max(sum(c for c, w in zip(costs, split, strict=True) if w == worker) for worker in range(size))
        for split in itertools.product(range(size), repeat=len(costs))
    )
    assert set(owners) <= set(range(size))
    assert max(load) <= (4 / 3) * best + 1e-9

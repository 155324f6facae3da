"""Several processes working on one analysis: each measures its own batches and sweeps its own layers.

Under ``torchrun`` (or any initialised ``torch.distributed``) every process calls the same analysis with its share of
the batches. Sums are added up over all of them, each layer is swept by one of them, and all end with the same results.
Equal to a single process to rounding where process r of P reads batches r, r + P, r + 2 P, ... of the whole: a batch's
random signs depend on its place there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

if dist.is_available():
    # Its functions take the group of all processes as a default value, read where the module is imported: left to
    # PyTorch's optimizers, which import it at their first step, they would hold the group for good, and its threads
    # would outlive the interpreter and, now and then, abort a process that had finished its work.
    import torch.distributed.nn.functional  # noqa: F401


class Workers(Protocol):
    """The processes that share an analysis, as one of them sees it.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
    """

    rank: int
    size: int

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum of the processes' tensors (of one shape), in place."""
        ...

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """The tensor of one process, in place."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """Context in which every process works on its own; an error in one ends all of them."""
        ...


class SingleProcess:
    """Nobody else."""

    rank = 0
    size = 1

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """The tensor itself."""
        return tensor

    @contextmanager
    def together(self) -> Iterator[None]:
        """Nothing to agree on."""
        yield


class ProcessGroup:
    """The processes of a ``torch.distributed`` group.

    Args:
        device: where tensors to exchange live (NCCL cannot exchange tensors on the CPU).
        group: the group; the default one when absent.
    """

    def __init__(self, device: torch.device, group: dist.ProcessGroup | None = None) -> None:
        self._device = device
        self._group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum of the processes' tensors, in place."""
        dist.all_reduce(tensor, group=self._group)
        return tensor

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """The tensor of one process, in place."""
        dist.broadcast(tensor, group=self._group, group_src=source)
        return tensor

    @contextmanager
    def together(self) -> Iterator[None]:
        """Every process works on its own; if one fails, the others raise as well instead of waiting for it forever.

        Raises:
            RuntimeError: another process failed (its own error is raised there).
        """
        failed = torch.zeros(self.size, device=self._device)
        failed[self.rank] = 1
        try:
            yield
            failed[self.rank] = 0
        finally:
            self.sum(failed)
        if failed.any():
            raise RuntimeError(f"the analysis failed in process {failed.nonzero()[:, 0].tolist()}; see its own error")


def current_workers(device: torch.device) -> Workers:
    """The default ``torch.distributed`` group if one is initialised, else this process alone."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return ProcessGroup(device)
    return SingleProcess()


@contextmanager
def torchrun_group() -> Iterator[Workers]:
    """Join the processes ``torchrun`` started, for the length of a command; this process alone without ``torchrun``.

    Process r of a machine takes GPU r where there are GPUs (NCCL), else all share the CPU (Gloo).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield current_workers(torch.device("cpu"))
        return
    on_gpu = dist.is_nccl_available() and torch.cuda.device_count() > 0
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield current_workers(torch.device("cuda" if on_gpu else "cpu"))
    finally:
        dist.destroy_process_group()


def shares(costs: Sequence[float], size: int) -> list[int]:
    """Return the process of every job: the longest job first, always to the least loaded process.

    Args:
        costs: cost of every job, in any unit.
        size: number of processes.

    Returns:
        A process in [0, size) for every job; the same in all processes.
    """
    load = [0.0] * size
    owners = [0] * len(costs)
    for job in sorted(range(len(costs)), key=lambda job: -costs[job]):
        owners[job] = min(range(size), key=lambda worker: load[worker])
        load[owners[job]] += costs[job]
    return owners

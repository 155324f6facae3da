"""Peak memory of a piece of a program: what the CUDA allocator handed out, or the process's resident set."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

from prune_gym.support.device import synchronize


class MemoryMeter(Protocol):
    """A high-water mark that can be lowered to what is in use now.

    Attributes:
        kind: What is measured: ``"cuda_allocated"`` or ``"process_rss"``.
    """

    kind: str

    def reset(self) -> None:
        """Lower the mark to what is in use now."""
        ...

    def peak(self) -> int:
        """Return the bytes at the mark."""
        ...


class CudaMemory:
    """Bytes of tensors on a CUDA device."""

    kind = "cuda_allocated"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def reset(self) -> None:
        """Lower the mark to what is allocated now."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> int:
        """Return the bytes at the mark."""
        return int(torch.cuda.max_memory_allocated(self._device))


class ProcessMemory:
    """The resident set of this process, Python and PyTorch included (Linux)."""

    kind = "process_rss"

    def reset(self) -> None:
        """Lower the mark to what is in use now: memory freed but kept by the C library goes back to the kernel first.

        Without that, a run that fits into what earlier work has freed would seem to need nothing.
        """
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; other C libraries have none
        if trim is not None:
            trim(ctypes.c_size_t(0))
        Path("/proc/self/clear_refs").write_text("5")  # man 5 proc

    def peak(self) -> int:
        """Return the bytes at the mark."""
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def memory_meter(device: torch.device) -> MemoryMeter | None:
    """Return the meter of a device's memory, or None where it cannot be measured."""
    if device.type == "cuda":
        return CudaMemory(device)
    if device.type == "cpu" and sys.platform == "linux":
        meter = ProcessMemory()
        try:
            meter.reset()
            meter.peak()
        except (OSError, StopIteration):
            return None  # a kernel that will not tell
        return meter
    return None


def peak_of(run: Callable[[], object], device: torch.device) -> tuple[int, str] | None:
    """Return the peak while a function runs, in bytes, and its kind; None where it cannot be measured."""
    meter = memory_meter(device)
    if meter is None:
        return None
    meter.reset()
    run()
    synchronize(device)
    return meter.peak(), meter.kind


def peak_rss_bytes(run: Callable[[], object]) -> int | None:
    """Return the peak of the process's resident set during a call (bytes), or None where the kernel will not tell."""
    measured = peak_of(run, torch.device("cpu"))
    return None if measured is None else measured[0]

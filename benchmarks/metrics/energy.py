"""Energy counters of the hardware: NVML on NVIDIA GPUs, RAPL on Intel and AMD CPUs, or none.

Counters tick slowly (NVML about every 20 ms), so energy is measured over seconds. Where no counter can be read the
answer is None, shown as "unavailable"; it is never zero. A counter covers the whole GPU or CPU package, other users'
work included.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from prune_gym.support.device import synchronize

UNAVAILABLE = "unavailable"

_POWERCAP = Path("/sys/class/powercap")


class EnergyCounter(Protocol):
    """A counter of joules.

    Attributes:
        source: ``"nvml"`` or ``"rapl"``.
    """

    source: str

    def start(self) -> None:
        """Remember where the counter stands."""
        ...

    def joules(self) -> float:
        """Return the joules since `start`."""
        ...


@dataclass(frozen=True)
class Energy:
    """Energy that running something took.

    Attributes:
        joules_per_run: Energy of one run, in J; None if unavailable.
        source: ``"nvml"``, ``"rapl"`` or ``"unavailable"``.
    """

    joules_per_run: float | None
    source: str


class RaplCounter:
    """CPU packages by Linux's powercap interface; most systems let only root read it.

    Args:
        root: Folder of the interface.

    Raises:
        OSError: If no package can be read.
    """

    source = "rapl"

    def __init__(self, root: Path = _POWERCAP) -> None:
        packages = [path for path in sorted(root.glob("*-rapl:*")) if path.name.count(":") == 1]
        self._files = [path / "energy_uj" for path in packages]
        self._ranges = [int((path / "max_energy_range_uj").read_text()) for path in packages]
        if not packages:
            raise FileNotFoundError(f"no RAPL package under {root}")
        self.start()

    def start(self) -> None:
        """Remember where the counters stand."""
        self._before = self._read()

    def joules(self) -> float:
        """Return the joules since `start`; a counter that wrapped around once is continued."""
        steps = zip(self._read(), self._before, self._ranges, strict=True)
        return sum((now - before) % span for now, before, span in steps) / 1e6

    def _read(self) -> list[int]:
        return [int(path.read_text()) for path in self._files]


class NvmlCounter:
    """One NVIDIA GPU's total-energy counter; needs the package ``nvidia-ml-py``.

    Args:
        device: A CUDA device.

    Raises:
        ImportError: If the package is missing.
        OSError: If the driver has no such counter.
    """

    source = "nvml"

    def __init__(self, device: torch.device) -> None:
        import pynvml

        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            # By UUID: NVML numbers GPUs by bus, and does not know CUDA_VISIBLE_DEVICES.
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            self.start()
        except pynvml.NVMLError as error:
            raise OSError(f"NVML cannot read the energy of {device}: {error}") from error

    def start(self) -> None:
        """Remember where the counter stands."""
        self._before = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)

    def joules(self) -> float:
        """Return the joules since `start`."""
        return (self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) - self._before) / 1e3


def energy_counter(device: torch.device) -> EnergyCounter | None:
    """Return the counter that covers a device, or None where there is none that can be read."""
    try:
        if device.type == "cuda":
            return NvmlCounter(device)
        return RaplCounter() if device.type == "cpu" else None
    except (ImportError, OSError, ValueError):
        return None


def energy_of(run: Callable[[], object], device: torch.device, seconds: float = 2.0) -> Energy:
    """Repeat a function for some seconds and return the energy of one run.

    Args:
        run: Called without arguments.
        device: Where its work happens.
        seconds: Repeat at least so long, > 0.

    Raises:
        ValueError: If ``seconds`` is not positive.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    counter = energy_counter(device)
    if counter is None:
        return Energy(None, UNAVAILABLE)
    run()
    synchronize(device)
    counter.start()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        run()
        synchronize(device)
        count += 1
    return Energy(counter.joules() / count, counter.source)

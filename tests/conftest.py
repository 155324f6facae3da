"""Fixtures every test folder shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import nn

from prune_gym.data.splits import TensorSplit
from prune_gym.support.device import available_devices
from prune_gym.tasks import PruningTask, make_task
from prune_gym.training import train_dense
from tests.watchdog import watch

# Tests run side by side (pytest-xdist) on networks too small to profit from threads; one thread is also what makes
# sums come out the same on every machine.
torch.set_num_threads(1)

# Nothing is timed, neither are hypothesis's examples: on a busy machine any of them can take long.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


LONG = (
    "test_wheel.py",
    "benchmarks/fuzz/test_crashes.py",
    "benchmarks/sweep/test_sweep.py",
    "benchmarks/sweep/test_sweeps_docs.py",
    "benchmarks/studies/bench/test_bench.py",
    "agents/test_agents_docs.py",
    "docs/test_prune_examples.py",
)
"""Files of few long tests. They come first, or one process would still be at them when all others are done."""


def pytest_sessionstart(session: pytest.Session) -> None:
    watch(session)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONG))


@pytest.fixture(scope="session", autouse=True)
def isolated_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache folder of this session: empty at first, never the user's, shared by pytest-xdist's processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "prune-gym-cache"
    folder.mkdir(exist_ok=True)
    before = os.environ.get("PRUNE_GYM_CACHE")
    os.environ["PRUNE_GYM_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["PRUNE_GYM_CACHE"]
    else:
        os.environ["PRUNE_GYM_CACHE"] = before


def accelerators() -> list[object]:
    """Parameters of a test, one an accelerator that is present; without any, one that is skipped and says why."""
    present = [pytest.param(device, id=str(device), marks=pytest.mark.gpu) for device in available_devices()[1:]]
    reason = "no GPU at hand: neither CUDA nor MPS is available"
    absent = pytest.param(None, id="accelerator", marks=[pytest.mark.gpu, pytest.mark.skip(reason=reason)])
    return present or [absent]


@pytest.fixture(params=accelerators())
def accelerator(request: pytest.FixtureRequest) -> torch.device:
    """Every accelerator present, one after the other; results on it are compared with the CPU's."""
    torch.backends.cudnn.allow_tf32 = False  # 10 bits of mantissa are no rounding
    return request.param


@pytest.fixture(params=[pytest.param(torch.device("cpu"), id="cpu"), *accelerators()])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device present, one after the other."""
    return request.param


class TinyResNet(nn.Module):
    """Four prunable layers: a residual stream of 8 (`conv1`), a block interior of 6 (`conv2`), a plain layer of 10
    (`conv4`) and a hidden linear layer of 12 (`fc1`).
    """

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.conv3 = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(8)
        self.conv4 = nn.Conv2d(8, 10, 3, stride=2, padding=1, bias=False)
        self.bn4 = nn.BatchNorm2d(10)
        self.fc1 = nn.Linear(10 * 4 * 4, 12)
        self.fc2 = nn.Linear(12, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stream = torch.relu(self.bn1(self.conv1(x)))
        block = torch.relu(self.bn2(self.conv2(stream)))
        stream = torch.relu(stream + self.bn3(self.conv3(block)))
        out = torch.relu(self.bn4(self.conv4(stream)))
        return self.fc2(torch.relu(self.fc1(out.flatten(1))))


def blob_split(count: int, seed: int, num_classes: int = 4) -> TensorSplit:
    """Noisy 8x8 images with a bright quadrant that is the class: quickly learned, not trivial."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % num_classes
    images = torch.randn(count, 1, 8, 8, generator=generator)
    for index, label in enumerate(labels.tolist()):
        row, column = 4 * (label // 2), 4 * (label % 2)
        images[index, 0, row : row + 4, column : column + 4] += 1.0
    return TensorSplit(images, labels)


@pytest.fixture(scope="session")
def tiny_task() -> PruningTask:
    """A trained network of four prunable layers on 8x8 images, ready in a second.

    Shared by the session: copy the model before changing it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TinyResNet()
    train = blob_split(256, seed=1)
    train_dense(model, train, epochs=4, lr=0.05, batch_size=32, seed=0)
    return PruningTask(
        name="tiny",
        model=model.eval(),
        example_input=torch.zeros(1, 1, 8, 8),
        calibration=train.subset(slice(128)),
        reward=blob_split(128, seed=2),
        test=blob_split(128, seed=3),
        train=train,
    )


@pytest.fixture(scope="session")
def digits_task() -> PruningTask:
    """The embedded task; shared by the session: copy the model before changing it."""
    return make_task("digits-resnet20")

"""On every accelerator present the same numbers come out as on the CPU; without one these tests are skipped."""

import pytest
import torch

from agents.ppo.networks import ActorCritic
from benchmarks.gpu_profiler import GPUProfiler
from benchmarks.metrics.energy import NvmlCounter, energy_of
from benchmarks.metrics.memory import peak_of
from prune_gym.support.device import device_name, synchronize
from prune_gym.support.timing import make_clock
from prune_gym.training import Loop, fine_tune
from tests.conftest import TinyResNet, blob_split
from tests.gpu.comparison import assert_same
from tests.gpu.scenarios import SCENARIOS, task_on


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_accelerator_finds_what_the_cpu_finds(name, accelerator):
    scenario = SCENARIOS[name]
    assert_same(scenario.compute(accelerator), scenario.compute(torch.device("cpu")), scenario.tolerance)


def test_it_has_a_name(accelerator):
    assert device_name(accelerator)


def test_the_clock_sees_the_work_and_not_the_queueing(accelerator):
    """A product of matrices of twice the width takes longer, though queueing it takes as long."""
    clock = make_clock(accelerator)

    def milliseconds(width):
        matrix = torch.ones(width, width, device=accelerator)
        for _ in range(3):
            matrix @ matrix
        synchronize(accelerator)
        start = clock.mark()
        for _ in range(10):
            matrix @ matrix
        end = clock.mark()
        synchronize(accelerator)
        return clock.elapsed_ms(start, end)

    assert milliseconds(4096) > 4 * milliseconds(512)


def test_peak_memory_counts_what_was_held(accelerator):
    found = peak_of(lambda: torch.ones(1 << 24, device=accelerator).sum(), accelerator)
    if found is None:
        pytest.skip("this device does not report its memory")
    assert found[0] >= 4 << 24


def test_the_profiler_measures_time_and_memory_of_a_forward_pass(accelerator):
    task, profiler = task_on(accelerator), GPUProfiler(device=accelerator, memory=True)
    with profiler.section("forward"), torch.no_grad():
        task.model(task.test.images.to(accelerator))
    assert profiler.get_summary()["forward"]["total_ms"] > 0


def test_the_driver_counts_energy(accelerator):
    pytest.importorskip("pynvml")
    if accelerator.type != "cuda":
        pytest.skip("NVML is NVIDIA's")
    NvmlCounter(accelerator)
    matrix = torch.ones(2048, 2048, device=accelerator)
    assert energy_of(lambda: matrix @ matrix, accelerator, seconds=1.0).joules_per_run > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_trains_in_either_type(accelerator, dtype, monkeypatch):
    if accelerator.type != "cuda" or (dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported()):
        pytest.skip(f"{accelerator} has no {dtype}")
    monkeypatch.setattr("prune_gym.training.stepping.autocast_dtype", lambda device: dtype)
    model = TinyResNet().to(accelerator)
    history = fine_tune(
        model, None, blob_split(256, seed=1), epochs=4, batch_size=32, lr=0.05, seed=0, loop=Loop(mixed_precision=True)
    )
    assert history[-1].loss < history[0].loss
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_policy_is_made_of_the_same_weights_everywhere(accelerator):
    one, other = (
        ActorCritic(4, 8, 0.5, torch.Generator().manual_seed(0)).to(device) for device in ("cpu", accelerator)
    )
    for here, there in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(here, there.cpu())

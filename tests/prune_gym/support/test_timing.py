"""Timing counts what it says it counts, compares in turns, and leaves models as they were."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from prune_gym.support import timing
from prune_gym.support.timing import Timing, compare_interleaved, compare_models, time_callable, time_model


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))


def test_warm_up_runs_but_is_not_counted():
    calls = []
    result = time_callable(lambda: calls.append(1), device="cpu", num_iterations=7, num_warmup=3)
    assert len(calls) == 10
    assert result.samples_ms.shape == (7,)
    assert result.device == "cpu"
    assert result.num_threads == torch.get_num_threads()


def test_a_sample_is_the_time_between_two_readings_of_the_clock(monkeypatch):
    readings = iter([1.0, 1.25, 5.0, 5.5])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(readings))
    result = time_callable(lambda: None, device="cpu", num_iterations=2, num_warmup=0)
    np.testing.assert_allclose(result.samples_ms, [250.0, 500.0])


def test_comparison_takes_turns():
    calls = []
    compare_interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        device="cpu",
        num_iterations=3,
        num_warmup=1,
    )
    assert "".join(calls) == "abababab"


def test_statistics_match_numpy():
    samples = np.random.default_rng(0).gamma(2.0, size=101)
    result = Timing(samples, "cpu", 1)
    summary = result.summary()
    assert summary["mean_ms"] == pytest.approx(np.mean(samples))
    assert summary["std_ms"] == pytest.approx(np.std(samples, ddof=1))
    assert summary["p50_ms"] == pytest.approx(np.median(samples))
    assert summary["p90_ms"] == pytest.approx(np.sort(samples)[90])
    assert summary["p99_ms"] == pytest.approx(np.sort(samples)[99])
    assert summary["num_iterations"] == 101


def test_a_single_sample_has_no_spread_and_no_nan():
    assert Timing(np.array([2.0]), "cpu", 1).std_ms == 0.0


def test_models_run_in_eval_and_inference_mode_on_their_device(model, device):
    model.to(device).train()
    seen = set()
    model[0].register_forward_hook(
        lambda module, args, output: seen.add((module.training, output.is_inference(), args[0].device))
    )
    results = compare_models({"one": model, "two": model}, torch.zeros(2, 1, 4, 4), num_iterations=2, num_warmup=1)
    assert seen == {(False, True, device)}
    assert list(results) == ["one", "two"]
    assert results["one"].device == str(device)


def test_every_module_keeps_its_own_mode_even_when_the_model_fails(model):
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    time_model(model, torch.zeros(1, 1, 4, 4), num_iterations=1, num_warmup=0)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(RuntimeError):
        time_model(model, torch.zeros(1, 5, 4, 4), num_iterations=1, num_warmup=0)
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(("counts", "message"), [((0, 1), "num_iterations.*got 0"), ((1, -1), "num_warmup.*got -1")])
def test_impossible_counts_are_refused_before_anything_runs(counts, message):
    calls = itertools.count()
    with pytest.raises(ValueError, match=message):
        time_callable(lambda: next(calls), device="cpu", num_iterations=counts[0], num_warmup=counts[1])
    assert next(calls) == 0


def test_nothing_to_time_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        compare_interleaved({}, device="cpu")
    with pytest.raises(ValueError, match="at least one"):
        compare_models({}, torch.zeros(1))


def test_models_on_different_devices_are_not_compared(model):
    other = nn.Linear(3, 3, device="meta")
    with pytest.raises(ValueError, match="different devices"):
        compare_models({"a": model, "b": other}, torch.zeros(1, 1, 4, 4))

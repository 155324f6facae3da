"""Every call of a module is seen once, and the spans of a pass add up to the pass."""

import pytest
import torch
from torch import nn

from prune_gym.surgery.module_times import ModuleTimer
from prune_gym.tasks.models import resnet20


class TwiceActivated(nn.Module):
    """One activation called twice, an addition between modules, and a module without tensors."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU()
        self.second = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.relu(self.first(x))
        return self.relu(self.second(x) + x)


def test_calls_come_in_order_with_the_shapes_they_had(device):
    model = TwiceActivated().to(device)
    calls = ModuleTimer(model).run(torch.randn(2, 3, 5, 5, device=device))
    assert [call.name for call in calls] == ["first", "relu", "second", "relu"]
    assert [tuple(call.inputs.shape) for call in calls] == [(2, 3, 5, 5), *[(2, 4, 5, 5)] * 3]
    assert all(call.output.is_meta and tuple(call.output.shape) == (2, 4, 5, 5) for call in calls)
    assert all(call.own_ms > 0 for call in calls)


def test_spans_add_up_to_the_pass_and_contain_the_modules(monkeypatch):
    model = TwiceActivated()
    timer = ModuleTimer(model)
    clock = iter(range(100))
    monkeypatch.setattr(timer._clock, "mark", lambda: float(next(clock)))
    monkeypatch.setattr(timer._clock, "elapsed_ms", lambda start, end: end - start)
    calls = timer.run(torch.randn(1, 3, 5, 5))
    assert [call.own_ms for call in calls] == [1.0] * 4
    assert [call.span_ms for call in calls] == [2.0, 2.0, 2.0, 3.0]
    assert sum(call.span_ms for call in calls) == next(clock) - 1


def test_the_network_is_left_without_hooks_and_in_its_mode_even_after_an_error():
    model = resnet20(in_channels=3).train()
    timer = ModuleTimer(model)
    with pytest.raises(RuntimeError):
        timer.run(torch.randn(1, 5, 8, 8))
    timer.run(torch.randn(1, 3, 8, 8))
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

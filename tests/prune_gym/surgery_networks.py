"""The smallest networks that show each kind of channel coupling, with the coupling written down by hand.

``consumers`` maps a layer to the modules that read its channels, and to the input positions channel ``i`` has there. It
is the tests' oracle: cutting a channel must equal zeroing it at those inputs of the dense network.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


def offset(start, width=1):
    return lambda channel: range(start + channel * width, start + (channel + 1) * width)


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], nn.Module]
    input_shape: tuple
    plan: dict
    consumers: dict

    def model(self, seed=0):
        torch.manual_seed(seed)
        model = self.build()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        return model.eval()

    def inputs(self, seed=1):
        return torch.randn(self.input_shape, generator=torch.Generator().manual_seed(seed))


class Chain(nn.Module):
    """conv - bn - conv - flatten - linear: a flattened channel owns four columns."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 5, 3, stride=2, padding=1, bias=False)
        self.head = nn.Linear(20, 3)

    def forward(self, x):
        x = self.conv2(self.bn(self.conv1(x)).relu()).relu()
        return self.head(torch.flatten(x, 1))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.a = nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.b = nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.bn_b = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.bn(self.stem(x)).relu()
        x = (x + self.bn_b(self.b(self.a(x).relu()))).relu()
        return self.head(x.mean(dim=(2, 3)))


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 4, 1)
        self.b = nn.Conv2d(2, 5, 1)
        self.join = nn.Conv2d(9, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x):
        x = torch.cat([self.a(x).relu(), self.b(x).relu()], 1)
        return self.head(self.join(x).relu()).mean(dim=(2, 3))


class ConcatWithInput(nn.Module):
    """The network's input between two layers: torch-pruning's graph does not see it and misplaces what follows."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 4, 1)
        self.b = nn.Conv2d(2, 5, 1)
        self.head = nn.Conv2d(11, 3, 1)

    def forward(self, x):
        return self.head(torch.cat([self.a(x).relu(), x, self.b(x).relu()], 1))


class Depthwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.expand = nn.Conv2d(2, 6, 1, bias=False)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.project = nn.Conv2d(6, 3, 1)

    def forward(self, x):
        return self.project(self.depthwise(self.expand(x).relu()).relu())


class Grouped(nn.Module):
    """The grouped conv's output may shrink to one channel a group, which looks like a depthwise conv."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(2, 8, 1)
        self.grouped = nn.Conv2d(8, 4, 3, padding=1, groups=2)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x):
        return self.head(self.grouped(self.inner(x).relu()).relu())


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.squeeze = nn.Conv2d(6, 4, 1)
        self.excite = nn.Conv2d(4, 6, 1)
        self.head = nn.Conv2d(6, 3, 1)

    def forward(self, x):
        x = self.conv(x)
        scale = self.excite(self.squeeze(x.mean(dim=(2, 3), keepdim=True)).relu()).sigmoid()
        return self.head(x * scale)


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(2, 5, 3)
        self.up = nn.ConvTranspose2d(5, 4, 2, stride=2)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x):
        return self.head(self.up(self.down(x).relu()).relu())


class LayerScale(nn.Module):
    """A ConvNeXt block: depthwise conv, LayerNorm over channels, MLP, bare per-channel scale, skip."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm = nn.LayerNorm(6)
        self.expand = nn.Linear(6, 8)
        self.reduce = nn.Linear(8, 6)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))
        self.head = nn.Conv2d(6, 3, 1)

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.reduce(nn.functional.gelu(self.expand(y))).permute(0, 3, 1, 2)
        return self.head(x + self.scale * y)


CASES = [
    Case(
        "chain",
        Chain,
        (2, 2, 4, 4),
        {"conv1": [0, 2, 5], "conv2": [1, 4]},
        {"conv1": {"conv2": offset(0)}, "conv2": {"head": offset(0, width=4)}},
    ),
    Case(
        "residual",
        Residual,
        (2, 2, 4, 4),
        {"stem": [1, 4], "a": [0, 3]},
        {"stem": {"a": offset(0), "head": offset(0)}, "a": {"b": offset(0)}},
    ),
    Case(
        "concat",
        Concat,
        (2, 2, 4, 4),
        {"a": [0, 3], "b": [2, 4], "join": [1]},
        {"a": {"join": offset(0)}, "b": {"join": offset(4)}, "join": {"head": offset(0)}},
    ),
    Case("depthwise", Depthwise, (2, 2, 4, 4), {"expand": [1, 2, 5]}, {"expand": {"project": offset(0)}}),
    Case(
        "grouped",
        Grouped,
        (2, 2, 4, 4),
        {"inner": [1, 3, 5, 7], "grouped": [0, 2]},
        {"inner": {"grouped": offset(0)}, "grouped": {"head": offset(0)}},
    ),
    Case(
        "squeeze_excite",
        SqueezeExcite,
        (2, 2, 4, 4),
        {"conv": [0, 4], "squeeze": [2]},
        {"conv": {"squeeze": offset(0), "head": offset(0)}, "squeeze": {"excite": offset(0)}},
    ),
    Case(
        "transposed",
        Transposed,
        (2, 2, 4, 4),
        {"down": [0, 3], "up": [1]},
        {"down": {"up": offset(0)}, "up": {"head": offset(0)}},
    ),
    Case(
        "concat_with_input",
        ConcatWithInput,
        (2, 2, 4, 4),
        {"a": [0, 2], "b": [1, 4]},
        {"a": {"head": offset(0)}, "b": {"head": offset(6)}},
    ),
]
"""Networks whose pruned outputs must equal masked dense ones (not `LayerScale`: its LayerNorm mixes channels)."""

BY_NAME = {case.name: case for case in CASES}


def masked_outputs(case, model, plan, inputs):
    """Outputs of the dense network with the plan's channels zeroed where they are read."""
    modules = dict(model.named_modules())
    handles = []
    for layer, removed in plan.items():
        for consumer, positions in case.consumers[layer].items():
            dead = [position for channel in removed for position in positions(channel)]

            def silence(module, args, dead=dead):
                masked = args[0].clone()
                masked[:, dead] = 0
                return (masked,)

            handles.append(modules[consumer].register_forward_pre_hook(silence))
    with torch.no_grad():
        outputs = model(inputs)
    for handle in handles:
        handle.remove()
    return outputs

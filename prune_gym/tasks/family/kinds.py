"""Kinds of networks: how a drawn :class:`~prune_gym.tasks.family.draws.Design` becomes layers, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from prune_gym.tasks.family.blocks import (
    ACTIVATIONS,
    Branches,
    DenseLayer,
    Excitation,
    Inverted,
    Residual,
    conv_unit,
    separable,
)
from prune_gym.tasks.family.draws import Design

Stages = Iterator[tuple[nn.Module, int]]
"""Modules after the stem, each with the channels it gives."""


def build(design: Design) -> nn.Sequential:
    """The untrained network of a design: stem, stages, global average pooling, linear head.

    Maps images [N, 1, size, size] to logits [N, 10]; weights are drawn from PyTorch's global generator.
    """
    width = design.widths[0]
    if design.kind == "dense":
        layers: list[nn.Module] = [nn.Conv2d(1, width, 3, design.stem_stride, 1, bias=False)]
    else:
        layers = [conv_unit(1, width, 3, design.activation, design.stem_stride)]
    for module, channels in KINDS[design.kind](design):
        layers.append(module)
        width = channels
    tail: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if design.hidden:
        tail += [nn.Linear(width, design.hidden), ACTIVATIONS[design.activation]()]
    model = nn.Sequential(*layers, *tail, nn.Linear(design.hidden or width, 10))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def _blocks(design: Design) -> Iterator[tuple[int, int, int, int]]:
    """(channels before, after, kernel, stride) of every block; all stages but the first halve the extent."""
    before = design.widths[0]
    for stage, (width, depth, kernel) in enumerate(zip(design.widths, design.depths, design.kernels, strict=True)):
        for block in range(depth):
            yield before, width, kernel, 2 if stage and not block else 1
            before = width


def _plain(design: Design) -> Stages:
    for before, after, kernel, stride in _blocks(design):
        if stride == 2 and design.pools:
            yield nn.MaxPool2d(2, ceil_mode=True), before
            stride = 1
        yield conv_unit(before, after, kernel, design.activation, stride), after


def _excited(design: Design) -> Stages:
    for before, after, kernel, stride in _blocks(design):
        unit = conv_unit(before, after, kernel, design.activation, stride)
        yield nn.Sequential(unit, Excitation(after, max(2, after // design.factor), design.activation)), after


def _residual(design: Design) -> Stages:
    name = design.activation
    for before, after, kernel, stride in _blocks(design):
        body = nn.Sequential(conv_unit(before, after, kernel, name, stride), conv_unit(after, after, kernel, None))
        yield Residual(body, before, after, stride, name), after


def _bottleneck(design: Design) -> Stages:
    name = design.activation
    for before, after, kernel, stride in _blocks(design):
        hidden = max(4, after // design.factor)
        body = nn.Sequential(
            conv_unit(before, hidden, 1, name),
            conv_unit(hidden, hidden, kernel, name, stride),
            conv_unit(hidden, after, 1, None),
        )
        yield Residual(body, before, after, stride, name), after


def _depthwise(design: Design) -> Stages:
    for before, after, kernel, stride in _blocks(design):
        yield separable(before, after, kernel, design.activation, stride), after


def _inverted(design: Design) -> Stages:
    for before, after, kernel, stride in _blocks(design):
        yield Inverted(before, after, design.factor * before, kernel, design.activation, stride), after


def _dense(design: Design) -> Stages:
    """Dense blocks of growth :attr:`Design.factor`; between them a 1x1 convolution and a pooling."""
    name, channels = design.activation, design.widths[0]
    for stage, (width, depth, kernel) in enumerate(zip(design.widths, design.depths, design.kernels, strict=True)):
        if stage:
            move = [nn.BatchNorm2d(channels), ACTIVATIONS[name](), nn.Conv2d(channels, width, 1, bias=False)]
            yield nn.Sequential(*move, nn.AvgPool2d(2, ceil_mode=True)), width
            channels = width
        for _ in range(depth):
            yield DenseLayer(channels, design.factor, kernel, name), channels + design.factor
            channels += design.factor
    yield nn.Sequential(nn.BatchNorm2d(channels), ACTIVATIONS[name]()), channels


def _branches(design: Design) -> Stages:
    """Modules of three branches, of Szegedy et al. (2016, figure 5) without pooling: 1x1; 1x1, kxk; 1x1, 3x3, 3x3."""
    name = design.activation
    for before, after, kernel, stride in _blocks(design):
        if stride == 2:
            yield nn.MaxPool2d(2, ceil_mode=True), before
        quarter = after // 4
        parts = [
            conv_unit(before, after - 3 * quarter, 1, name),
            nn.Sequential(conv_unit(before, quarter, 1, name), conv_unit(quarter, 2 * quarter, kernel, name)),
            nn.Sequential(
                conv_unit(before, quarter, 1, name),
                conv_unit(quarter, quarter, 3, name),
                conv_unit(quarter, quarter, 3, name),
            ),
        ]
        yield Branches(parts), after


KINDS: dict[str, Callable[[Design], Stages]] = {
    "plain": _plain,
    "residual": _residual,
    "bottleneck": _bottleneck,
    "depthwise": _depthwise,
    "inverted": _inverted,
    "excited": _excited,
    "dense": _dense,
    "branches": _branches,
}
"""Stages after the stem, by kind."""

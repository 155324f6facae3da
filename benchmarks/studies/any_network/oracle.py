"""The dense network in which removed channels read as zero, made without any map of where channels go.

The removed *rows* of the producers, the one thing a plan says, are filled with NaN, and the dense network is run as it
is. PyTorch's own operators then carry the NaN wherever the channel goes: through views, permutations, flips, shuffles,
concatenations, sums and gates, whatever they are. Where channels are mixed (every contraction: convolutions, linear
layers, matrix products), NaN is read as zero; where nothing but removed channels meets (a depthwise convolution), the
result is removed too. Norms over channels are computed over those that stay, which is what the smaller network
computes. A pruned network has to give the same numbers, and a NaN that reaches an output is a channel that may not go.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

from benchmarks.studies.any_network.rules import ReadsNaNAsZero
from hessian.channels.layer_types import CONV_TYPES, TRANSPOSED_TYPES

Rows = Mapping[str, Sequence[int]]


class ChannelReachesOutputError(ValueError):
    """A removed channel reaches an output of the network without being read by any layer."""


@dataclass(frozen=True)
class Gap:
    """A pruned network against the dense one in which the removed channels read as zero.

    Attributes:
        error: largest difference of an output, relative to that output's largest entry; NaN if one is not finite.
        effect: how far the dense network's own outputs are from both, in the same measure: with next to no effect,
            the comparison could not have found an error.
    """

    error: float
    effect: float


def zeroing_gap(
    dense: nn.Module,
    pruned: nn.Module,
    rows: Rows,
    inputs: Any,
    *,
    training: bool = False,
    watched: Sequence[str] = (),
    whole: Sequence[Tensor] | None = None,
) -> Gap:
    """Compare a pruned network with the dense one in which the removed channels read as zero.

    Args:
        dense: the network before pruning; not changed.
        pruned: the smaller one; not changed.
        rows: module name -> removed output channels of that convolution or linear layer.
        inputs: a tensor, a tuple of positional arguments or a dictionary of keyword arguments, at least two images.
        training: compare in training mode (dropout off), where auxiliary heads run.
        watched: modules whose outputs are compared instead of the network's (a detector's heads: which of two equal
            boxes it keeps is a matter of rounding).
        whole: the dense network's own outputs where they are known.

    Raises:
        ChannelReachesOutputError: a removed channel is part of an output.
        ValueError: outputs of another number or shape.
    """
    if whole is None:
        whole = network_outputs(dense, inputs, training=training, watched=watched)
    expected = zeroed_outputs(dense, rows, inputs, training=training, watched=watched)
    actual = network_outputs(pruned, inputs, training=training, watched=watched)
    return Gap(distance(actual, expected), _effect(whole, expected))


def network_outputs(
    model: nn.Module, inputs: Any, *, training: bool = False, watched: Sequence[str] = ()
) -> list[Tensor]:
    """All floating-point outputs of a network, in order; see `zeroing_gap` for the arguments."""
    # Evaluation changes nothing of a network; training changes statistics.
    return _run(_private(model, training) if training or model.training else model, inputs, watched)


def zeroed_outputs(
    dense: nn.Module, rows: Rows, inputs: Any, *, training: bool = False, watched: Sequence[str] = ()
) -> list[Tensor]:
    """Outputs of the dense network in which some channels read as zero; see `zeroing_gap` for the arguments.

    Raises:
        ChannelReachesOutputError: a removed channel is part of an output.
    """
    model = _private(dense, training)
    with _poisoned_rows(model, rows), sdpa_kernel(SDPBackend.MATH):
        with ReadsNaNAsZero(model) as reading:
            found = _run(model, inputs, watched)
        narrowed = [_narrow(model.get_submodule(name), gone) for name, gone in reading.read.items()]
        if any(narrowed):
            with ReadsNaNAsZero(model):
                found = _run(model, inputs, watched)
    if any(bool(output.isnan().any()) for output in found):
        raise ChannelReachesOutputError("a removed channel reaches an output of the network")
    return found


def _narrow(module: Any, gone: Tensor) -> bool:
    """Let a convolution that standardises its weight do so over the columns that stay; False where it cannot."""
    groups = gone.reshape(module.groups, -1)
    if bool((groups != groups[:1]).any()) or bool(groups.all()) or isinstance(module, TRANSPOSED_TYPES):
        return False
    module.weight = nn.Parameter(module.weight.data[:, ~groups[0]], requires_grad=False)
    module.in_channels = int((~gone).sum())
    module.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, ~gone], *inputs[1:]))
    return True


def _private(model: nn.Module, training: bool) -> nn.Module:
    """A copy in a mode."""
    return copy.deepcopy(model).train(training)


class _WithoutDropout(TorchFunctionMode):
    """Inside, dropout passes everything on, be it a module or a function."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func in _DROPOUT else func(*args, **(kwargs or {}))


_DROPOUT = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}


def _run(model: nn.Module, inputs: Any, watched: Sequence[str]) -> list[Tensor]:
    seen: list[Any] = []
    handles = [model.get_submodule(name).register_forward_hook(lambda *call: seen.append(call[2])) for name in watched]
    # Detectors clip boxes in place and classifiers drop paths at random: every run gets the same of both.
    inputs = tree_map_only(Tensor, Tensor.clone, inputs)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _WithoutDropout():
            torch.manual_seed(0)
            output = _call(model, inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for handle in handles:
            handle.remove()
    leaves = tree_flatten([_plain(each) for each in seen] if watched else _plain(output))[0]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def _plain(output: Any) -> Any:
    """Outputs as plain containers: dictionaries of their own kind are mappings too."""
    if isinstance(output, Mapping):
        return {str(key): _plain(value) for key, value in output.items()}
    if isinstance(output, (list, tuple)):
        return [_plain(value) for value in output]
    return output


def distance(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference of an output, relative to the largest entry expected of it; NaN if one is not finite.

    Raises:
        ValueError: outputs of another number or shape.
    """
    shapes = [[list(output.shape) for output in outputs] for outputs in (actual, expected)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"outputs have the shapes {shapes[0]}, expected {shapes[1]}")
    worst = 0.0
    for own, other in zip(actual, expected, strict=True):
        if not other.numel():
            continue
        scale = max(float(other.abs().max()), torch.finfo(other.dtype).tiny)
        error = float((own - other).abs().max()) / scale
        worst = error if math.isnan(error) else max(worst, error)
        if math.isnan(worst):
            return worst
    return worst


def _effect(whole: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Distance to the whole network's outputs; 1 where values decide how many rows there are, and it has others."""
    same = [output.shape for output in whole] == [output.shape for output in expected]
    return distance(whole, expected) if same else 1.0


@contextmanager
def _poisoned_rows(model: nn.Module, rows: Rows) -> Iterator[None]:
    """Fill rows of weights with NaN; where the weight is computed (spectral norm), those channels of the output."""
    handles = []
    for name, removed in rows.items():
        if not len(removed):
            continue
        module, index = model.get_submodule(name), torch.as_tensor(list(removed))
        if is_parametrized(module):
            handles.append(module.register_forward_hook(_poisoning_hook(index)))
        else:
            _poison_weight(module, index)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _poison_weight(module: Any, removed: Tensor) -> None:
    weight = module.weight.data
    if not isinstance(module, TRANSPOSED_TYPES):
        weight[removed] = math.nan
        return
    rows, columns = module.out_channels // module.groups, module.in_channels // module.groups
    for row in removed.tolist():
        group = row // rows
        weight[group * columns : (group + 1) * columns, row % rows] = math.nan


def _poisoning_hook(removed: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def poison(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        axis = -1 - len(module.kernel_size) if isinstance(module, CONV_TYPES) else -1
        return output.index_fill(axis, removed, math.nan)

    return poison

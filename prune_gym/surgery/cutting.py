"""Cutting channels out of a network, and the checks that make the result trustworthy.

What to cut comes from the channel groups (`hessian.channels`), merged into one cut: every dimension of every module is
cut once, in the dense network's numbering, and the order of layers cannot matter. The cutting itself is done by
torch-pruning's functions for each kind of module, which validate little; so every tensor of the result is compared with
the slices that the cut predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hessian.channels.group import UnsupportedStructureError
from hessian.channels.layer_types import CONV_TYPES, TRANSPOSED_TYPES, channel_extent, is_depthwise
from hessian.channels.slicing import Cut, ModuleSlice, slice_tensor
from prune_gym.surgery.sizes import broken_promises

_CutModule = Callable[[nn.Module, list[int]], Any]


def remove_channels(model: nn.Module, cut: Cut) -> None:
    """Remove channels in place.

    Args:
        model: A copy of the cut's network.
        cut: What to leave of every module.

    Raises:
        UnsupportedStructureError: If torch-pruning fails to cut a module.
    """
    modules = dict(model.named_modules())
    for name, part in cut.slices.items():
        try:
            _cut_module(modules[name], part)
        except (RuntimeError, IndexError, AssertionError, AttributeError) as error:
            raise UnsupportedStructureError(surgery_failed(f"{name!r} cannot be cut: {error}")) from error
    for name, axes in cut.parameters.items():
        owner, _, suffix = name.rpartition(".")
        _cut_tensor(modules[owner], suffix, axes)
    for name, values in cut.attributes.items():
        for attribute, value in values.items():
            setattr(modules[name], attribute, value)
    _tie(model, cut.aliases)


def _cut_module(module: nn.Module, part: ModuleSlice) -> None:
    """Cut both dimensions of a module."""
    if _is_cut_here(module):
        _cut_by_slices(module, part)
        return
    if part.rows is not None:
        removed = _removed(part.rows, channel_extent(module, "out"))
        _function(module, "out")(module, removed)
    if part.columns is not None:
        removed = _removed(part.columns, channel_extent(module, "in"))
        _function(module, "in")(module, removed)


def _removed(kept: Tensor, extent: int) -> list[int]:
    return sorted(set(range(extent)) - set(kept.tolist()))


def _function(module: nn.Module, side: str) -> _CutModule:
    """Return torch-pruning's function for a module's kind and dimension.

    Raises:
        AttributeError: there is none.
    """
    import torch_pruning as tp

    norms = nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm
    by_kind: tuple[tuple[Any, str], ...] = (
        (CONV_TYPES, "depthwise_conv" if is_depthwise(module) else "conv"),
        (nn.Linear, "linear"),
        (norms[0], "batchnorm"),
        (norms[1], "instancenorm"),
        (nn.GroupNorm, "groupnorm"),
        (nn.PReLU, "prelu"),
    )
    for kind, name in by_kind:
        if isinstance(module, kind):
            function: _CutModule = getattr(tp, f"prune_{name}_{side}_channels")
            return function
    raise AttributeError(f"no function for a {type(module).__name__}")


def _is_cut_here(module: nn.Module) -> bool:
    """Return whether torch-pruning cuts a kind of module otherwise than the plan says.

    It counts outputs of grouped transposed convolutions over all groups where the weight counts them in one, takes
    depthwise convolutions to make one output a channel, leaves statistics of InstanceNorm behind, and keeps channels
    of LayerNorm in the order of a hash.
    """
    if isinstance(module, nn.LayerNorm):
        return True
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return bool(module.track_running_stats)
    if not isinstance(module, CONV_TYPES) or module.groups == 1:
        return False
    return isinstance(module, TRANSPOSED_TYPES) or (is_depthwise(module) and module.out_channels != module.in_channels)


def _cut_by_slices(module: Any, part: ModuleSlice) -> None:
    sizes: dict[str, Any] = {}
    if isinstance(module, CONV_TYPES):
        kept_rows = module.out_channels if part.rows is None else len(part.rows)
        kept_columns = module.in_channels if part.columns is None else len(part.columns)
        sizes = {"out_channels": kept_rows, "in_channels": kept_columns}
        if is_depthwise(module):
            groups = kept_rows * module.groups // module.out_channels
            sizes |= {"in_channels": groups, "groups": groups}
    elif part.rows is not None and isinstance(module, nn.LayerNorm):
        sizes = {"normalized_shape": (*module.normalized_shape[:-1], len(part.rows))}
    elif part.rows is not None:
        sizes = {"num_features": len(part.rows)}
    for suffix in ("weight", "bias", "running_mean", "running_var"):
        tensor = getattr(module, suffix, None)
        if isinstance(tensor, Tensor):
            _replace(module, suffix, slice_tensor(module, suffix, tensor.detach(), part))
    for name, value in sizes.items():
        setattr(module, name, value)


def _cut_tensor(module: nn.Module, suffix: str, axes: Sequence[tuple[int, Tensor]]) -> None:
    """Cut a parameter or buffer that belongs to no known kind of module."""
    tensor: Tensor = getattr(module, suffix).detach()
    for axis, kept in axes:
        tensor = tensor.index_select(axis, kept.to(tensor.device))
    _replace(module, suffix, tensor)


def _replace(module: nn.Module, suffix: str, tensor: Tensor) -> None:
    old = getattr(module, suffix)
    setattr(module, suffix, nn.Parameter(tensor, old.requires_grad) if isinstance(old, nn.Parameter) else tensor)


def _tie(model: nn.Module, aliases: Mapping[str, str]) -> None:
    """Let tensors that were one under several names be one again."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for alias, name in aliases.items():
        (owner, _, suffix), (first, _, first_suffix) = alias.rpartition("."), name.rpartition(".")
        setattr(modules[owner], suffix, getattr(modules[first], first_suffix))


def check_against_prediction(model: nn.Module, predicted: Mapping[str, Tensor]) -> None:
    """Compare every tensor of a pruned network with the slices predicted from the channel groups.

    Args:
        model: The pruned network, not refitted yet.
        predicted: The expected state dict.

    Raises:
        UnsupportedStructureError: If a tensor is missing or differs in shape or value, or attributes contradict
            weights.
    """
    state = model.state_dict()
    problems = [f"{name} is {'missing' if name in predicted else 'unexpected'}" for name in state.keys() ^ predicted]
    for name in state.keys() & predicted:
        actual, expected = state[name], predicted[name]
        if actual.shape != expected.shape:
            problems.append(f"{name} became {list(actual.shape)} instead of {list(expected.shape)}")
        elif not _same_values(actual, expected):
            problems.append(f"{name} kept other channels than the plan says")
    problems = sorted(problems) + broken_promises(model)
    if problems:
        raise UnsupportedStructureError(surgery_failed("; ".join(problems[:3])))


def _same_values(actual: Tensor, expected: Tensor) -> bool:
    if torch.equal(actual, expected):
        return True
    return actual.is_floating_point() and torch.allclose(actual, expected, rtol=0, atol=0, equal_nan=True)


def surgery_failed(reason: str) -> str:
    """Return the message of a failed surgery, with what the user can do."""
    return (
        f"this network cannot be cut consistently, so nothing was changed: {reason}. "
        "Put the layers concerned in ignored_layers"
    )

"""Which channels of a network can be removed together, and what each removal touches.

A *layer* of the pruning problem is a set of coupled channels. Removing channel ``i`` of a layer removes

* row ``i`` of every **producer** (the convolutions and linear maps that compute the channel; a residual stream has
  several of them),
* entry ``i`` of every **carrier** (normalisation, depthwise convolution, bare per-channel parameter: they pass the
  channel on without mixing it with others), and
* the columns of channel ``i`` in every **consumer** (the maps that mix it with other channels; after a flatten a
  channel owns several columns, after a concatenation its columns start at an offset).

Coupling is found by torch-pruning's ``DependencyGraph`` (DepGraph, Fang et al., CVPR 2023). This module is the only one
that reads it: everything else works with :class:`ChannelGroup`.
"""

from __future__ import annotations

import copy
import difflib
import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

CONV_TYPES = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
TRANSPOSED_TYPES = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MIXING_TYPES = (*CONV_TYPES, nn.Linear)
NORM_TYPES = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.PReLU,
)


class UnsupportedStructureError(ValueError):
    """A structure whose channels cannot be removed consistently; the message names it and says what to ignore."""


@dataclass(frozen=True, eq=False)
class Member:
    """One module dimension (or bare parameter) tied to the channels of a layer.

    Attributes:
        module: qualified name of the module (of the owner, for a bare parameter).
        indices: LongTensor [size, width], the positions of channel ``i`` along the module's output dimension
            (producers, carriers) or input dimension (consumers). ``width`` exceeds 1 behind a flatten.
        parameter: qualified name of a bare ``nn.Parameter`` (for example ConvNeXt's layer scale), else None.
    """

    module: str
    indices: Tensor
    parameter: str | None = None

    @property
    def width(self) -> int:
        """Positions a channel owns along the dimension."""
        return self.indices.shape[1]


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """A prunable layer: one set of coupled channels.

    Attributes:
        name: qualified name of the root, the first producer executed.
        size: number of channels.
        units: the smallest legal removals, as tuples of channel indices. One channel each, except where a grouped
            convolution or GroupNorm forces one channel of every group at once.
        producers: modules whose output channels belong to the layer.
        carriers: modules or parameters that hold one entry a channel.
        consumers: modules whose input channels belong to the layer.
    """

    name: str
    size: int
    units: tuple[tuple[int, ...], ...]
    producers: tuple[Member, ...]
    carriers: tuple[Member, ...]
    consumers: tuple[Member, ...]

    @property
    def num_units(self) -> int:
        """Number of smallest legal removals."""
        return len(self.units)

    def channels(self, unit_ids: Iterable[int]) -> list[int]:
        """Channel indices of some units, sorted."""
        return sorted(channel for unit in unit_ids for channel in self.units[int(unit)])

    def columns(self, consumer: Member) -> Tensor:
        """Positions of every unit in a consumer's input dimension, LongTensor [num_units, channels * width]."""
        return torch.stack([consumer.indices[list(unit)].reshape(-1) for unit in self.units])


def find_channel_groups(
    model: nn.Module, example_input: Any, ignored_layers: Sequence[str | nn.Module] = ()
) -> list[ChannelGroup]:
    """Find the prunable layers of a network, in execution order of their roots.

    Channels that reach the network's output without passing a weighted layer are excluded by the graph, whatever the
    type of the layer that makes them. The model is not modified.

    Args:
        model: any network torch-pruning can trace; all its parameters must require gradients.
        example_input: a tensor (or tuple of tensors) the model accepts, on the model's device.
        ignored_layers: names (or modules) whose channels stay; a layer with an ignored producer or carrier is left out.

    Returns:
        One :class:`ChannelGroup` a prunable layer, sorted by execution.

    Raises:
        UnsupportedStructureError: a structure that cannot be cut consistently (named, with the remedy).
        ValueError: unknown ignored layer, frozen parameters, or no prunable layer at all.
    """
    ignored = _ignored_names(model, ignored_layers)
    _check_trainable(model)
    traced = copy.deepcopy(model).eval()
    order = _execution_order(traced, example_input, ignored)
    _refuse_attention(traced, ignored)
    graph = _build_graph(traced, example_input)
    raw_groups = list(_raw_groups(graph))
    found = (_channel_group(raw, traced, order, ignored) for raw in raw_groups)
    groups = [group for group in found if group is not None]
    _check_coverage(groups, raw_groups, traced)
    groups.sort(key=lambda group: order[group.name])
    if not groups:
        raise ValueError(
            f"{type(model).__name__} has no prunable layer: no conv or linear output feeds another weighted layer"
            f"{' outside ignored_layers' if ignored else ''}"
        )
    return groups


def suggest(name: str, known: Iterable[str]) -> str:
    """A 'did you mean' clause for an unknown name, with everything known, for error messages."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (known: {', '.join(names)})"


def _ignored_names(model: nn.Module, ignored_layers: Sequence[str | nn.Module]) -> set[str]:
    modules = dict(model.named_modules())
    names = {id(module): name for name, module in modules.items()}
    ignored: set[str] = set()
    for layer in ignored_layers:
        if isinstance(layer, nn.Module):
            if id(layer) not in names:
                raise ValueError(f"ignored layer {type(layer).__name__} is not a module of the model")
            layer = names[id(layer)]
        if not isinstance(layer, str):
            raise TypeError(f"ignored_layers holds {layer!r}; give module names or module instances, not types")
        if layer not in modules:
            raise ValueError(f"unknown ignored layer {layer!r}" + suggest(layer, modules))
        ignored.update(name for name in modules if name == layer or name.startswith(layer + "."))
    return ignored


def _check_trainable(model: nn.Module) -> None:
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if frozen:
        raise UnsupportedStructureError(
            f"{len(frozen)} parameters are frozen ({', '.join(frozen[:3])}, ...): tracing would silently miss layers. "
            "Call model.requires_grad_(True) first"
        )


def _execution_order(model: nn.Module, example_input: Any, ignored: set[str]) -> dict[str, int]:
    """Rank of every weighted module's first call; refuses modules that run more than once."""
    calls: dict[str, int] = {}
    order: dict[str, int] = {}

    def record(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            order.setdefault(name, len(order))

        return hook

    handles = [
        module.register_forward_pre_hook(record(name))
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    try:
        with torch.no_grad():
            model(*example_input) if isinstance(example_input, (tuple, list)) else model(example_input)
    finally:
        for handle in handles:
            handle.remove()
    repeated = [name for name, count in calls.items() if count > 1 and name not in ignored]
    if repeated:
        raise UnsupportedStructureError(
            f"module {repeated[0]!r} runs {calls[repeated[0]]} times in one forward pass; its channels cannot be "
            f"priced independently. Put it in ignored_layers={repeated!r}"
        )
    return order


def _refuse_attention(model: nn.Module, ignored: set[str]) -> None:
    fused = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    fused = [name for name in fused if name not in ignored]
    if fused:
        raise UnsupportedStructureError(
            f"{fused[0]!r} is fused attention (nn.MultiheadAttention), which is not pruned. "
            f"Put it in ignored_layers={fused!r}"
        )


def _build_graph(model: nn.Module, example_input: Any) -> Any:
    import torch_pruning as tp

    # A bare tensor would first be tried as *x, one image an argument.
    example_input = (example_input,) if isinstance(example_input, Tensor) else tuple(example_input)
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return tp.DependencyGraph().build_dependency(model, example_inputs=example_input, verbose=False)
        except ZeroDivisionError as error:
            culprits = _static_reshapes(model)
            raise UnsupportedStructureError(
                "the network reshapes its channel dimension with sizes fixed in code (a channel shuffle, as in "
                f"{culprits or type(model).__name__}): its channels cannot be removed one by one. Prune a part of the "
                "network without such blocks instead (ignored_layers cannot help: the trace itself is inconsistent)"
            ) from error


def _static_reshapes(model: nn.Module) -> str:
    kinds = {type(module).__name__ for module in model.modules() if "shuffl" in type(module).__name__.lower()}
    return ", ".join(sorted(kinds))


def _raw_groups(graph: Any) -> Iterable[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield from graph.get_all_groups(root_module_types=list(MIXING_TYPES))


@dataclass
class _Parts:
    """Members of a group while it is assembled."""

    producers: list[tuple[str, Tensor]]
    carriers: list[tuple[str, Tensor, str | None]]
    consumers: list[tuple[str, Tensor]]


def _channel_group(raw: Any, model: nn.Module, order: dict[str, int], ignored: set[str]) -> ChannelGroup | None:
    """Translate one torch-pruning group; None where it is ignored, an output, or has nothing to remove."""
    names = {id(module): name for name, module in model.named_modules()}
    parameters = {id(parameter): name for name, parameter in model.named_parameters()}
    size = len(raw[0].idxs)
    parts = _Parts([], [], [])
    for item in raw.items:
        target = item.dep.target.module
        if id(target) in parameters and isinstance(target, nn.Parameter):
            name = parameters[id(target)]
            if name.rpartition(".")[0] in ignored:
                return None
            parts.carriers.append((name.rpartition(".")[0], _index_table(item, size, name), name))
            continue
        if id(target) not in names:
            continue
        name = names[id(target)]
        consumes = item.dep.handler.__name__ == "prune_in_channels" and not is_depthwise(target)
        if name in ignored and not (consumes and isinstance(target, MIXING_TYPES)):
            return None
        _add_member(parts, name, target, _index_table(item, size, name), consumes)
    if not parts.consumers or not parts.producers:
        return None
    return _assemble(parts, model, size, order)


def _index_table(item: Any, size: int, name: str) -> Tensor:
    """Positions of each root channel along the target dimension, LongTensor [size, width]."""
    positions = torch.as_tensor(list(item.idxs), dtype=torch.long)
    channels = torch.as_tensor(list(item.root_idxs), dtype=torch.long)
    counts = torch.bincount(channels, minlength=size)
    if len(counts) != size or counts.min() != counts.max() or counts[0] == 0:
        raise UnsupportedStructureError(
            f"{name!r} is tied to only some channels of the layer it shares (a sum over a concatenation): removing "
            f"channels there is not consistent. Put it in ignored_layers=[{name!r}]"
        )
    width = int(counts[0])
    by_channel = torch.argsort(channels, stable=True)
    return positions[by_channel].view(size, width)


def is_depthwise(module: Any) -> bool:
    """Whether a module is a convolution with one filter a channel."""
    return (
        isinstance(module, CONV_TYPES)
        and module.groups > 1
        and module.groups == module.in_channels == module.out_channels
    )


def _add_member(parts: _Parts, name: str, module: nn.Module, table: Tensor, consumes: bool) -> None:
    if is_depthwise(module) or isinstance(module, NORM_TYPES):
        if all(name != other for other, _, _ in parts.carriers):
            parts.carriers.append((name, table, None))
    elif isinstance(module, MIXING_TYPES):
        (parts.consumers if consumes else parts.producers).append((name, table))
    else:
        raise UnsupportedStructureError(
            f"{name!r} ({type(module).__name__}) shares the channels of a layer but cannot be cut. "
            f"Put it in ignored_layers=[{name!r}]"
        )


def _assemble(parts: _Parts, model: nn.Module, size: int, order: dict[str, int]) -> ChannelGroup | None:
    """Sort members by execution, renumber channels by the first producer's rows, and find the units."""
    rank = lambda entry: order.get(entry[0], len(order))  # noqa: E731
    producers = sorted(parts.producers, key=rank)
    consumers = sorted(parts.consumers, key=rank)
    carriers = sorted(parts.carriers, key=rank)
    root, root_table = producers[0]
    if root_table.shape[1] != 1:
        raise UnsupportedStructureError(
            f"{root!r} owns several output positions a channel. Put it in ignored_layers=[{root!r}]"
        )
    by_row = torch.argsort(root_table[:, 0])
    tables = {
        "producers": tuple(Member(name, table[by_row]) for name, table in producers),
        "carriers": tuple(Member(name, table[by_row], parameter) for name, table, parameter in carriers),
        "consumers": tuple(Member(name, table[by_row]) for name, table in consumers),
    }
    units = _units(size, tables, dict(model.named_modules()))
    if len(units) < 2:
        logger.info("layer %s has a single removable unit and is left whole", root)
        return None
    return ChannelGroup(root, size, units, **tables)


def _check_coverage(groups: Sequence[ChannelGroup], raw_groups: Sequence[Any], model: nn.Module) -> None:
    """Refuse consumers that mix a layer's channels with channels no layer makes.

    The tracer does not see a plain tensor (the network's input, say) in a concatenation, nor the size of the maps of
    one that is flattened, so the positions it gives the operands cannot be trusted.
    """
    modules = dict(model.named_modules())
    covered: dict[int, set[int]] = {}
    for raw in raw_groups:
        for item in raw.items:
            if item.dep.handler.__name__ == "prune_in_channels":
                covered.setdefault(id(item.dep.target.module), set()).update(item.idxs)
    for group in groups:
        for member in group.consumers:
            module = modules[member.module]
            known, extent = covered.get(id(module), set()), channel_extent(module, "in")
            if known != set(range(extent)):
                raise UnsupportedStructureError(
                    f"{member.module!r} has {extent} input channels but layers make only {len(known)} of them (a "
                    "concatenation with the network's input or a constant, or one that is flattened): which are which "
                    "is not traced. "
                    f"Put the layers feeding it, such as {group.name!r}, in ignored_layers"
                )


def channel_extent(module: Any, role: str) -> int:
    """Size of a module's ``"out"`` or ``"in"`` channel dimension."""
    if isinstance(module, CONV_TYPES):
        return module.out_channels if role == "out" else module.in_channels
    if isinstance(module, nn.Linear):
        return module.out_features if role == "out" else module.in_features
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[-1]
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    if isinstance(module, nn.PReLU):
        return module.num_parameters
    return module.num_features


def _units(
    size: int, tables: dict[str, tuple[Member, ...]], modules: dict[str, nn.Module]
) -> tuple[tuple[int, ...], ...]:
    """Unite channels that must leave together because a grouped module keeps equal groups."""
    parent = list(range(size))

    def find(channel: int) -> int:
        while parent[channel] != channel:
            parent[channel] = parent[parent[channel]]
            channel = parent[channel]
        return channel

    for role, members in tables.items():
        for member in members:
            period = _group_period(modules[member.module], role)
            if period is None:
                continue
            first: dict[int, int] = {}
            for channel, position in enumerate(member.indices[:, 0].tolist()):
                other = first.setdefault(position % period, channel)
                parent[find(channel)] = find(other)
    units: dict[int, list[int]] = {}
    for channel in range(size):
        units.setdefault(find(channel), []).append(channel)
    return tuple(tuple(unit) for unit in sorted(units.values()))


def _group_period(module: nn.Module, role: str) -> int | None:
    """Channels a group along the dimension a role touches, or None where the module does not group it."""
    if isinstance(module, nn.GroupNorm):
        return module.num_channels // module.num_groups if module.num_groups > 1 else None
    if isinstance(module, CONV_TYPES) and module.groups > 1 and not is_depthwise(module):
        channels = module.in_channels if role == "consumers" else module.out_channels
        return channels // module.groups
    return None

"""FLOPs and parameters of a pruned network in closed form, and the nearest plan that meets a FLOPs target.

A convolution costs ``2 * positions * k_h * k_w * (inputs / groups) * outputs`` FLOPs. Kept inputs and outputs are each
affine in the kept counts of the layers they belong to (several layers may feed one module, a flattened channel owns
several columns), so the cost of the whole network is a quadratic form ``c + b.k + k.Q.k`` in the vector ``k`` of kept
counts. All entries are whole numbers far below 2**53, so float64 arithmetic on them is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from hessian.channels.layer_calls import calls_of_one_input
from prune_gym.cost.budgeted import BudgetedCost, FormCost
from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.cost.quadratic import FormBuilder, QuadraticCost

if TYPE_CHECKING:
    from hessian.channels.group import ChannelGroup, Member

CONVOLUTIONS = nn.modules.conv._ConvNd


class CostModel(BudgetedCost):
    """FLOPs and parameters as functions of kept units; as a cost that a target limits, the FLOPs.

    FLOPs are 2 x MACs of convolutions and linear maps for one input, exactly what ``torch.utils.flop_counter`` counts;
    parameters are all of the network's.

    Args:
        groups: prunable layers, from :func:`hessian.channels.find_channel_groups`.
        model: the dense network; it runs once on the example, in evaluation mode, and is left as it was.
        example_input: a tensor (or tuple of tensors) the model accepts; only its first sample is used.

    Attributes:
        units: int64 [L], units of every layer.
        flops_form: the FLOPs as a :class:`QuadraticCost`.
        params_form: the parameters as a :class:`QuadraticCost`.
        input_shapes: shape of one input [C, ...] of every convolution and linear layer, by qualified name.
        dense_flops: FLOPs of the dense network.
        dense_params: parameters of the dense network.
        positions: weighted module -> how often its kernel is applied to one input.

    Raises:
        ValueError: a layer's units own unequal numbers of positions, so that counts alone do not fix the cost.
    """

    def __init__(self, groups: Sequence[ChannelGroup], model: nn.Module, example_input: Any) -> None:
        self.groups = tuple(groups)
        self.units: IntArray = np.array([group.num_units for group in groups], dtype=np.int64)
        widths = _PositionTable(self.groups)
        calls = calls_of_one_input(model, example_input)
        self.positions, self.input_shapes = calls.positions, calls.input_shapes
        flops, params = FormBuilder(self.units), FormBuilder(self.units)
        counted: set[int] = set()
        modules = dict(model.named_modules())
        for name, module in modules.items():
            _add_module(flops, params, name, module, self.positions.get(name, 0), widths, counted)
        self.flops_form, self.params_form = flops.form(), params.form()
        self._extents = {
            name: _ModuleExtents(*_extents(modules[name]), widths.rows(name), widths.columns(name))
            for name in self.positions
        }
        self.dense_flops = int(self.flops(self.units))
        self.dense_params = int(self.params(self.units))

    def flops(self, kept: IntArray) -> IntArray:
        """FLOPs of plans for one input: kept int [..., L] -> int64 [...]."""
        return self.flops_form(kept).astype(np.int64)

    def params(self, kept: IntArray) -> IntArray:
        """Parameters of plans: kept int [..., L] -> int64 [...]."""
        return self.params_form(kept).astype(np.int64)

    def reduction(self, kept: IntArray) -> FloatArray:
        """FLOPs reduction of plans, fraction in [0, 1): kept int [..., L] -> float64 [...]."""
        return 1.0 - self.flops_form(kept) / self.dense_flops

    def module_sizes(self, name: str, kept: IntArray) -> tuple[IntArray, IntArray]:
        """Outputs and inputs a convolution or linear layer keeps: kept int [..., L] -> two int64 [...]."""
        extents = self._extents[name]
        removed = self.units - np.asarray(kept)
        sizes = extents.outputs - removed @ extents.rows, extents.inputs - removed @ extents.columns
        return sizes[0].astype(np.int64), sizes[1].astype(np.int64)

    def module_flops(self, name: str, kept: IntArray) -> FloatArray:
        """FLOPs of one convolution or linear layer: kept int [..., L] -> float64 [...]."""
        outputs, inputs = self.module_sizes(name, kept)
        extents = self._extents[name]
        # A depthwise convolution counts all inputs as kept: it loses groups, and each output sees as many as before.
        return 2.0 * self.positions[name] * extents.taps * outputs * inputs / extents.groups

    @property
    def form(self) -> QuadraticCost:
        """The FLOPs."""
        return self.flops_form

    @property
    def dense(self) -> float:
        """FLOPs of the dense network."""
        return self.dense_flops

    @cached_property
    def params_cost(self) -> FormCost:
        """The parameters, as a cost that a target limits."""
        return FormCost("params", "parameter", self.groups, self.units, self.params_form)

    def module_forms(self, name: str, form: FormBuilder, fit: Sequence[float]) -> None:
        """Add ``constant + b * outputs + c * inputs + d * outputs * inputs`` of a module to a form.

        Args:
            name: the module's.
            form: what it is added to.
            fit: the four coefficients.
        """
        extents = self._extents[name]
        constant, outputs, inputs, both = fit
        form.add(constant, 1.0, np.zeros(len(self.units)))
        form.add(outputs, extents.outputs, extents.rows)
        form.add(inputs, extents.inputs, extents.columns)
        form.add(both, extents.outputs, extents.rows, extents.inputs, extents.columns)


@dataclass(frozen=True, eq=False)
class _ModuleExtents:
    """Sizes of a weighted module, and the positions a unit of every layer owns of them."""

    outputs: int
    inputs: int
    taps: int
    groups: int
    rows: FloatArray
    columns: FloatArray


class _PositionTable:
    """Positions one unit of every layer owns along module dimensions, and whole extents are left to the module."""

    def __init__(self, groups: Sequence[ChannelGroup]) -> None:
        self._count = len(groups)
        self._rows: dict[str, FloatArray] = {}
        self._columns: dict[str, FloatArray] = {}
        self._bare: dict[str, dict[int | None, FloatArray]] = {}
        for layer, group in enumerate(groups):
            for member in (*group.producers, *group.carriers):
                if member.parameter is None:
                    self._add(self._rows, member.module, layer, group, member)
                else:
                    self._add(self._bare.setdefault(member.parameter, {}), member.axis, layer, group, member)
            for member in (*group.consumers, *group.silent):
                self._add(self._columns, member.module, layer, group, member)

    def _add(self, table: dict[Any, FloatArray], key: Any, layer: int, group: ChannelGroup, member: Member) -> None:
        sizes = {len(unit) for unit in group.units}
        if len(sizes) > 1:
            raise ValueError(f"units of layer {group.name!r} have {sorted(sizes)} channels; their costs differ")
        table.setdefault(key, np.zeros(self._count))[layer] += sizes.pop() * member.indices.shape[1]

    def rows(self, name: str) -> FloatArray:
        """Output positions a unit of every layer owns in a module, [L]."""
        return self._rows.get(name, np.zeros(self._count))

    def bare(self, parameter: str) -> dict[int | None, FloatArray]:
        """Positions a unit of every layer owns along each axis of a bare parameter that channels run along, [L]."""
        return self._bare.get(parameter, {})

    def columns(self, name: str) -> FloatArray:
        """Input positions a unit of every layer owns in a module, [L]."""
        return self._columns.get(name, np.zeros(self._count))


def _add_module(
    flops: FormBuilder,
    params: FormBuilder,
    name: str,
    module: nn.Module,
    positions: int,
    widths: _PositionTable,
    counted: set[int],
) -> None:
    """Add one module's own operations and parameters; parameters that other modules share count once."""
    rows, columns = widths.rows(name), widths.columns(name)
    weighted = isinstance(module, (CONVOLUTIONS, nn.Linear))
    if weighted:
        outputs, inputs, taps, groups = _extents(module)
        flops.add(2.0 * positions * taps, outputs, rows, inputs / groups, columns / groups)
    for suffix, parameter in module.named_parameters(recurse=False):
        if id(parameter) in counted:
            continue
        counted.add(id(parameter))
        if weighted and suffix == "weight":
            params.add(taps, outputs, rows, inputs / groups, columns / groups)
        else:
            qualified = f"{name}.{suffix}" if name else suffix
            _add_parameter(params, parameter, rows, widths.bare(qualified))


def _add_parameter(
    params: FormBuilder, parameter: nn.Parameter, rows: FloatArray, axes: dict[int | None, FloatArray]
) -> None:
    """Add a vector of a known module (its channels are the module's), or a bare parameter cut along some axes.

    Raises:
        ValueError: cut along more than two axes, which no quadratic form counts.
    """
    if not axes:
        # Vectors are written [C], but also [1, C] or [C, 1, 1]: channels run along the last axis that has an extent.
        extents = [extent for extent in parameter.shape if extent > 1] or [1]
        # A single shared entry (PReLU with one slope) stays whole.
        params.add(parameter.numel() / extents[-1], extents[-1], rows * (parameter.numel() > 1))
        return
    last = parameter.ndim - 1
    cut = [(parameter.shape[last if axis is None else axis], owned) for axis, owned in axes.items()]
    rest = parameter.numel() / np.prod([extent for extent, _ in cut])
    if len(cut) > 2:
        raise ValueError(f"a parameter of shape {list(parameter.shape)} is cut along {len(cut)} axes; two are counted")
    params.add(float(rest), *cut[0], *(cut[1] if len(cut) == 2 else ()))


def _extents(module: Any) -> tuple[int, int, int, int]:
    """Outputs, inputs, kernel taps and groups of a weighted module."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features, 1, 1
    return module.out_channels, module.in_channels, int(np.prod(module.kernel_size)), module.groups

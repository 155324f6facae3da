"""Sequential refit: repair a pruned network layer by layer against the dense one.

The closed-form repair (:mod:`hessian.refit.closed_form`) solves every consumer on the *dense* network's inputs. After a
deep cut those inputs are no longer what the layer sees. Here layers are walked in execution order and each is solved
against the dense network's outputs Y on the *pruned* network's inputs X,

    ``W' = W + (Y - W X) X^T (X X^T + damping)^-1``

so that every layer corrects the errors of the ones before. The last layer of a residual block is solved for the block's
sum: its target is the dense sum minus what the pruned shortcut already carries. A layer in front of a ReLU is then
solved for what the ReLU lets through (:mod:`hessian.refit.relu_aware`). Damping pulls towards the sliced dense weights.
BatchNorm statistics stay the dense ones, up to the shift a BatchNorm absorbs for a bias-free layer: the layer before it
is fitted to give it what it expects.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from hessian.channels.group import ChannelGroup
from hessian.channels.layer_types import MIXING_TYPES, TRANSPOSED_TYPES
from hessian.channels.norms import shift_absorbing_norms
from hessian.channels.slicing import Cut, ModuleSlice, NetworkSlicer, Plan, installed
from hessian.patches.matrices import from_matrix, matrix_width, num_groups
from hessian.patches.subsampling import PositionSample, position_extents
from hessian.refit.lockstep import ValueStore, Walker, closing_sum, execution_order, trace
from hessian.refit.rectifiers import Rectifier, rectifier_behind
from hessian.refit.relu_aware import ReluTargets, inverse_gain
from hessian.refit.ridge import ridge_refit
from hessian.support.batches import model_device, split_batch
from hessian.support.layout import layout_for
from hessian.support.modes import modes_restored
from hessian.support.progress import Progress

STORE_BYTES = 2 << 30
"""Dense activations kept between refits; past this they are computed anew for every plan."""

MIN_POSITIONS = 3000
"""A layer is never solved on fewer positions (where there are as many)."""


@dataclass(frozen=True, eq=False)
class _Layer:
    """A weighted layer's place in the walk.

    Attributes:
        name: qualified module name.
        closing: (BatchNorm name or None, other operand) of the residual sum the layer closes, or None.
        relu: the ReLU behind the layer, or None where there is none or the layer is solved for its outputs as they are.
    """

    name: str
    closing: tuple[str | None, fx.Node] | None
    relu: Rectifier | None


class SequentialRefitter:
    """Refits pruned versions of one network; structure, inputs and dense activations are shared by all plans.

    Args:
        model: the dense network; not modified.
        groups: its prunable layers.
        batches: calibration inputs: tensors or (inputs, labels) batches.
        damping: ridge towards the sliced weights, relative to the mean diagonal of ``X X^T``.
        samples_per_input: a layer is solved on this many random positions an unknown of a row, spread over all images;
            None uses all positions.
        store_bytes: memory for dense activations; where they need more they are recomputed for every plan.
        relu_aware: whether layers in front of a ReLU are solved for what it lets through
            (:mod:`hessian.refit.relu_aware`), instead of for their outputs as they are.

    Raises:
        ValueError: no batches.
        UnsupportedStructureError: the network cannot be traced into a graph of operations.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[ChannelGroup],
        batches: Iterable[Any],
        damping: float = 1e-3,
        *,
        samples_per_input: int | None = 200,
        store_bytes: int = STORE_BYTES,
        relu_aware: bool = True,
    ) -> None:
        device = model_device(model)
        self.inputs = [(batch if isinstance(batch, Tensor) else split_batch(batch)[0]).to(device) for batch in batches]
        if not self.inputs:
            raise ValueError("the calibration loader yields no images; at least one batch is needed")
        if samples_per_input is not None and samples_per_input < 1:
            raise ValueError(f"samples_per_input must be at least 1, got {samples_per_input}")
        self.damping = damping
        self.samples_per_input = samples_per_input
        self.relu_aware = relu_aware
        self.slicer = NetworkSlicer(model, groups)
        self._dense = model
        self._private = copy.deepcopy(model).eval().requires_grad_(False)
        self._layout = layout_for(model, self.inputs[0][:1])
        with torch.no_grad(), modes_restored(model):
            model.eval()
            self._norms = shift_absorbing_norms(model, self.inputs[0][:1])
            self._find_layers()
            self._store = self._dense_values(store_bytes)

    def state(self, plan: Plan, *, progress: Progress | None = None) -> dict[str, Tensor]:
        """State dict of the pruned network, every layer downstream of a cut refitted in execution order.

        Args:
            plan: layer name -> removed channel indices.
            progress: called with (description, done, total) after every layer.

        Returns:
            Every key of the model's state dict, at the pruned shapes. The dense state where nothing is removed.

        Raises:
            ValueError: an illegal plan.
        """
        return self.refit(self.slicer.cut(plan), progress=progress)

    def refit(self, cut: Cut, *, progress: Progress | None = None) -> dict[str, Tensor]:
        """:meth:`state` of a plan that was applied to this network before."""
        state = cut.state()
        if not cut.slices:
            return state
        touched = {f"{name}.weight" for name in self._layers_by_name} | {
            f"{name}.bias" for name in self._layers_by_name
        }
        touched |= {f"{norm}.running_mean" for norm in self._norms.values()}
        state = {name: self._layout(tensor.clone()) if name in touched else tensor for name, tensor in state.items()}
        with torch.no_grad(), installed(self._private, state, cut.attributes):
            self._walk(cut.slices, progress)
        return state

    # ------------------------------------------------------------------ structure

    def _find_layers(self) -> None:
        modules = dict(self._dense.named_modules())
        graph = trace(self._dense).graph
        self._order = execution_order(graph, modules)
        self._layers = {
            node: self._layer(node, modules)
            for node in self._order
            if node.op == "call_module" and isinstance(modules[str(node.target)], MIXING_TYPES)
        }
        self._layers_by_name = {layer.name: layer for layer in self._layers.values()}

    def _layer(self, node: fx.Node, modules: dict[str, nn.Module]) -> _Layer:
        closing = closing_sum(node, modules)
        relu = rectifier_behind(node, modules) if self.relu_aware else None
        if relu is not None and relu.summed and closing is None:
            relu = None  # the rest of the sum is not known yet when the layer is solved
        return _Layer(str(node.target), closing, relu)

    def _dense_values(self, limit: int) -> ValueStore:
        wanted = set(self._layers) | {layer.closing[1] for layer in self._layers.values() if layer.closing}
        return ValueStore(self._dense, self._order, self.inputs, wanted, limit)

    # ------------------------------------------------------------------ walking

    def _walk(self, slices: Mapping[str, ModuleSlice], progress: Progress | None) -> None:
        with modes_restored(self._dense):
            self._dense.eval()
            dense = self._store if self._store.complete else Walker(self._dense, self._order, self.inputs)
            pruned = Walker(self._private, self._order, self.inputs)
            done, cut = 0, False
            for node in self._order:
                dense.step(node)
                layer = self._layers.get(node)
                if layer is not None:
                    part = slices.get(layer.name, ModuleSlice())
                    module = pruned.modules[layer.name]
                    cut = cut or part.columns is not None or (part.rows is not None and num_groups(module) > 1)
                    if cut:
                        self._refit(module, layer, part, node, dense, pruned)
                    done += 1
                    if progress is not None:
                        progress("sequential refit", done, len(self._layers))
                pruned.step(node)
                dense.release(node)
                pruned.release(node)

    def _refit(
        self, module: Any, layer: _Layer, part: ModuleSlice, node: fx.Node, dense: ValueStore | Walker, pruned: Walker
    ) -> None:
        """Solve one layer of the private network in place."""
        norm = pruned.modules[self._norms[layer.name]] if layer.name in self._norms else None
        sample = self._sample(module, dense.value(node))
        targets = self._targets(module, layer, part, node, dense, pruned, sample)
        relu = self._relu_targets(module, layer, part, node, dense, pruned, sample, targets)
        shift = module.bias
        if norm is not None:
            shift = torch.zeros_like(norm.running_mean)
        inputs, solved = pruned.value(node.all_input_nodes[0]), module
        if sample is not None:
            solved, inputs = sample.inputs(module, inputs)
        matrix = ridge_refit(solved, shift, inputs, targets, self.damping, relu)
        weight, shift = from_matrix(module, matrix, bias=shift is not None)
        module.weight.copy_(weight)
        if norm is not None and shift is not None:
            norm.running_mean.sub_(shift.to(norm.running_mean.dtype))
        elif shift is not None:
            module.bias.copy_(shift)

    def _sample(self, module: Any, outputs: Sequence[Tensor]) -> PositionSample | None:
        """Output positions a layer is solved on, or None for all of them."""
        if self.samples_per_input is None or isinstance(module, TRANSPOSED_TYPES):
            return None
        positions = sum(len(output) for output in outputs) * math.prod(position_extents(module, outputs[0]))
        wanted = max(self.samples_per_input * matrix_width(module), MIN_POSITIONS)
        return PositionSample(module, outputs, wanted) if wanted < positions else None

    def _targets(
        self,
        module: Any,
        layer: _Layer,
        part: ModuleSlice,
        node: fx.Node,
        dense: ValueStore | Walker,
        pruned: Walker,
        sample: PositionSample | None,
    ) -> list[Tensor]:
        """What the pruned layer should output: the dense output, corrected by the residual sum it closes."""
        outputs = [_rows(module, output, part) for output in _at(sample, dense.value(node))]
        if layer.closing is None:
            return outputs
        norm_name, other = layer.closing
        if not (dense.has(other) and pruned.has(other)):
            return outputs
        errors = [
            _rows(module, wanted, part) - carried
            for wanted, carried in zip(_at(sample, dense.value(other)), _at(sample, pruned.value(other)), strict=True)
        ]
        if norm_name is not None:
            gain = inverse_gain(_gain(pruned.modules[norm_name]))
            errors = [error * gain.view(1, -1, *[1] * (error.ndim - 2)) for error in errors]
        return [output + error for output, error in zip(outputs, errors, strict=True)]

    def _relu_targets(
        self,
        module: Any,
        layer: _Layer,
        part: ModuleSlice,
        node: fx.Node,
        dense: ValueStore | Walker,
        pruned: Walker,
        sample: PositionSample | None,
        wanted: Sequence[Tensor],
    ) -> list[ReluTargets] | None:
        """What a ReLU behind the layer makes of its outputs; None where there is none."""
        if layer.relu is None:
            return None
        values = [_rows(module, output, part) for output in _at(sample, dense.value(node))]
        gain = values[0].new_ones(())
        if layer.relu.norm is not None:
            norm = pruned.modules[layer.relu.norm]
            gain = _gain(norm).view(1, -1, *[1] * (values[0].ndim - 2))
            values = [norm(value) for value in values]
        if layer.relu.summed:
            assert layer.closing is not None
            other = layer.closing[1]
            if not (dense.has(other) and pruned.has(other)):
                return None
            rest = [_rows(module, value, part) for value in _at(sample, dense.value(other))]
            values = [value + added for value, added in zip(values, rest, strict=True)]
        return [
            ReluTargets(target, value, gain, layer.relu.ceiling) for target, value in zip(wanted, values, strict=True)
        ]


def _gain(norm: Any) -> Tensor:
    """What an evaluation-mode BatchNorm makes of one unit, [channels]."""
    scale = norm.weight if norm.affine else 1.0
    return torch.as_tensor(scale / (norm.running_var + norm.eps).sqrt())


def _at(sample: PositionSample | None, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
    return outputs if sample is None else sample.outputs(outputs)


def _channel_axis(module: nn.Module, output: Tensor) -> int:
    return output.ndim - 1 if isinstance(module, nn.Linear) else 1


def _rows(module: nn.Module, output: Tensor, part: ModuleSlice) -> Tensor:
    if part.rows is None:
        return output
    return output.index_select(_channel_axis(module, output), part.rows.to(output.device))

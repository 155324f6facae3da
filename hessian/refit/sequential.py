"""Sequential refit: repair a pruned network layer by layer against the dense one.

The closed-form repair (:mod:`hessian.refit.closed_form`) solves every consumer on the *dense* network's inputs. After a
deep cut those inputs are no longer what the layer sees. Here layers are walked in execution order and each is solved
against the dense network's outputs Y on the *pruned* network's inputs X,

    ``W' = W + (Y - W X) X^T (X X^T + damping)^-1``

so that every layer corrects the errors of the ones before. The last layer of a residual block is solved for the block's
sum: its target is the dense sum minus what the pruned shortcut already carries. Damping pulls towards the sliced dense
weights. BatchNorm statistics stay the dense ones, up to the shift a BatchNorm absorbs for a bias-free layer: the layer
before it is fitted to give it what it expects.
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
from hessian.obs.algebra import cholesky
from hessian.patches.matrices import (
    CHUNK_ELEMENTS,
    from_matrix,
    matrix_width,
    moment_with_constant,
    num_groups,
    output_columns,
    patches,
    to_matrix,
)
from hessian.patches.products import outer_sum
from hessian.patches.subsampling import PositionSample, position_extents
from hessian.refit.lockstep import ValueStore, Walker, closing_sum, execution_order, trace
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
    """

    name: str
    closing: tuple[str | None, fx.Node] | None


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
    ) -> None:
        device = model_device(model)
        self.inputs = [(batch if isinstance(batch, Tensor) else split_batch(batch)[0]).to(device) for batch in batches]
        if not self.inputs:
            raise ValueError("the calibration loader yields no images; at least one batch is needed")
        if samples_per_input is not None and samples_per_input < 1:
            raise ValueError(f"samples_per_input must be at least 1, got {samples_per_input}")
        self.damping = damping
        self.samples_per_input = samples_per_input
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
            node: _Layer(str(node.target), closing_sum(node, modules))
            for node in self._order
            if node.op == "call_module" and isinstance(modules[str(node.target)], MIXING_TYPES)
        }
        self._layers_by_name = {layer.name: layer for layer in self._layers.values()}

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
        shift = module.bias
        if norm is not None:
            shift = torch.zeros_like(norm.running_mean)
        inputs, solved = pruned.value(node.all_input_nodes[0]), module
        if sample is not None:
            solved, inputs = sample.inputs(module, inputs)
        matrix = ridge_refit(solved, shift, inputs, targets, self.damping)
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
            gain = _inverse_gain(pruned.modules[norm_name])
            errors = [error * gain.view(1, -1, *[1] * (error.ndim - 2)) for error in errors]
        return [output + error for output, error in zip(outputs, errors, strict=True)]


def ridge_refit(
    module: Any, shift: Tensor | None, inputs: Sequence[Tensor], targets: Sequence[Tensor], damping: float
) -> Tensor:
    """Ridge regression of targets on a layer's inputs, centred at its current weights.

    Args:
        module: a convolution or linear layer.
        shift: current constant [d_out] added to the outputs (a bias), or None to fit none.
        inputs: what the layer is called with, batch by batch.
        targets: what it should give, batch by batch.
        damping: relative to the mean diagonal of ``X X^T``; the constant is hardly damped.

    Returns:
        Matrices [groups, d_out, d_in (+ 1 with a shift)] in float64.
    """
    weight = to_matrix(module, module.weight, shift).double()
    size = weight.shape[2]
    gram = weight.new_zeros(weight.shape[0], size, size)
    cross = torch.zeros_like(weight)
    for given, wanted in zip(inputs, targets, strict=True):
        if len(given) == 0:
            continue
        images = max(1, CHUNK_ELEMENTS // 4 // max(1, given[0].numel() * _kernel(module)))
        for part, target in zip(given.split(images), wanted.split(images), strict=True):
            X, Y = patches(module, part), output_columns(module, target)
            gram += outer_sum(X) if shift is None else moment_with_constant(X)
            width = X.shape[2]
            cross[:, :, :width] += outer_sum(Y, X)
            cross[:, :, width:] += Y.sum(dim=(0, 3))[:, :, None]
    mean = gram.diagonal(dim1=1, dim2=2)[:, :width].mean(dim=1, keepdim=True).clamp_min(torch.finfo(gram.dtype).tiny)
    ridge = (damping * mean).expand(-1, size).clone()
    if shift is not None:
        ridge[:, -1] = torch.minimum(ridge[:, -1], damping * gram[:, -1, -1])
    factor = cholesky(gram + torch.diag_embed(ridge))
    residual = (cross - weight @ gram).transpose(1, 2)
    return weight + torch.cholesky_solve(residual, factor).transpose(1, 2)


def _kernel(module: Any) -> int:
    return 1 if isinstance(module, nn.Linear) else math.prod(module.kernel_size)


def _inverse_gain(norm: Any) -> Tensor:
    """What one unit after an evaluation-mode BatchNorm is before it; 0 where the norm is (nearly) shut."""
    gain = (norm.weight if norm.affine else 1.0) / (norm.running_var + norm.eps).sqrt()
    return torch.where(gain.abs() > 1e-3, 1.0 / gain, torch.zeros_like(gain))


def _at(sample: PositionSample | None, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
    return outputs if sample is None else sample.outputs(outputs)


def _channel_axis(module: nn.Module, output: Tensor) -> int:
    return output.ndim - 1 if isinstance(module, nn.Linear) else 1


def _rows(module: nn.Module, output: Tensor, part: ModuleSlice) -> Tensor:
    if part.rows is None:
        return output
    return output.index_select(_channel_axis(module, output), part.rows.to(output.device))

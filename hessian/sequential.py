"""Sequential refit: repair a pruned network layer by layer against the dense one.

The closed-form repair (:mod:`hessian.compensation`) solves every consumer on the *dense* network's inputs. After a deep
cut those inputs are no longer what the layer sees. Here layers are walked in execution order and each is solved against
the dense network's outputs on the *pruned* network's inputs,

    ``W' = W + (Y - W X') X'^T (X' X'^T + damping)^-1``

so that every layer corrects the errors of the ones before. The last layer of a residual block is solved for the block's
sum: its target is the dense sum minus what the pruned shortcut already carries. Damping pulls towards the weights the
pruned network came with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from hessian.batches import model_device, split_batch
from hessian.channels import MIXING_TYPES, ChannelGroup
from hessian.covariance import from_matrix, output_columns, patches, to_matrix
from hessian.kfac import Progress
from hessian.lockstep import Walker, closing_sum, execution_order, trace
from hessian.modes import modes_restored
from hessian.norms import shift_absorbing_norms
from hessian.slicing import ModuleSlice, NetworkSlicer, Plan

Norm = Any


def sequential_refit(
    dense_model: nn.Module,
    pruned_model: nn.Module,
    groups: Sequence[ChannelGroup],
    plan: Plan,
    batches: Iterable[Any],
    damping: float = 1e-3,
    *,
    progress: Progress | None = None,
) -> None:
    """Refit every layer downstream of a cut, in execution order, in place.

    Args:
        dense_model: the network before pruning; not modified.
        pruned_model: the physically pruned network (same module names), ideally already refitted in closed form.
            Its weights, biases and, where a BatchNorm absorbs a shift, running means are changed.
        groups: the dense network's prunable layers.
        plan: what was removed.
        batches: calibration inputs: tensors or (inputs, labels) batches.
        damping: ridge towards the current weights, relative to the mean diagonal of ``X' X'^T``.
        progress: called with (description, done, total) after every layer.

    Raises:
        ValueError: no batches.
        UnsupportedStructureError: the network cannot be traced into a graph of operations.
    """
    device = model_device(pruned_model)
    inputs = [(batch if isinstance(batch, Tensor) else split_batch(batch)[0]).to(device) for batch in batches]
    if not inputs:
        raise ValueError("the calibration loader yields no images; at least one batch is needed")
    slices = NetworkSlicer(dense_model, groups).slices(plan)
    norms = shift_absorbing_norms(dense_model, inputs[0][:1])
    with torch.no_grad(), modes_restored(dense_model), modes_restored(pruned_model):
        graph = trace(dense_model.eval()).graph
        pruned_model.eval()
        _walk(dense_model, pruned_model, graph, slices, norms, inputs, damping, progress)


def _walk(
    dense_model: nn.Module,
    pruned_model: nn.Module,
    graph: fx.Graph,
    slices: Mapping[str, ModuleSlice],
    norms: Mapping[str, str],
    inputs: Sequence[Tensor],
    damping: float,
    progress: Progress | None,
) -> None:
    modules = dict(dense_model.named_modules())
    order = execution_order(graph, modules)
    dense, pruned = Walker(dense_model, order, inputs), Walker(pruned_model, order, inputs)
    layers = {
        node: str(node.target)
        for node in order
        if node.op == "call_module" and isinstance(modules[str(node.target)], MIXING_TYPES)
    }
    done, cut = 0, False
    for node in order:
        dense.step(node)
        if node in layers:
            name = layers[node]
            part = slices.get(name, ModuleSlice())
            cut = cut or part.columns is not None or _is_thinned_carrier(modules[name], part)
            if cut:
                absorber = None
                if name in norms:
                    mean = _rows(modules[name], modules[norms[name]].running_mean[None], part)[0]
                    absorber = _Absorber(pruned.modules[norms[name]], mean)
                targets = _targets(node, dense, pruned, modules, part)
                _refit_layer(pruned.modules[name], absorber, pruned.inputs(node), targets, damping)
            done += 1
            if progress is not None:
                progress("sequential refit", done, len(layers))
        pruned.step(node)
        dense.release(node)
        pruned.release(node)


@dataclass(frozen=True, eq=False)
class _Absorber:
    """A BatchNorm whose running mean takes a shift of the layer before it.

    Attributes:
        norm: the pruned network's BatchNorm.
        mean: the dense network's running mean on the kept channels; the shift is counted from it.
    """

    norm: Norm
    mean: Tensor

    def read(self) -> Tensor:
        """The shift absorbed so far, [d_out]."""
        return self.mean - self.norm.running_mean

    def write(self, shift: Tensor) -> None:
        """Absorb this shift instead."""
        self.norm.running_mean.copy_(self.mean - shift.to(self.mean.dtype))


def _is_thinned_carrier(module: Any, part: ModuleSlice) -> bool:
    return part.rows is not None and getattr(module, "groups", 1) > 1


def _targets(
    node: fx.Node, dense: Walker, pruned: Walker, modules: dict[str, nn.Module], part: ModuleSlice
) -> list[Tensor]:
    """What the pruned layer should output, per batch: the dense output, corrected by a residual sum it closes."""
    outputs = [_rows(modules[str(node.target)], values[node], part) for values in dense.values]
    closing = closing_sum(node, modules)
    if closing is None:
        return outputs
    norm_name, other = closing
    if any(other not in values for values in (*dense.values, *pruned.values)):
        return outputs
    scale = _norm_scale(pruned.modules[norm_name]) if norm_name else None
    targets = []
    for output, dense_values, pruned_values in zip(outputs, dense.values, pruned.values, strict=True):
        error = _rows(modules[str(node.target)], dense_values[other], part) - pruned_values[other]
        targets.append(output + (error if scale is None else error * scale.view(1, -1, *[1] * (error.ndim - 2))))
    return targets


def _norm_scale(norm: Norm) -> Tensor:
    """What one unit after an evaluation-mode BatchNorm is before it; 0 where the norm is (nearly) shut."""
    gain = (norm.weight if norm.affine else 1.0) / (norm.running_var + norm.eps).sqrt()
    return torch.where(gain.abs() > 1e-3, 1.0 / gain, torch.zeros_like(gain))


def _rows(module: nn.Module, output: Tensor, part: ModuleSlice) -> Tensor:
    if part.rows is None:
        return output
    axis = output.ndim - 1 if isinstance(module, nn.Linear) else 1
    return output.index_select(axis, part.rows.to(output.device))


def _refit_layer(
    layer: Any, absorber: _Absorber | None, inputs: Iterable[Tensor], targets: Sequence[Tensor], damping: float
) -> None:
    """Ridge regression of the targets on the layer's inputs, centred at its current weights."""
    shift = layer.bias if layer.bias is not None else absorber.read() if absorber is not None else None
    shifts = shift is not None
    weight = to_matrix(layer, layer.weight, shift).double()
    gram = weight.new_zeros(weight.shape[0], weight.shape[2], weight.shape[2])
    cross = torch.zeros_like(weight)
    for given, target in zip(inputs, targets, strict=True):
        for part, wanted in zip(given.split(64), target.split(64), strict=True):
            X = patches(layer, part).permute(1, 2, 0, 3).flatten(2)
            Y = output_columns(layer, wanted).permute(1, 2, 0, 3).flatten(2)
            if shifts:
                X = torch.cat([X, X.new_ones(X.shape[0], 1, X.shape[2])], dim=1)
            gram += (X @ X.transpose(1, 2)).double()
            cross += (Y @ X.transpose(1, 2)).double()
    matrix, shift = from_matrix(layer, _ridge(weight, gram, cross, damping, shifts), bias=shifts)
    layer.weight.copy_(matrix)
    if layer.bias is not None and shift is not None:
        layer.bias.copy_(shift)
    elif absorber is not None and shift is not None:
        absorber.write(shift)


def _ridge(weight: Tensor, gram: Tensor, cross: Tensor, damping: float, shifts: bool) -> Tensor:
    """``W + (Y X^T - W X X^T)(X X^T + damping mean(diag))^-1``; a constant input is hardly damped."""
    width = gram.shape[-1] - int(shifts)
    mean = gram.diagonal(dim1=1, dim2=2)[:, :width].mean(dim=1, keepdim=True).clamp_min(torch.finfo(gram.dtype).tiny)
    ridge = (damping * mean).expand(-1, gram.shape[-1]).clone()
    if shifts:
        ridge[:, -1] = torch.minimum(ridge[:, -1], damping * gram[:, -1, -1])
    factor = torch.linalg.cholesky(gram + torch.diag_embed(ridge))
    residual = (cross - weight @ gram).transpose(1, 2)
    return weight + torch.cholesky_solve(residual, factor).transpose(1, 2)

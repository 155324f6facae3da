r"""Distance a cut moves the features of a network: H-OBS against named baselines.

Half of one layer's units go, the rest of the network stays. The error is read where the layer's channels are used: the
outputs of its consumers in the network as it then runs, against the dense ones: the share ``|Y' - Y|^2 / |Y|^2`` of
their energy that is lost (Frobenius norms; the reconstruction error of channel pruning, He et al., ICCV 2017).

==================  ==============================  ==========================================================
method              which units go                  what happens to the others
==================  ==============================  ==========================================================
magnitude           smallest filters (L2 norm)      nothing
magnitude + refit   smallest filters (L2 norm)      consumers refitted by least squares
producer OBS        greedy sweep over the filters   the other filters of each producer move, the consumers do not
H-OBS               greedy sweep over the inputs    consumers refitted by least squares
==================  ==============================  ==========================================================

Producer-side OBS is the mirror image of H-OBS: for rows R of a producer ``dW_K = G_KK^-1 G_KR W_R`` at the price
``1/2 tr(W_R A W_R^T (G^-1_RR)^-1)``, with the roles of A and G exchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hessian.channels.group import ChannelGroup, Member
from hessian.channels.slicing import Cut, ModuleSlice, installed
from hessian.obs.algebra import damped, inverse, output_gram, refit_columns
from hessian.obs.factors import KroneckerFactors
from hessian.obs.moments import Moment, RowMoment
from hessian.obs.primal import ConsumerQuadratic
from hessian.obs.sweep import greedy_sweep
from hessian.patches.filter_norms import filter_norms
from hessian.patches.matrices import from_matrix, num_groups, weight_matrix
from hessian.pricing.analysis import Analysis
from hessian.support.layout import in_float64

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class FeatureErrors:
    """Relative squared errors of the outputs of a layer's consumers, mean over the consumers.

    Attributes:
        layer: the layer.
        magnitude: smallest filters removed, no repair.
        magnitude_refit: the same, consumers refitted.
        producer_obs: filters removed and repaired at the producers.
        hobs: inputs removed and repaired at the consumers.
    """

    layer: str
    magnitude: float
    magnitude_refit: float
    producer_obs: float
    hobs: float


class FeatureAudit:
    """Measures :class:`FeatureErrors` of one network.

    Args:
        analysis: a finished analysis.
        inputs: images, batch by batch, on the model's device.
        producer_factors: Kronecker factors of every layer's producers, without an added constant.
    """

    def __init__(
        self,
        analysis: Analysis,
        inputs: Sequence[Tensor],
        producer_factors: Mapping[str, KroneckerFactors],
    ) -> None:
        self._analysis = analysis
        self._inputs = inputs
        self._factors = producer_factors
        self._modules: dict[str, Any] = dict(analysis.model.named_modules())
        self._private = copy.deepcopy(analysis.model).eval().requires_grad_(False)

    def measure(self, group: ChannelGroup, fraction: float = 0.5) -> FeatureErrors:
        """Errors of the four methods at a fraction of a layer's units removed."""
        count = min(max(1, round(fraction * group.num_units)), group.num_units - 1)
        smallest = self._cut(group, torch.argsort(filter_norms(group, self._modules), stable=True)[:count])
        cheapest = self._cut(group, self._analysis.orders[group.name][:count])
        rows = self._cut(group, self._producer_order(group)[:count])
        candidates = (
            (smallest, smallest.state()),
            (smallest, self._analysis.compensator.state(smallest)),
            (rows, self._producer_repaired(group, rows)),
            (cheapest, self._analysis.compensator.state(cheapest)),
        )
        return FeatureErrors(group.name, *self._errors(group, candidates))

    def _cut(self, group: ChannelGroup, units: Tensor) -> Cut:
        return self._analysis.compensator.slicer.cut({group.name: group.channels(units.tolist())})

    # ------------------------------------------------------------------ producer-side OBS

    def _producer_order(self, group: ChannelGroup) -> Tensor:
        quadratics = [self._mirrored(group, member) for member in group.producers]
        return greedy_sweep(quadratics).order

    def _mirrored(self, group: ChannelGroup, member: Member) -> ConsumerQuadratic:
        """A producer's part of the price of removing its rows: A and G, W and its transpose change places."""
        module = self._modules[member.module]
        factors = self._factors[member.module]
        G_inverse = inverse(damped(factors.G, self._analysis.damping))
        gram = _row_gram(weight_matrix(module), factors.inputs)
        rows = _unit_rows(group, member, module).to(gram.device).reshape(-1)
        return ConsumerQuadratic(
            G_inverse[:, rows[:, None], rows].contiguous(), gram[:, rows[:, None], rows].contiguous(), group.num_units
        )

    def _producer_repaired(self, group: ChannelGroup, cut: Cut) -> dict[str, Tensor]:
        """The sliced state with every producer's remaining rows moved."""
        state = cut.state()
        for member in group.producers:
            module = self._modules[member.module]
            rows = cut.slices[member.module].rows
            assert rows is not None
            kept = rows[rows < weight_matrix(module).shape[1]]
            G = damped(self._factors[member.module].G, self._analysis.damping)
            moved = refit_columns(weight_matrix(module).transpose(1, 2), G, kept.to(G.device)).transpose(1, 2)
            weight, bias = from_matrix(module, moved, bias=module.bias is not None)
            state[f"{member.module}.weight"] = weight.to(module.weight.dtype)
            if bias is not None:
                state[f"{member.module}.bias"] = bias.to(module.weight.dtype)
        return state

    # ------------------------------------------------------------------ measuring

    @torch.no_grad()
    def _errors(self, group: ChannelGroup, candidates: Sequence[tuple[Cut, Weights]]) -> list[float]:
        """Mean relative squared error over the layer's consumers, of every candidate network."""
        names = [member.module for member in group.consumers]
        energy = torch.zeros(len(names), dtype=torch.float64)
        squares = torch.zeros(len(candidates), len(names), dtype=torch.float64)
        for inputs in self._inputs:
            dense = self._outputs(names, inputs)
            energy += torch.tensor([_energy(dense[name]) for name in names])
            for row, (cut, state) in zip(squares, candidates, strict=True):
                with installed(self._private, state, cut.attributes):
                    pruned = self._outputs(names, inputs)
                row += torch.tensor([_energy(self._difference(name, dense, pruned, cut, state)) for name in names])
        tiny = torch.finfo(torch.float64).tiny
        errors: list[float] = (squares / energy.clamp_min(tiny)).mean(dim=1).tolist()
        return errors

    def _difference(self, name: str, dense: Weights, pruned: Weights, cut: Cut, state: Weights) -> Tensor:
        """A consumer's output minus the dense one on the rows it still has, as the BatchNorm behind it sees them."""
        difference = pruned[name] - _kept_rows(self._modules[name], dense[name], cut.slices[name])
        if name not in self._analysis.norms:
            return difference
        norm = f"{self._analysis.norms[name]}.running_mean"
        shift = state[norm] - cut.state()[norm]
        return difference - shift.view(1, -1, *[1] * (difference.ndim - 2))

    def _outputs(self, names: Sequence[str], inputs: Tensor) -> dict[str, Tensor]:
        with _recorded(self._private, names) as outputs:
            self._private(inputs)
        return outputs


def _unit_rows(group: ChannelGroup, member: Member, module: Any) -> Tensor:
    """Rows of a producer's weight matrix that belong to each unit, LongTensor [num_units, r] inside one group."""
    rows = torch.stack([member.indices[list(unit)].reshape(-1) for unit in group.units])
    if num_groups(module) == 1:
        return rows
    return rows[rows < weight_matrix(module).shape[1]].view(group.num_units, -1)


def _row_gram(weight: Tensor, inputs: Moment) -> Tensor:
    """``W A W^T`` [groups, d_out, d_out] in float64, without forming A where it is kept as rows."""
    if isinstance(inputs, RowMoment):
        projected = in_float64(weight) @ inputs.root().transpose(1, 2)
        return projected @ projected.transpose(1, 2)
    return output_gram(weight.transpose(1, 2), inputs.matrix())


def _energy(tensor: Tensor) -> float:
    return float(in_float64(tensor).square().sum())


def _kept_rows(module: nn.Module, output: Tensor, part: ModuleSlice) -> Tensor:
    if part.rows is None:
        return output
    axis = output.ndim - 1 if isinstance(module, nn.Linear) else 1
    return output.index_select(axis, part.rows.to(output.device))


@contextmanager
def _recorded(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Inside, the last output of every named module is in the mapping."""
    outputs: dict[str, Tensor] = {}

    def keeper(name: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            outputs[name] = output

        return keep

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(keeper(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()

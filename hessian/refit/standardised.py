"""Layers that standardise their weight: forward centres every row of the parameter and gives it a length.

A repair of such a layer solves for the weight of its call, which may be any whose rows have mean zero: of any length
where a gain multiplies them (the scaled weight standardisation of NFNets, Brock et al., ICLR 2021), else of the length
they have (weight standardisation, Qiao et al., 2019).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hessian.channels.layer_types import TRANSPOSED_TYPES
from hessian.channels.slicing import ModuleSlice, slice_tensor
from hessian.obs.algebra import DegenerateFactorError
from hessian.patches.layer_view import exact_layer, found_of_layers, layer_view
from hessian.support.layout import sent

_AMPLE = 30.0
"""Weights beside which the small number that keeps a division by zero away is nothing."""

_STEPS = 80
"""Halvings of an interval; more change nothing in double precision."""


@dataclass(frozen=True)
class Standardised:
    """Weight standardisation of one layer.

    Attributes:
        gain: name of the parameter that multiplies the rows, an entry a row; None where rows have a fixed length.
    """

    gain: str | None

    def parameters(self, module: Any, inputs: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """Parameters of which forward makes a weight.

        Args:
            module: the layer; its own weight says how large the new one is.
            inputs: what it is called with.
            wanted: the weight of the call, rows of mean zero and, without a gain, of the length they have.

        Returns:
            The weight, and the gain where there is one.
        """
        own, rows = _centred(module.weight), _lengths(wanted)
        weight = torch.where(rows > 0, wanted * (_lengths(own) / rows), own)
        if self.gain is None:
            return {"weight": weight}
        gain = module._parameters[self.gain]
        made = _computed(module, inputs, {"weight": weight, self.gain: torch.ones_like(gain)})
        return {"weight": weight, self.gain: (rows / _lengths(made)).reshape(gain.shape)}


@dataclass(frozen=True, eq=False)
class StandardisedLayer:
    """A layer that standardises its weight, as one pass of its network shows it.

    Attributes:
        module: the layer.
        rule: how its weight is made.
        inputs: what it is called with, one image.
    """

    module: Any
    rule: Standardised
    inputs: Tensor

    def narrowed(self, part: ModuleSlice) -> StandardisedLayer:
        """The layer with some of its inputs; all of its outputs stay."""
        assert part.columns is not None
        small = copy.copy(self.module)
        weight = slice_tensor(self.module, "weight", self.module.weight.detach(), ModuleSlice(columns=part.columns))
        small.__dict__["_parameters"] = {**self.module._parameters, "weight": nn.Parameter(weight, requires_grad=False)}
        linear = isinstance(small, nn.Linear)
        small.__dict__["in_features" if linear else "in_channels"] = len(part.columns)
        inputs = self.inputs.index_select(-1 if linear else 1, sent(part.columns, self.inputs.device))
        return StandardisedLayer(small, self.rule, inputs)

    @property
    def weight(self) -> Tensor:
        """The weight it makes of its parameters."""
        return layer_view(self.module, self.inputs).weight.detach()


def standardised_layers(model: nn.Module, example_input: Any) -> dict[str, StandardisedLayer]:
    """Layers of a network that standardise their weight.

    Args:
        model: run in evaluation mode.
        example_input: a tensor, tuple of tensors or dict of keywords the model accepts.
    """

    def finding(module: nn.Module, inputs: Tensor) -> StandardisedLayer | None:
        rule = standardisation(module, inputs)
        return None if rule is None else StandardisedLayer(module, rule, inputs.detach()[:1].clone())

    return found_of_layers(model, example_input, finding)


@torch.no_grad()
def standardisation(module: Any, inputs: Tensor) -> Standardised | None:
    """Weight standardisation of a layer, as trials of its forward show it; None where it does something else.

    Args:
        module: a convolution or linear layer.
        inputs: what it is called with.
    """
    own = module._parameters.get("weight")
    if own is None or exact_layer(module) or isinstance(module, TRANSPOSED_TYPES):
        return None
    vectors = {
        name: torch.ones_like(tensor)
        for name, tensor in module._parameters.items()
        if name not in ("weight", "bias") and tensor is not None and tensor.numel() == len(own)
    }
    try:
        return _tried(module, inputs, own, vectors)
    except (NotImplementedError, RuntimeError):
        return None


def _tried(module: Any, inputs: Tensor, own: Tensor, vectors: dict[str, Tensor]) -> Standardised | None:
    drawn = torch.randn(own.shape, generator=torch.Generator().manual_seed(0)).to(own)
    rows = _AMPLE * _centred(drawn)
    once, other = (_computed(module, inputs, {"weight": rows * by + to, **vectors}) for by, to in ((1, 0), (2, 7)))
    if once.shape != own.shape or not once.any() or not _close(once, other):
        return None
    if not _close(once, rows * (_lengths(once) / _lengths(rows))):
        return None
    doubled = (
        name
        for name, ones in vectors.items()
        if _close(_computed(module, inputs, {"weight": rows, **vectors, name: 2 * ones}), 2 * once)
    )
    found, there = Standardised(next(doubled, None)), layer_view(module, inputs).weight
    return found if _close(_computed(module, inputs, found.parameters(module, inputs, there)), there) else None


def _computed(module: Any, inputs: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    """Weight of a layer's call with other parameters."""
    trial = copy.copy(module)
    new = {name: nn.Parameter(tensor, requires_grad=False) for name, tensor in parameters.items()}
    trial.__dict__["_parameters"] = {**module._parameters, **new}
    return layer_view(trial, inputs).weight


def _centred(weight: Tensor) -> Tensor:
    return weight - weight.mean(dim=tuple(range(1, weight.ndim)), keepdim=True)


def _lengths(weight: Tensor) -> Tensor:
    """Length of every row, broadcasting against the weight."""
    return torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True)


def _close(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal but for rounding in their type and the small number of a division."""
    tolerance = max(1e-3, 8 * torch.finfo(one.dtype).eps)
    return float((one - other).abs().max()) <= tolerance * float(one.abs().max())


@dataclass(frozen=True, eq=False)
class Made:
    """A weight that a layer makes of its parameters.

    Attributes:
        weight: of the call.
        rule: how it is made.
    """

    weight: Tensor
    rule: Standardised


def centred_ridge(
    weight: Tensor, gram: Tensor, ridge: Tensor, *, constant: bool, fixed_lengths: bool
) -> Callable[[Tensor], Tensor]:
    """Function from ``Y X^T`` [groups, d_out, d_in (+ 1)] to the ridge solution among rows of mean zero.

    Args:
        weight: [groups, d_out, d_in (+ 1 with a constant)], what the solution is pulled towards; rows of mean zero.
        gram: ``X X^T`` [groups, d_in (+ 1), d_in (+ 1)].
        ridge: what damping adds to its diagonal, [groups, d_in (+ 1)].
        constant: whether the last entry of the inputs is a constant, which may be anything.
        fixed_lengths: whether rows without their constant keep the lengths they have in ``weight``.

    Raises:
        DegenerateFactorError: the equations are not finite.
    """
    width = weight.shape[2] - int(constant)
    lengths = weight[:, :, :width].norm(dim=2) if fixed_lengths else None
    basis = _without_ones(width).to(weight)
    gram = gram + torch.diag_embed(ridge)
    if not bool(gram.isfinite().all()):
        raise DegenerateFactorError("the inputs of a layer that standardises its weight are not finite")
    inner, across = gram[:, :width, :width], gram[:, :width, width:]
    last = gram.diagonal(dim1=1, dim2=2)[:, None, width:]  # empty without a constant, like what follows from it
    # The best constant for any rows is put in, and rows are held in a basis of those whose mean is zero.
    pulled = (across / last).transpose(1, 2)
    values, vectors = torch.linalg.eigh(basis.T @ (inner - across @ pulled) @ basis)

    def solve(cross: Tensor) -> Tensor:
        linear = cross + weight * ridge[:, None, :]
        known = (linear[:, :, :width] - linear[:, :, width:] @ pulled) @ basis @ vectors
        rows = known / values[:, None, :] if lengths is None else _of_length(values[:, None, :], known, lengths)
        rows = rows @ vectors.transpose(1, 2) @ basis.T
        return torch.cat([rows, (linear[:, :, width:] - rows @ across) / last], dim=2)

    return solve


def _of_length(values: Tensor, known: Tensor, lengths: Tensor) -> Tensor:
    """Rows v of given lengths with the least ``v H v - 2 v b``, in the basis in which H is diagonal.

    They are ``b / (H + shift)``, with a shift for each row that is found by halving: the length falls as it grows.

    Args:
        values: eigenvalues of H, ascending, [groups, 1, d].
        known: b, [groups, d_out, d].
        lengths: [groups, d_out].
    """
    tiny = torch.finfo(known.dtype).tiny
    lengths = lengths.clamp_min(tiny)
    low = known[..., 0].abs() / lengths - values[..., 0]
    high = known.norm(dim=2) / lengths - values[..., 0]
    for _ in range(_STEPS):
        middle = (low + high) / 2
        long = (known / (values + middle[..., None])).norm(dim=2) > lengths
        low, high = torch.where(long, middle, low), torch.where(long, high, middle)
    rows = known / (values + high[..., None]).clamp_min(tiny)
    return rows * (lengths / rows.norm(dim=2).clamp_min(tiny))[..., None]


def _without_ones(size: int) -> Tensor:
    """Orthonormal columns that sum to zero, float64 [size, size - 1]: a reflection that takes the ones to an axis."""
    axis = torch.full((size,), size**-0.5, dtype=torch.float64)
    axis[-1] += 1.0
    return (torch.eye(size, dtype=torch.float64) - 2 * torch.outer(axis, axis) / axis.square().sum())[:, :-1]

"""Repaired weights of a pruned network in closed form.

Every consumer of removed channels is refitted by least squares on its kept inputs (:mod:`hessian.obs`), once on the
joint kept set where several layers feed it. Where a BatchNorm follows a bias-free consumer, the refit may
also shift the output: the shift moves into the BatchNorm's running mean, which is exact.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hessian.channels.group import ChannelGroup
from hessian.channels.slicing import Cut, ModuleSlice, NetworkSlicer, slice_tensor
from hessian.obs.algebra import DegenerateFactorError, Factorisations
from hessian.obs.factors import KroneckerFactors
from hessian.patches.matrices import from_matrix, matrix_columns, to_matrix, weight_matrix
from hessian.refit.lockstep import shared_names
from hessian.refit.standardised import StandardisedLayer, centred_ridge
from hessian.support.layout import in_float64, sent

CACHE_BYTES = 512 << 20
"""Refitted weights kept for reuse, at most."""

CACHE_NETWORKS = 8
"""Times the weights of the dense network that are kept of them: the plans that a search last came from."""

_Repaired = tuple[Tensor, Tensor | None, Tensor | None]
"""A consumer's weight with all its rows, its bias or absorbed shift, and its gain, where it has them."""


class Compensator:
    """Sliced and refitted weights of a network under pruning plans.

    Args:
        model: the dense network.
        groups: its prunable layers.
        factors: Kronecker factors of (at least) every consumer.
        damping: relative damping of A in the refits.
        norms: consumer -> BatchNorm that absorbs its shift (:func:`hessian.channels.norms.shift_absorbing_norms`);
            those consumers' A carries a constant.
        standardised: consumers that standardise their weight, which is then solved for
            (:mod:`hessian.refit.standardised`).

    Attributes:
        factors: those of the consumers whose weight is a parameter.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[ChannelGroup],
        factors: Mapping[str, KroneckerFactors],
        damping: float,
        norms: Mapping[str, str],
        standardised: Mapping[str, StandardisedLayer] | None = None,
    ) -> None:
        self.model = model
        self.slicer = NetworkSlicer(model, groups)
        self._standardised = {} if standardised is None else standardised
        self._all_factors = factors
        self.factors = {name: factor for name, factor in factors.items() if name not in self._standardised}
        self.damping = damping
        self.norms = dict(norms)
        self._shared = shared_names(model)
        self._modules: dict[str, Any] = dict(model.named_modules())
        self._cache: OrderedDict[tuple[str, bytes], _Repaired] = OrderedDict()
        self._cached_bytes = 0
        weights = sum(parameter.nbytes for parameter in model.parameters())
        self._cache_limit = min(CACHE_BYTES, CACHE_NETWORKS * weights)

    def state(self, cut: Cut) -> dict[str, Tensor]:
        """State dict of the pruned network with every consumer refitted.

        Args:
            cut: a plan applied to this network, from :attr:`slicer`.

        Returns:
            Every key of the model's state dict, at the pruned shapes and the model's dtype.

        Raises:
            DegenerateFactorError: the kept block of a factor is not positive definite.
        """
        return self.states([cut])[0]

    def states(self, cuts: Sequence[Cut]) -> list[dict[str, Tensor]]:
        """:meth:`state` of several plans, whose solutions are checked together."""
        solving = Factorisations()
        states = [self._state(cut, solving) for cut in cuts]
        self._check(solving)
        return states

    def _state(self, cut: Cut, solving: Factorisations) -> dict[str, Tensor]:
        state = cut.state()
        for name, part in cut.slices.items():
            if part.columns is not None and name in self._all_factors:
                self._install(state, name, part, cut.slices, solving)
        for names in self._shared:
            source = next((name for name in names if name.rpartition(".")[0] in cut.slices), names[0])
            state.update(dict.fromkeys(names, state[source]))
        return state

    def _install(
        self,
        state: dict[str, Tensor],
        name: str,
        part: ModuleSlice,
        slices: Mapping[str, ModuleSlice],
        solving: Factorisations,
    ) -> None:
        module = self._modules[name]
        weight, shift, gain = self._known(name, part, solving)
        rows = ModuleSlice(rows=part.rows)
        state[f"{name}.weight"] = slice_tensor(module, "weight", weight, rows)
        if gain is not None:
            suffix = str(self._standardised[name].rule.gain)
            state[f"{name}.{suffix}"] = slice_tensor(module, suffix, gain, rows)
        if shift is None:
            return
        if module.bias is not None:
            state[f"{name}.bias"] = slice_tensor(module, "bias", shift, rows)
        else:
            norm = self.norms[name]
            kept = ModuleSlice(rows=slices[norm].rows) if norm in slices else ModuleSlice()
            state[f"{norm}.running_mean"] = state[f"{norm}.running_mean"] - slice_tensor(module, "bias", shift, kept)

    def refitted(self, name: str, part: ModuleSlice) -> tuple[Tensor, Tensor | None]:
        """A consumer's refitted weight with all its rows, and its bias (or absorbed shift) or None.

        Args:
            name: the consumer.
            part: its slice; only the columns matter.

        Returns:
            Weight at the kept input channels, bias [d_out] or None; both cached and not to be modified.

        Raises:
            DegenerateFactorError: the kept block of A is not positive definite.
        """
        solving = Factorisations()
        weight, shift, _ = self._known(name, part, solving)
        self._check(solving)
        return weight, shift

    def forget(self) -> None:
        """Drop the refitted weights kept for reuse."""
        self._cache.clear()
        self._cached_bytes = 0

    def _check(self, solving: Factorisations) -> None:
        try:
            solving.check()
        except DegenerateFactorError:
            self.forget()  # what was solved in vain is among it
            raise

    def _known(self, name: str, part: ModuleSlice, solving: Factorisations) -> _Repaired:
        """:meth:`refitted`, not checked yet, and the gain of a standardised weight."""
        assert part.columns is not None
        key = (name, part.columns.numpy().tobytes())
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        result = self._solve(name, part, solving)
        self._cache[key] = result
        self._cached_bytes += _nbytes(result)
        while self._cached_bytes > self._cache_limit and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= _nbytes(dropped)
        return result

    def _solve(self, name: str, part: ModuleSlice, solving: Factorisations) -> _Repaired:
        module, layer = self._modules[name], self._standardised.get(name)
        factors = self._all_factors[name]
        matrix = weight_matrix(module) if layer is None else to_matrix(module, layer.weight, module.bias)
        if factors.bias and module.bias is None:
            matrix = torch.cat([matrix, matrix.new_zeros(*matrix.shape[:2], 1)], dim=2)
        positions = part.weight_columns(module)
        assert positions is not None
        kept = matrix_columns(module, positions[None])[0]
        if factors.bias:
            kept = torch.cat([kept, kept.new_tensor([matrix.shape[2] - 1])])
        if layer is not None:
            return self._solve_standardised(layer.narrowed(part), factors, matrix, kept)
        refitted = factors.damped(self.damping).refit(matrix, kept, solving)
        return (*from_matrix(module, refitted, bias=factors.bias), None)

    def _solve_standardised(
        self, layer: StandardisedLayer, factors: KroneckerFactors, matrix: Tensor, kept: Tensor
    ) -> _Repaired:
        """Parameters of the least squares weight a narrowed layer can make, for the dense one's matrix."""
        A, matrix, module = damped_inputs(factors, self.damping), in_float64(matrix.detach()), layer.module
        kept = sent(kept, A.device)
        own = in_float64(to_matrix(module, layer.weight, None))
        if factors.bias:
            own = torch.cat([own, own.new_zeros(*own.shape[:2], 1)], dim=2)
        gram = A[:, kept][:, :, kept]
        fixed = layer.rule.gain is None
        solve = centred_ridge(own, gram, gram.new_zeros(gram.shape[:2]), constant=factors.bias, fixed_lengths=fixed)
        weight, shift = from_matrix(module, solve(matrix @ A[:, :, kept]), bias=factors.bias)
        made = layer.rule.parameters(module, layer.inputs, weight.to(module.weight))
        return made["weight"].detach(), shift, None if fixed else made[str(layer.rule.gain)].detach()


def damped_inputs(factors: KroneckerFactors, damping: float) -> Tensor:
    """A with relative damping [groups, d, d] in float64; the constant's entry is damped no more than the inputs'."""
    return in_float64(factors.A) + torch.diag_embed(factors.ridge(damping))


def _nbytes(result: _Repaired) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in result if tensor is not None)

"""Batch norms folded into the convolutions before them: a forward pass without them, for networks that only run.

In evaluation mode a batch norm is one factor and one constant a channel, which the convolution before it takes over.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hessian.channels import TRANSPOSED_TYPES
from hessian.norms import shift_absorbing_norms
from prune_gym.device import module_device

_TOLERANCE = 1e-3
"""Largest difference folding may make to the outputs, relative to their largest entry."""


class FoldedNetwork:
    """A private copy of a network in evaluation mode, without the batch norms that can be folded away.

    Args:
        model: the network; not modified.
        example_input: a tensor the model accepts.

    Attributes:
        model: the copy; folded convolutions have a bias, and their batch norms are gone.
        norms: convolution -> the batch norm it takes over.
    """

    def __init__(self, model: nn.Module, example_input: Tensor) -> None:
        modules: dict[str, Any] = dict(model.named_modules())
        # A norm behind several layers stays.
        pairs = shift_absorbing_norms(model, example_input.to(module_device(model)))
        found = list(pairs.values())
        self.norms = {
            layer: norm
            for layer, norm in pairs.items()
            if found.count(norm) == 1 and not isinstance(modules[layer], (nn.Linear, *TRANSPOSED_TYPES))
        }
        self._epsilon = {norm: float(modules[norm].eps) for norm in self.norms.values()}
        self.model = self._without_norms(model)
        if self.norms and not self._agrees(model, example_input.to(module_device(model))):
            self.norms = {}
            self.model = self._without_norms(model)

    def fold(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of :attr:`model` that computes what the network computes with the given one.

        Args:
            state: state dict of the network, at any (pruned) shapes.
        """
        folded = dict(state)
        for layer, norm in self.norms.items():
            mean, variance = folded.pop(f"{norm}.running_mean"), folded.pop(f"{norm}.running_var")
            folded.pop(f"{norm}.num_batches_tracked", None)
            gain = torch.rsqrt(variance + self._epsilon[norm])
            if f"{norm}.weight" in folded:
                gain = gain * folded.pop(f"{norm}.weight")
            shift = -mean * gain
            if f"{norm}.bias" in folded:
                shift = shift + folded.pop(f"{norm}.bias")
            weight = folded[f"{layer}.weight"]
            folded[f"{layer}.weight"] = weight * gain.view(-1, *[1] * (weight.ndim - 1))
            folded[f"{layer}.bias"] = shift
        return folded

    def _without_norms(self, model: nn.Module) -> nn.Module:
        bare = copy.deepcopy(model).eval().requires_grad_(False)
        for layer, norm in self.norms.items():
            module: Any = bare.get_submodule(layer)
            module.bias = nn.Parameter(module.weight.new_zeros(module.out_channels), requires_grad=False)
            owner, _, name = norm.rpartition(".")
            setattr(bare.get_submodule(owner), name, nn.Identity())
        bare.load_state_dict(self.fold(model.state_dict()))
        return bare

    @torch.no_grad()
    def _agrees(self, model: nn.Module, example_input: Tensor) -> bool:
        """Whether the copy computes the same: not where a convolution's output has a second reader, for example."""
        plain = copy.deepcopy(model).eval()
        expected, given = plain(example_input), self.model(example_input)
        scale = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
        return bool((given - expected).abs().max() <= _TOLERANCE * scale)

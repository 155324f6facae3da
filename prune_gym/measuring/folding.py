"""Batch norms folded into the convolutions before them and activations in place: for networks that only run.

In evaluation mode a batch norm is one factor and one constant a channel, which the convolution before it takes over.
Activations that overwrite their input spare the memory traffic of a second tensor. Both are tried out on the network,
and what would change its outputs, because something else reads the same tensor, is left as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hessian.channels.layer_types import TRANSPOSED_TYPES
from hessian.channels.norms import shift_absorbing_norms
from prune_gym.support.device import module_device
from prune_gym.tasks.outputs import tensors_of

_TOLERANCE = 1e-3
"""Largest difference a copy may make to the outputs, relative to their largest entry."""


class FoldedNetwork:
    """A private copy of a network in evaluation mode, without the batch norms that can be folded away.

    Its activations overwrite their inputs where that changes nothing.

    Args:
        model: the network; not modified.
        example_input: a tensor the model accepts.

    Attributes:
        model: the copy; folded convolutions have a bias, and their batch norms are gone.
        norms: convolution -> the batch norm it takes over.
    """

    def __init__(self, model: nn.Module, example_input: Tensor) -> None:
        modules: dict[str, Any] = dict(model.named_modules())
        images = example_input.to(module_device(model))
        # A norm behind several layers stays.
        pairs = shift_absorbing_norms(model, images)
        found = list(pairs.values())
        self.norms = {
            layer: norm
            for layer, norm in pairs.items()
            if found.count(norm) == 1 and not isinstance(modules[layer], (nn.Linear, *TRANSPOSED_TYPES))
        }
        self._epsilon = {norm: float(modules[norm].eps) for norm in self.norms.values()}
        self.model = self._without_norms(model)
        if self.norms and not _computes(self.model, images, _outputs(copy.deepcopy(model).eval(), images.clone())):
            self.norms = {}
            self.model = self._without_norms(model)
        overwrite_inputs(self.model, images)

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

    def attributes(self, values: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        """Those attributes of modules that :attr:`model` still has: folded batch norms have none."""
        return {owner: each for owner, each in values.items() if owner not in self.norms.values()}

    def _without_norms(self, model: nn.Module) -> nn.Module:
        bare = copy.deepcopy(model).eval().requires_grad_(False)
        for layer, norm in self.norms.items():
            module: Any = bare.get_submodule(layer)
            module.bias = nn.Parameter(module.weight.new_zeros(module.out_channels), requires_grad=False)
            owner, _, name = norm.rpartition(".")
            setattr(bare.get_submodule(owner), name, nn.Identity())
        bare.load_state_dict(self.fold(model.state_dict()))
        return bare


def overwrite_inputs(model: nn.Module, images: Tensor) -> None:
    """Let the activations of a network in evaluation mode overwrite their inputs, if it computes the same then.

    Args:
        model: the network, modified.
        images: what it is tried on.
    """
    activations: list[Any] = [
        module
        for module in model.modules()
        if type(module).__module__.startswith("torch.nn.") and getattr(module, "inplace", None) is False
    ]
    expected = _outputs(model, images.clone())
    for module in activations:
        module.inplace = True
    if not _computes(model, images, expected):
        for module in activations:
            module.inplace = False


@torch.no_grad()
def _outputs(model: nn.Module, images: Tensor) -> Tensor:
    """All outputs as one row an image."""
    return torch.cat([output.flatten(1) for output in tensors_of(model(images))], dim=1)


def _computes(model: nn.Module, images: Tensor, expected: Tensor) -> bool:
    """Return whether a copy computes these outputs; not where a convolution's output has a second reader, say."""
    given = images.clone()
    try:
        outputs = _outputs(model, given)
    except RuntimeError:  # what an activation would overwrite shares its memory
        return False
    scale = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    same = bool((outputs - expected).abs().max() <= _TOLERANCE * scale)
    return same and torch.equal(given, images)

"""Module types by what they do to channels: mix them, carry them, or group them."""

from __future__ import annotations

from typing import Any

from torch import nn

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


def is_depthwise(module: Any) -> bool:
    """Return whether a module is a convolution with filters of its own for every channel, equally many for all."""
    if not isinstance(module, CONV_TYPES) or module.groups == 1 or module.groups != module.in_channels:
        return False
    return module.out_channels == module.groups or not module.transposed


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

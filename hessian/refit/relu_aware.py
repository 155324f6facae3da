"""Least squares for what a ReLU lets through.

A layer in front of a ReLU need not match the dense network where the ReLU shuts the dense value off: any value that is
shut off too will do. With ``Z`` the dense pre-activation and ``z`` the pruned layer's, the error

    ``(z - Z)^2`` where ``Z > 0``, else ``max(z, 0)^2``

is at most ``(z - t)^2`` with the target ``t = Z`` where ``Z > 0``, else ``min(z_now, 0)``, and equal to it at
``z = z_now``. Solving for ``t`` and computing ``t`` anew therefore never increases the error (majorise-minimise;
Hunter and Lange, The American Statistician 58, 2004). All rounds share one Gram matrix: only the right-hand side
changes. A ceiling (ReLU6) is the same on the other side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDS = 3
"""Rounds after the plain solution; more change the weights little."""

_SHUT = 1e-3
"""Gain below which a BatchNorm passes nothing on, so that no output of the layer can be asked for."""


@dataclass(frozen=True, eq=False)
class ReluTargets:
    """Outputs a layer in front of a ReLU should give for one batch.

    The pre-activation is an affine function of the layer's output y, ``z = Z + gain (y - wanted)``: a BatchNorm may lie
    between them, and the rest of a residual sum may be added.

    Attributes:
        wanted: [N, out, *positions] (or [N, *positions, out]), the output whose pre-activation is the dense one.
        dense: Z, the dense pre-activation, in the same shape.
        gain: what one unit of output is in the pre-activation; broadcasts against ``wanted``.
        ceiling: where the activation is flat again, ``math.inf`` for a ReLU.
    """

    wanted: Tensor
    dense: Tensor
    gain: Tensor
    ceiling: float = math.inf

    def against(self, predicted: Tensor) -> Tensor:
        """The targets of the next round, given what the layer gives now (in the shape of ``wanted``)."""
        now = self.dense + self.gain * (predicted - self.wanted)
        target = torch.where(self.dense > 0, self.dense, now.clamp_max(0.0))
        if self.ceiling < math.inf:
            target = torch.where(self.dense < self.ceiling, target, now.clamp_min(self.ceiling))
        return self.wanted + inverse_gain(self.gain) * (target - self.dense)

    def at(self, part: slice) -> ReluTargets:
        """Those of some of the images."""
        return ReluTargets(self.wanted[part], self.dense[part], self.gain, self.ceiling)

    def error(self, predicted: Tensor) -> Tensor:
        """The summed error above, in squared units of the pre-activation, of what the layer gives."""
        now = self.dense + self.gain * (predicted - self.wanted)
        error = torch.where(self.dense > 0, now - self.dense, now.clamp_min(0.0))
        if self.ceiling < math.inf:
            error = torch.where(self.dense < self.ceiling, error, (self.ceiling - now).clamp_min(0.0))
        return error.square().sum()


def inverse_gain(gain: Tensor) -> Tensor:
    """Change of the output per unit of the pre-activation; 0 where (nearly) nothing gets through."""
    return torch.where(gain.abs() > _SHUT, 1.0 / gain, torch.zeros_like(gain))

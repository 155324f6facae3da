"""A running average of a network's weights while it is trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of everything floating-point in a state dict, batch-norm statistics included.

    After step t the average moves by ``1 - min(decay, (1 + t) / (10 + t))`` towards the weights, so that the first
    steps do not drag the start along (as in TensorFlow's ``ExponentialMovingAverage``).

    Args:
        model: what is trained.
        decay: in (0, 1), the closer to 1 the longer the memory.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self._steps = 0
        self._average = {
            name: tensor.detach().clone() for name, tensor in model.state_dict().items() if tensor.is_floating_point()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are after a step."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        state = self._model.state_dict()
        for name, average in self._average.items():
            average.lerp_(state[name], 1 - decay)

    @torch.no_grad()
    def install(self) -> None:
        """Give the model the average."""
        state = self._model.state_dict()
        for name, average in self._average.items():
            state[name].copy_(average)

    def tensors(self) -> dict[str, Tensor]:
        """The average, for a checkpoint."""
        steps = torch.tensor(self._steps)
        return {f"average.{name}": tensor for name, tensor in self._average.items()} | {"averaged_steps": steps}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`tensors` gave.

        Raises:
            KeyError: an entry is missing.
        """
        self._steps = int(tensors["averaged_steps"])
        for name, average in self._average.items():
            average.copy_(tensors[f"average.{name}"])

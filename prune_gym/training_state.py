"""The state of a training run on disk, so that an interrupted run goes on and ends as if it had not been."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prune_gym.files import load_safetensors, save_safetensors_atomic

logger = logging.getLogger(__name__)

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class TrainingState:
    """Everything that changes from epoch to epoch.

    Attributes:
        model: The network.
        optimizer: SGD with momentum.
        generator: CPU generator of order and augmentation.
        device: Where the network is; its global generator feeds dropout.
    """

    model: nn.Module
    optimizer: torch.optim.SGD
    generator: torch.Generator
    device: torch.device

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, parameter in enumerate(self._parameters()):
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{index}"] = momentum
        tensors["generator"] = self.generator.get_state()
        tensors["random"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go back to a state.

        Raises:
            ValueError: If it is one of another network or device.
        """
        weights = {name[len("model.") :]: value for name, value in tensors.items() if name.startswith("model.")}
        try:
            self.model.load_state_dict(weights)
            self.generator.set_state(tensors["generator"])
            torch.set_rng_state(tensors["random"])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(tensors["random_cuda"], self.device)
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"the state does not fit this network and device: {error}") from error
        for index, parameter in enumerate(self._parameters()):
            if f"momentum.{index}" in tensors:
                momentum = tensors[f"momentum.{index}"].to(parameter.device)
                self.optimizer.state[parameter]["momentum_buffer"] = momentum

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


@dataclass(frozen=True)
class TrainingCheckpoint:
    """File that holds the state after the last finished epoch.

    Attributes:
        path: The file; written whole or not at all.
        key: Digest of everything the training depends on; a state under another key is not gone on from.
    """

    path: Path
    key: str

    def restore(self, state: TrainingState) -> Records:
        """Put the kept state into place, if there is one of this training.

        Returns:
            The records of the epochs it has behind it; none if it starts anew.
        """
        if not self.path.is_file():
            return []
        try:
            tensors, metadata = load_safetensors(self.path)
            if metadata.get("key") != self.key:
                raise ValueError("it belongs to another recipe, seed or data")
            records: Records = json.loads(metadata["history"])
            state.restore(tensors)
        except (ValueError, KeyError) as error:
            logger.warning("training starts anew, because %s cannot be gone on from: %s", self.path, error)
            return []
        logger.info("training goes on after epoch %d", len(records))
        return records

    def save(self, state: TrainingState, records: Records) -> None:
        """Keep the state.

        Raises:
            OSError: If the file cannot be written.
        """
        save_safetensors_atomic(self.path, state.tensors(), {"key": self.key, "history": json.dumps(records)})

    def remove(self) -> None:
        """Delete the file: the training is finished."""
        self.path.unlink(missing_ok=True)

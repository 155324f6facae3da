"""The state of a training on disk: what is needed to go on as if it had never stopped. No pickle.

One safetensors file holds weights, the optimizer's memory (momentum, moments), loss scale and the states of all random
generators, with a checksum; what training it belongs to is part of it, so that another one is refused. A state written
on one kind of device (CPU, GPU) is taken over on another: weights, momentum, order and augmentation go on, dropout and
the loss scale start anew there.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hessian.support.distributed import Workers
from prune_gym.support.device import module_device
from prune_gym.support.files import load_safetensors, save_safetensors_atomic, sha256_of

logger = logging.getLogger(__name__)

FORMAT = "prune_gym.training_state.2"

Rows = list[dict[str, Any]]


class TrainingState:
    """Saves and restores a training between epochs.

    Args:
        model: What is trained.
        optimizer: SGD, Adam, or another one that keeps tensors for every parameter.
        scaler: The loss scale of mixed precision.
        generator: Decides order and augmentation.
        workers: The processes that train together; the first writes, all read.
        about: What tells this training from another, of what :func:`prune_gym.support.files.sha256_of` can digest.

    Attributes:
        extra: Tensors of the caller that the file :meth:`resume` read holds beside the rest.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        generator: torch.Generator,
        workers: Workers,
        about: Mapping[str, Any],
    ) -> None:
        self._model, self._optimizer, self._scaler = model, optimizer, scaler
        self._generator, self._workers = generator, workers
        self._device = module_device(model)
        self.extra: dict[str, torch.Tensor] = {}
        shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        self._fingerprint = sha256_of({**about, "shapes": shapes})

    def save(
        self, path: str | os.PathLike[str], history: Rows, extra: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """Write the state, whole or not at all; every process calls it, the first writes.

        Args:
            path: File to write.
            history: A JSON-able row an epoch done.
            extra: Tensors of the caller, by name.

        Raises:
            OSError: If the file cannot be written.
        """
        tensors = {f"model.{name}": tensor for name, tensor in self._model.state_dict().items()}
        tensors |= {f"extra.{name}": tensor for name, tensor in (extra or {}).items()}
        for index, parameter in enumerate(self._trained()):
            for name, value in self._optimizer.state[parameter].items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer.{index}.{name}"] = value
        tensors["random.order"] = self._generator.get_state()
        tensors["random.global"] = self._random_states()
        metadata = {
            "format": FORMAT,
            "device": self._device.type,
            "fingerprint": self._fingerprint,
            "history": json.dumps(history),
            "scaler": json.dumps(self._scaler.state_dict()),
        }
        with self._workers.together():  # nobody goes on, or looks for the file, before it is there
            if self._workers.rank == 0:
                save_safetensors_atomic(path, tensors, metadata)

    @torch.no_grad()
    def resume(self, path: str | os.PathLike[str]) -> Rows:
        """Take over a saved state, if there is one; with a logged warning where it comes from another kind of device.

        Args:
            path: File that `save` wrote, or will write.

        Returns:
            The history saved with it; empty if there is no file.

        Raises:
            ValueError: If the file is damaged or belongs to another training; nothing is changed.
        """
        if not Path(path).exists():
            return []
        tensors, metadata = load_safetensors(path)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path} is not the state of a training ({FORMAT}); choose another file")
        if metadata["fingerprint"] != self._fingerprint:
            raise ValueError(
                f"{path} is the state of another training (other network, data, seed or settings); "
                "delete it or choose another file"
            )
        written_on = metadata.get("device", self._device.type)
        if written_on != self._device.type:
            logger.warning(
                "%s was written on a %s; the training goes on on a %s, not bit for bit as it would have there",
                path,
                written_on,
                self._device.type,
            )
        for name, tensor in self._model.state_dict().items():
            tensor.copy_(tensors[f"model.{name}"])
        self._resume_optimizer(tensors)
        self.extra = {name[len("extra.") :]: tensor for name, tensor in tensors.items() if name.startswith("extra.")}
        self._generator.set_state(tensors["random.order"])
        self._set_random_state(tensors["random.global"][self._workers.rank].to(torch.uint8))
        scale = json.loads(metadata["scaler"])
        if scale:  # empty where gradients need no scaling, as on a CPU
            self._scaler.load_state_dict(scale)
        rows: Rows = json.loads(metadata["history"])
        return rows

    def _resume_optimizer(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for index, parameter in enumerate(self._trained()):
            prefix = f"optimizer.{index}."
            for name, value in tensors.items():
                if name.startswith(prefix):
                    # Counters are scalars on the CPU; everything else lies beside its parameter.
                    own = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value.clone()
                    self._optimizer.state[parameter][name[len(prefix) :]] = own

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def _random_states(self) -> torch.Tensor:
        """The global generators' states of all processes, [processes, bytes], CPU before GPU."""
        states = [torch.get_rng_state()]
        if self._device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self._device))
        own = torch.cat(states).to(torch.int32)
        table = torch.zeros(self._workers.size, len(own), dtype=torch.int32, device=self._device)
        table[self._workers.rank] = own.to(self._device)
        return self._workers.sum(table).to(torch.int32).cpu()

    def _set_random_state(self, state: torch.Tensor) -> None:
        length = len(torch.get_rng_state())
        torch.set_rng_state(state[:length].contiguous())
        if self._device.type == "cuda" and len(state) > length:
            torch.cuda.set_rng_state(state[length:].contiguous(), self._device)

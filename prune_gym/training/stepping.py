"""One step of training: parts of a batch, 16-bit forward passes, gradients added up over processes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

import torch
from torch import nn

from hessian.support.distributed import Workers
from prune_gym.support.device import autocast_dtype, module_device

BatchLoss: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Mean loss of a batch: ``loss(logits [N, num_classes], labels [N], images [N, ...])``."""


class Stepper:
    """Updates a model batch by batch.

    Args:
        model: In training mode; its parameters are the optimizer's.
        optimizer: What moves them.
        loss_of: What is minimised.
        workers: The processes that share every batch.
        accumulation: Parts a process's share passes through in.
        mixed_precision: Whether forward passes compute in 16 bits where the device supports it.

    Attributes:
        scaler: Scales the loss where 16-bit gradients would vanish; inert elsewhere.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_of: BatchLoss,
        workers: Workers,
        accumulation: int,
        mixed_precision: bool,
    ) -> None:
        self._model, self._optimizer, self._loss_of = model, optimizer, loss_of
        self._workers, self._accumulation = workers, accumulation
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._device = module_device(model)
        self._dtype = autocast_dtype(self._device) if mixed_precision else None
        self.scaler = torch.amp.GradScaler(self._device.type, enabled=self._dtype is torch.float16)

    def step(self, images: torch.Tensor, labels: torch.Tensor, lr: float) -> torch.Tensor:
        """Make one update.

        Args:
            images: The whole batch ``[N, ...]``; this process takes its share.
            labels: ``[N]``.
            lr: Learning rate.

        Returns:
            The share's summed loss and number of correct images, ``[2]``, without waiting for them.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.zero_grad()
        sums = torch.zeros(2, device=self._device)
        share = torch.arange(len(labels), device=self._device).tensor_split(self._workers.size)[self._workers.rank]
        for part in share.tensor_split(min(self._accumulation, max(1, len(share)))):
            if len(part):
                whole = len(part) == len(labels)
                sums += self._backward(*((images, labels) if whole else (images[part], labels[part])), len(labels))
        self._sum_gradients()
        self.scaler.step(self._optimizer)
        self.scaler.update()
        return sums

    def share_start(self) -> None:
        """Give every process the weights and buffers of the first."""
        if self._workers.size > 1:
            for parameter in self._model.parameters():
                self._workers.broadcast(parameter.data, 0)
            self.share_buffers()

    def share_buffers(self) -> None:
        """Give every process the buffers (batch-norm statistics) of the first."""
        if self._workers.size > 1:
            for buffer in self._model.buffers():
                self._workers.broadcast(buffer, 0)

    def _backward(self, images: torch.Tensor, labels: torch.Tensor, batch_size: int) -> torch.Tensor:
        with self._autocast():
            logits = self._model(images)
            if self._dtype is not None:
                logits = logits.float()
            loss = self._loss_of(logits, labels, images)
        self.scaler.scale(loss * (len(labels) / batch_size)).backward()
        correct = (logits.detach().argmax(dim=1) == labels).sum()
        return torch.stack([loss.detach() * len(labels), correct])

    def _autocast(self) -> AbstractContextManager[object]:
        return nullcontext() if self._dtype is None else torch.autocast(self._device.type, self._dtype)

    def _sum_gradients(self) -> None:
        """Add up the processes' gradients, all in one message; what has none anywhere keeps none."""
        if self._workers.size == 1:
            return
        there = torch.tensor([float(parameter.grad is not None) for parameter in self._parameters], device=self._device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        flat = self._workers.sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        used = self._workers.sum(there) > 0
        pieces = flat.split([parameter.numel() for parameter in self._parameters])
        for parameter, piece, keep in zip(self._parameters, pieces, used.tolist(), strict=True):
            parameter.grad = piece.view_as(parameter) if keep else None

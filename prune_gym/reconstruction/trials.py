"""One training of a pruned network on the dense network's outputs: Adam, linear warm-up, cosine decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hessian.support.layout import in_float64
from hessian.support.modes import modes_restored
from prune_gym.data.splits import equal_parts
from prune_gym.reconstruction.images import TEACHER_BATCH, Teacher
from prune_gym.reconstruction.outputs import Matching, call, float_outputs
from prune_gym.reconstruction.settings import Reconstruction, Setting
from prune_gym.support.device import autocast_dtype, module_device
from prune_gym.training.one_cycle import one_cycle
from prune_gym.training.strided_pointwise import strided_pointwise_avoided


@dataclass(frozen=True, eq=False)
class Course:
    """Common course of all trainings of a reconstruction.

    Attributes:
        teacher: images and dense outputs.
        matching: the loss.
        settings: everything else.
        trained, held_out: indices of the images that are trained on and that decide.
        seed: of the order of the images.
    """

    teacher: Teacher
    matching: Matching
    settings: Reconstruction
    trained: Tensor
    held_out: Tensor
    seed: int

    def order(self, steps: int) -> list[Tensor]:
        """Indices of the images of every step: pass after pass over the images, each in an order of its own."""
        generator = torch.Generator().manual_seed(self.seed)
        parts: list[Tensor] = []
        while len(parts) < steps:
            shuffled = self.trained[torch.randperm(len(self.trained), generator=generator)]
            parts += equal_parts(shuffled, self.settings.batch_size)
        return parts[:steps]

    @torch.no_grad()
    def held_out_loss(self, model: nn.Module) -> float:
        """Mean loss of a network, in evaluation mode, on the held-out images; infinite where it is not a number."""
        losses = []
        with modes_restored(model):
            model.eval()
            parts = equal_parts(self.held_out, TEACHER_BATCH)
            for part, (inputs, targets) in zip(parts, self.teacher.batches(parts), strict=True):
                losses.append(in_float64(self.matching(float_outputs(call(model, inputs)), targets)) * len(part))
        loss = float(reduce(torch.add, losses)) / len(self.held_out)
        return loss if math.isfinite(loss) else math.inf


def adam(model: nn.Module) -> torch.optim.Adam:
    """The optimizer of a model's trainable parameters; the learning rate is set at every step.

    Raises:
        ValueError: there are none.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("no parameter requires a gradient; call model.requires_grad_(True) first")
    return torch.optim.Adam(trained)


def take_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    course: Course,
    setting: Setting,
    steps: int,
    *,
    first: int = 0,
    after_step: Callable[[int], None] | None = None,
) -> None:
    """Train a network in place.

    Args:
        model: in any mode, and left in it.
        optimizer: of its parameters.
        course: images, targets and loss.
        setting: how steps are taken.
        steps: how many in all.
        first: steps taken before, by a training that is gone on with.
        after_step: called with the number of steps taken so far.
    """
    device = module_device(model)
    dtype = autocast_dtype(device) if course.settings.mixed_precision else None
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    parts = course.order(steps)[first:]
    with _modes(model, setting), strided_pointwise_avoided(model), torch.enable_grad():
        for done, (inputs, targets) in enumerate(course.teacher.batches(parts), start=first):
            for group in optimizer.param_groups:
                group["lr"] = setting.lr * one_cycle(done, steps, course.settings.warmup)
            optimizer.zero_grad()
            with _autocast(device, dtype):
                outputs = float_outputs(call(model, inputs))
            scaler.scale(course.matching(outputs, targets)).backward()
            scaler.step(optimizer)
            scaler.update()
            if after_step is not None:
                after_step(done + 1)


@contextmanager
def _modes(model: nn.Module, setting: Setting) -> Iterator[None]:
    """Evaluation mode (dropout stays off, as in the dense network), batch norms as the setting says."""
    with modes_restored(model):
        model.eval()
        if setting.batch_statistics:
            for module in model.modules():
                if isinstance(module, _BatchNorm):
                    module.train()
        yield


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def has_batch_norms(model: nn.Module) -> bool:
    """Return whether a network has batch norms, so that batch statistics make a difference."""
    return any(isinstance(module, _BatchNorm) and module.running_mean is not None for module in model.modules())

"""Worth of a plan after the first steps of a reconstruction: a stand-in for what comes after the search.

The repair refits a plan's network and then takes a few dozen steps towards the dense network's outputs on the
calibration images (:mod:`prune_gym.reconstruction`), without labels. Dense outputs are computed once for all plans.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hessian.channels.slicing import Cut, installed
from hessian.support.layout import layout_for
from prune_gym.reconstruction.images import Teacher, UnlabelledImages
from prune_gym.reconstruction.outputs import Matching
from prune_gym.reconstruction.settings import Reconstruction, Setting
from prune_gym.reconstruction.trials import Course, adam, take_steps
from prune_gym.tasks.outputs import scores_classes

if TYPE_CHECKING:
    from prune_gym.tasks.task import PruningTask

STEPS = 40
"""Steps a plan is given."""

SETTING = Setting(lr=1e-3, batch_statistics=False)
"""Setting of these steps: in so few, statistics of single batches cost more than they give."""


class ShortReconstruction:
    """A refit, then a few steps towards the dense network's outputs.

    Args:
        task: dense network and calibration split.
        refit: repaired state dict of a plan applied to the task's network.
        steps: how many; the images of every step are the same for all plans.
    """

    def __init__(self, task: PruningTask, refit: Callable[[Cut], dict[str, Tensor]], *, steps: int = STEPS) -> None:
        self._refit, self._steps = refit, steps
        self._model = copy.deepcopy(task.model).eval()
        self._layout = layout_for(task.model, task.calibration.images[:1].to(task.example_input.device))
        dense = copy.deepcopy(task.model).eval().requires_grad_(False)
        for parameter in dense.parameters():
            parameter.data = self._layout(parameter.data)
        teacher = Teacher(dense, UnlabelledImages(task.calibration, fewest=1), self._layout)
        teacher.keep()
        settings = Reconstruction(loss="kl" if scores_classes(task.criterion) else "mse")
        everything = torch.arange(len(task.calibration))
        self._course = Course(teacher, Matching.of(teacher.sample, settings), settings, everything, everything, seed=0)

    def state(self, cut: Cut) -> dict[str, Tensor]:
        """Repaired state dict at the pruned shapes; every tensor in it is the caller's own."""
        state = {name: self._layout(tensor.clone()) for name, tensor in self._refit(cut).items()}
        if not cut.slices:
            return state
        # Parameters of the network share memory with the tensors they are made of, so these are trained in place.
        with installed(self._model, state, cut.attributes), torch.inference_mode(False):
            self._model.requires_grad_(True)
            take_steps(self._model, adam(self._model), self._course, SETTING, self._steps)
        return state

"""Repairs of the surviving weights: of a candidate before it is scored, and of its final network.

* :class:`SequentialRepair` (default): every layer refitted against the dense network on the pruned network's own inputs
  (:mod:`hessian.refit.sequential`). BatchNorm statistics need no recalibration afterwards; it makes things worse.
* :class:`ClosedFormRepair`: consumers refitted on the dense network's inputs (:mod:`hessian.refit.closed_form`), then
  BatchNorm recalibrated on the calibration split. Faster, and much less accurate after deep cuts.
* :class:`Unrepaired`: no refit, for comparisons.
* :class:`prune_gym.measuring.short_reconstruction.ShortReconstruction`: the sequential refit and a few dozen steps
  towards the dense network's outputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from hessian.channels.layer_calls import calls_of_one_input
from hessian.channels.norms import BATCH_NORM
from hessian.channels.slicing import Cut, installed
from hessian.hobs import HOBSSensitivityAnalyzer
from hessian.patches.matrices import matrix_width
from hessian.refit.sequential import SequentialRefitter
from hessian.support.layout import layout_for
from prune_gym.data.splits import TensorSplit, equal_parts
from prune_gym.measuring.folding import overwrite_inputs
from prune_gym.measuring.short_reconstruction import ShortReconstruction
from prune_gym.measuring.stacked.passes import batch_statistics, recalibrates
from prune_gym.measuring.stacked.shapes import Stacked, stack
from prune_gym.support.device import module_device
from prune_gym.training.batchnorm import mean_over_batches, recalibrate_bn

if TYPE_CHECKING:
    from prune_gym.tasks.task import PruningTask

BATCH_SIZE = 512
"""Largest calibration batch; splits of at most this many images are recalibrated in one pass."""

RECALIBRATION_IMAGES = 32
"""Calibration images the closed-form repair takes BatchNorm statistics from, at every candidate of a search.

Against statistics of 1,024 images, 24 plans for Fashion-MNIST (ResNet-20) are ranked alike after 32 (Spearman 0.97 at
50, 70 and 84 % of the FLOPs; 0.99 after 64, 0.98 and more after 256), and their mean true-class probability is lower by
0.001, 0.003 and 0.013. What the repair itself leaves undone is far more: its ranking agrees with the full refit's at
0.84, 0.33 and 0.33 after 32 images, 0.81, 0.33 and 0.38 after 1,024.
"""


class Repair(Protocol):
    """Weights of a pruned network."""

    def state(self, cut: Cut) -> dict[str, Tensor]:
        """Repaired state dict at the pruned shapes; every call gives tensors of its own where they differ.

        Args:
            cut: a plan applied to the task's network.
        """
        ...


class SequentialRepair:
    """Layer-by-layer refit on the pruned network's inputs.

    Args:
        task: dense network and calibration split.
        hobs: an analysis of the network.
        images: calibration images to refit on, as many of every class; None takes all.
        samples_per_input: see :class:`hessian.refit.sequential.SequentialRefitter`.
    """

    def __init__(
        self,
        task: PruningTask,
        hobs: HOBSSensitivityAnalyzer,
        *,
        images: int | None = None,
        samples_per_input: int = 200,
    ) -> None:
        chosen = balanced_images(task.calibration, images).to(module_device(task.model))
        parts = [chosen[part] for part in equal_parts(torch.arange(len(chosen)), BATCH_SIZE)]
        self._refitter = SequentialRefitter(
            task.model, hobs.groups, parts, hobs.damping, samples_per_input=samples_per_input
        )

    def state(self, cut: Cut) -> dict[str, Tensor]:
        """Repaired state dict at the pruned shapes."""
        return self._refitter.refit(cut)

    @property
    def errors(self) -> Mapping[str, float]:
        """Errors of the last repair: :attr:`hessian.refit.sequential.SequentialRefitter.errors`."""
        return self._refitter.errors


class ClosedFormRepair:
    """Least squares on the dense inputs, then BatchNorm recalibration in one pass over a few calibration images.

    Args:
        task: dense network and calibration split.
        hobs: an analysis of the network.
    """

    def __init__(self, task: PruningTask, hobs: HOBSSensitivityAnalyzer) -> None:
        self._hobs = hobs
        self._model = copy.deepcopy(task.model).eval().requires_grad_(False)
        images = balanced_images(task.calibration, RECALIBRATION_IMAGES).to(module_device(task.model))
        self._layout = layout_for(task.model, images[:1])
        self._images = self._layout(images)
        overwrite_inputs(self._model, self._images[:1])
        self._norms = {
            name: module
            for name, module in self._model.named_modules()
            if isinstance(module, BATCH_NORM) and module.track_running_stats
        }

    def state(self, cut: Cut) -> dict[str, Tensor]:
        """Repaired state dict at the pruned shapes, with the pruned network's own BatchNorm statistics."""
        return self._recalibrated(cut, self._hobs.compensator.state(cut))

    @torch.no_grad()
    def stacked(self, cuts: Sequence[Cut], wide: Cut) -> Stacked:
        """Repaired state dicts of several plans, stacked; their statistics are taken in one pass.

        Args:
            cuts: plans applied to the task's network.
            wide: the plan that keeps what any of them keeps.
        """
        states = self._hobs.compensator.states(cuts)
        if not recalibrates(self._model):
            return stack(wide, cuts, [self._recalibrated(*pair) for pair in zip(cuts, states, strict=True)])
        stacked = stack(wide, cuts, states)
        if not self._norms:
            return stacked
        with installed(self._model, {}, wide.attributes):
            return stacked | batch_statistics(self._model, stacked, self._images)

    @torch.no_grad()
    def _recalibrated(self, cut: Cut, state: dict[str, Tensor]) -> dict[str, Tensor]:
        for name in self._norms:
            for statistic in ("running_mean", "running_var"):
                state[f"{name}.{statistic}"] = state[f"{name}.{statistic}"].clone()
            state[f"{name}.num_batches_tracked"] = torch.zeros_like(state[f"{name}.num_batches_tracked"])
        state = {name: self._layout(tensor) for name, tensor in state.items()}
        with self._batch_statistics(), installed(self._model, state, cut.attributes):
            for part in equal_parts(torch.arange(len(self._images)), BATCH_SIZE):
                self._model(self._images[part])
        return state

    @contextmanager
    def _batch_statistics(self) -> Iterator[None]:
        """Only the BatchNorms use and average batch statistics; everything else stays in evaluation mode."""
        try:
            for norm in self._norms.values():
                norm.train()
            with mean_over_batches(self._norms.values()):
                yield
        finally:
            for norm in self._norms.values():
                norm.eval()


class Unrepaired:
    """No refit: rows and columns are cut out, and BatchNorm is recalibrated on the calibration split.

    Args:
        task: dense network and calibration split.
        hobs: an analysis of the network; not used.
    """

    def __init__(self, task: PruningTask, hobs: HOBSSensitivityAnalyzer) -> None:
        self._model = copy.deepcopy(task.model).eval().requires_grad_(False)
        self._calibration = task.calibration
        self._statistics = [
            f"{name}.{buffer}"
            for name, module in self._model.named_modules()
            if isinstance(module, BATCH_NORM)
            for buffer, _ in module.named_buffers(recurse=False)
        ]

    def state(self, cut: Cut) -> dict[str, Tensor]:
        """State dict at the pruned shapes, with the pruned network's own BatchNorm statistics."""
        state = cut.state()
        # Recalibration writes into the tensors it finds; layers the plan leaves alone would lend it the dense ones.
        state |= {name: state[name].clone() for name in self._statistics}
        with installed(self._model, state, cut.attributes):
            recalibrate_bn(self._model, self._calibration)
        return state


FAST_IMAGES = 128
"""Calibration images of the fast repair, at least."""

FAST_SAMPLES_PER_INPUT = 20
"""Positions an unknown of a row that the fast repair solves a layer on, at most."""

FAST_POSITIONS_PER_INPUT = 2
"""Positions an unknown that its images give every layer, as long as there are images."""


def fast_sequential_repair(task: PruningTask, hobs: HOBSSensitivityAnalyzer) -> SequentialRepair:
    """``"sequential"`` on fewer images and positions: a stand-in while many plans are compared.

    ResNet-20 on Fashion-MNIST, 91 % of the FLOPs removed, 32 plans of a search: the Spearman correlation of what they
    score after this repair and after the full one is 0.90 (0.85 among the best 25), for a fifth of the refit's time.
    Where late layers have few positions an image, 128 images would leave them undetermined: VGG-11 ends on 2 x 2 maps
    with 1,728 unknowns a row, and the correlation over 24 plans at 76 % was 0.54 with 128 images, 0.98 with all 1,024.
    """
    images = max(FAST_IMAGES, images_for(task.model, task.example_input, FAST_POSITIONS_PER_INPUT))
    return SequentialRepair(task, hobs, images=images, samples_per_input=FAST_SAMPLES_PER_INPUT)


def images_for(model: nn.Module, example_input: Any, positions_per_input: float) -> int:
    """Images that give every layer so many output positions an unknown of a row of its weights.

    Args:
        model: the dense network.
        example_input: what it accepts.
        positions_per_input: positions an unknown.
    """
    modules = dict(model.named_modules())
    positions = calls_of_one_input(model, example_input).positions
    needed = (positions_per_input * matrix_width(modules[name]) / each for name, each in positions.items())
    return math.ceil(max(needed, default=1.0))


def short_reconstruction(task: PruningTask, hobs: HOBSSensitivityAnalyzer) -> Repair:
    """``"reconstructed"``: what a plan is worth for what comes after the search."""
    return ShortReconstruction(task, SequentialRepair(task, hobs).state)


REPAIRS: dict[str, Callable[[PruningTask, HOBSSensitivityAnalyzer], Repair]] = {
    "sequential": SequentialRepair,
    "sequential_fast": fast_sequential_repair,
    "reconstructed": short_reconstruction,
    "closed_form": ClosedFormRepair,
    "none": Unrepaired,
}
"""Repairs by name."""


def make_repair(name: str, task: PruningTask, hobs: HOBSSensitivityAnalyzer) -> Repair:
    """A repair by name.

    Raises:
        ValueError: unknown name.
    """
    if name not in REPAIRS:
        raise ValueError(f"unknown repair {name!r}; choose one of {_names(list(REPAIRS))}")
    return REPAIRS[name](task, hobs)


def balanced_images(split: TensorSplit, count: int | None) -> Tensor:
    """The first images of every class, as many of each as the split allows; all images for None.

    Taking every n-th image instead would go wrong where classes take turns: of 1,024 Fashion-MNIST images in such an
    order every second one leaves a class out, and refits get worse than on a quarter of the images.

    Args:
        split: images with labels.
        count: how many images.

    Returns:
        [count, ...], in the split's order.
    """
    if count is None or count >= len(split.images):
        return split.images
    of_its_class = torch.zeros_like(split.labels)
    for label in split.labels.unique():
        members = split.labels == label
        of_its_class[members] = torch.arange(int(members.sum()), device=members.device)
    chosen = of_its_class.argsort(stable=True)[:count].sort().values
    return split.images[chosen.to(split.images.device)]


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))

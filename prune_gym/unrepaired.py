"""``repair="none"``: the surviving weights as they were, with BatchNorm statistics of their own."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch import Tensor

from hessian.hobs import HOBSSensitivityAnalyzer
from hessian.norms import BATCH_NORM
from hessian.slicing import NetworkSlicer, Plan, installed
from prune_gym.batchnorm import recalibrate_bn
from prune_gym.repair import REPAIRS

if TYPE_CHECKING:
    from prune_gym.pruning_task import PruningTask


class Unrepaired:
    """No refit: rows and columns are cut out, and BatchNorm is recalibrated on the calibration split.

    Args:
        task: dense network and calibration split.
        hobs: an analysis of the network; only its layers are used.
    """

    def __init__(self, task: PruningTask, hobs: HOBSSensitivityAnalyzer) -> None:
        self._model = copy.deepcopy(task.model).eval().requires_grad_(False)
        self._slicer = NetworkSlicer(self._model, hobs.groups)
        self._calibration = task.calibration
        self._statistics = [
            f"{name}.{buffer}"
            for name, module in self._model.named_modules()
            if isinstance(module, BATCH_NORM)
            for buffer, _ in module.named_buffers(recurse=False)
        ]

    def state(self, plan: Plan) -> dict[str, Tensor]:
        """State dict at the pruned shapes, with the pruned network's own BatchNorm statistics."""
        state = self._slicer.state(plan)
        # Recalibration writes into the tensors it finds; layers the plan leaves alone would lend it the dense ones.
        state |= {name: state[name].clone() for name in self._statistics}
        with installed(self._model, state, self._slicer.attributes(plan)):
            recalibrate_bn(self._model, self._calibration)
        return state


REPAIRS.setdefault("none", Unrepaired)

"""From a plan to a network: cut, refit, and match to the dense network where that helps."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from torch import nn

from hessian.support.progress import Progress
from prune_gym.cost.limits import IntArray
from prune_gym.data.splits import TensorSplit
from prune_gym.measuring.evaluation import Evaluation
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.numbers import evaluation_on, in_memory
from prune_gym.reconstruction.images import FEWEST
from prune_gym.reconstruction.reconstruction import reconstruct
from prune_gym.reconstruction.settings import Reconstruction, Setting
from prune_gym.tasks.outputs import scores_classes


@dataclass(frozen=True, eq=False)
class Finished:
    """A pruned network.

    Attributes:
        kept: units of every layer, int64 [L].
        one_shot: the network after cutting and refitting.
        network: the better of it and the reconstructed one on the held-out images.
        tier: which of them :attr:`network` is.
        score: of :attr:`network`, on the held-out images.
        setting: that the reconstruction took its steps by; None without one.
    """

    kept: IntArray
    one_shot: nn.Module
    network: nn.Module
    tier: str
    score: Evaluation
    setting: Setting | None = None


@dataclass(frozen=True)
class Finisher:
    """Cuts plans and repairs what is left.

    Attributes:
        problem: the dense network and its images.
        settings: of the reconstruction; None for the refit alone.
        seed: of the order of the images.
    """

    problem: PruningProblem
    settings: Reconstruction | None
    seed: int = 0

    def cut(self, kept: IntArray) -> Finished:
        """The network of a plan after the refit."""
        one_shot = self.problem.evaluator.export(kept.tolist())
        return Finished(kept, one_shot, one_shot, "one_shot", self._score(one_shot))

    def reconstructed(self, cut: Finished, progress: Progress | None = None, seconds: float | None = None) -> Finished:
        """The same network matched to the dense one's outputs on images, or as it was where that does not help.

        Args:
            cut: from :meth:`cut`.
            progress: called with (description, done, total).
            seconds: wall time to stay within; None for the settings' own.
        """
        images = self._images()
        if self.settings is None or len(images) < FEWEST:
            return cut
        settings = self.settings if seconds is None else replace(self.settings, seconds=seconds)
        network = copy.deepcopy(cut.one_shot)
        task = self.problem.task
        found = reconstruct(network, task.model, images, settings, seed=self.seed, progress=progress)
        score = self._score(network.eval())
        if (score.accuracy, score.soft_accuracy) < (cut.score.accuracy, cut.score.soft_accuracy):
            return cut
        setting = None if found.chosen is None else found.chosen.setting
        return Finished(cut.kept, cut.one_shot, network, "reconstructed", score, setting)

    def by(self, setting: Setting | None) -> Finisher:
        """This one, but reconstructing by a setting that won a race before; None: by its own."""
        if self.settings is None or setting is None:
            return self
        return replace(self, settings=replace(self.settings, candidates=(setting,)))

    def _images(self) -> TensorSplit:
        task = self.problem.task
        return task.calibration if task.train is None else in_memory(task.train)

    def _score(self, network: nn.Module) -> Evaluation:
        return evaluation_on(network, self.problem.task, self.problem.task.reward)


def default_settings(problem: PruningProblem) -> Reconstruction:
    """Settings by which a network is matched to the dense one unless told otherwise."""
    return Reconstruction(loss="kl" if scores_classes(problem.task.criterion) else "mse")

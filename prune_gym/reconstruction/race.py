"""Settings raced by successive halving (Jamieson and Talwalkar, AISTATS 2016); the best trains on, the best is kept."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from hessian.support.distributed import SingleProcess
from hessian.support.progress import Progress
from prune_gym.data.splits import equal_parts
from prune_gym.reconstruction.images import TEACHER_BATCH
from prune_gym.reconstruction.settings import Setting, Trial
from prune_gym.reconstruction.trials import Course, adam, has_batch_norms, take_steps
from prune_gym.training.batchnorm import average_statistics
from prune_gym.training.checkpoint import Rows, TrainingState

KEPT_OF = 3
"""One of so many settings goes on after a round. Rounds are few and long: large steps lose in the first hundred."""

SAVE_EVERY = 200
"""Steps between two checkpoints."""

STATISTICS_IMAGES = 2048
"""Images that batch norms get their statistics from after a training on batch statistics."""

TIMED_STEPS = 8
"""Steps that are timed where a reconstruction has to stay within a time; the first half warms up."""


class Race:
    """Trains copies of a network with several settings, and remembers the best network there was.

    Args:
        start: the network as given; not modified.
        course: images, targets, loss and settings.
        about: what tells this race from another, for checkpoints.
        checkpoint: file that the state is kept in; if it is there, the race goes on from it.
        progress: called with (description, steps done, steps in all).

    Attributes:
        before: held-out loss of the network as given.
        trials: trainings done.
        best: the best network's state dict; None where no training has improved on the network as given.
        best_trial: the training it is from.
    """

    def __init__(
        self,
        start: nn.Module,
        course: Course,
        about: Mapping[str, Any],
        checkpoint: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._course, self._about = course, dict(about)
        self._checkpoint, self._progress = checkpoint, progress
        self._start = {name: tensor.clone() for name, tensor in start.state_dict().items()}
        self._student = copy.deepcopy(start)
        self._settings = _distinct(course.settings.candidates, has_batch_norms(start))
        self.before = math.inf
        self.trials: list[Trial] = []
        self.best: dict[str, Tensor] | None = None
        self.best_trial: Trial | None = None
        self._steps = course.settings.steps
        self._done = 0

    def run(self, deadline: float | None = None) -> None:
        """Run the race, or what is left of it.

        Args:
            deadline: value of :func:`time.perf_counter` to be done by; None for no limit.

        Raises:
            ValueError: the checkpoint is damaged or of another reconstruction.
        """
        optimizer = adam(self._student)
        running, first = self._resume(self._state(optimizer))
        if running is None:
            self.before = self._course.held_out_loss(self._student)
            if deadline is not None:
                self._steps = min(self._steps, self._affordable(deadline))
        known = list(self.trials)
        self.trials = []
        for setting, steps in self._schedule():
            if known:
                self.trials.append(known.pop(0))
                self._done += steps
                continue
            if running is None:
                self._student.load_state_dict(self._start)
                optimizer, first = adam(self._student), 0
            running = None
            self._train(optimizer, setting, steps, first)

    # ------------------------------------------------------------------ who trains how long

    def _rounds(self) -> list[tuple[int, int]]:
        """(settings that take part, steps of each) of every round of the race."""
        counts = [len(self._settings)]
        while counts[-1] > 1:
            counts.append(math.ceil(counts[-1] / KEPT_OF))
        budget = self._course.settings.race * self._steps / max(1, len(counts) - 1)
        return [(count, min(self._steps, max(1, round(budget / count)))) for count in counts[:-1]]

    def _schedule(self) -> Iterator[tuple[Setting, int]]:
        """(setting, steps) of every training; who comes next depends on how those before ended."""
        settings = self._settings
        for count, steps in self._rounds():
            for setting in settings[:count]:
                yield setting, steps
            ended = sorted(self.trials[-count:], key=lambda trial: trial.loss)
            settings = [trial.setting for trial in ended]
        yield settings[0], self._steps

    def _total(self) -> int:
        return self._steps + sum(count * steps for count, steps in self._rounds())

    def _affordable(self, deadline: float) -> int:
        """Steps of the last training that fit, race included, until a time; at least one."""
        trial, clock = copy.deepcopy(self._student), [0.0] * TIMED_STEPS

        def after_step(done: int) -> None:
            clock[done - 1] = time.perf_counter()

        take_steps(trial, adam(trial), self._course, self._settings[0], TIMED_STEPS, after_step=after_step)
        each = (clock[-1] - clock[TIMED_STEPS // 2 - 1]) / (TIMED_STEPS - TIMED_STEPS // 2)
        left = max(0.0, deadline - time.perf_counter())
        return max(1, int(left / each / (1 + self._course.settings.race * (len(self._settings) > 1))))

    # ------------------------------------------------------------------ training

    def _train(self, optimizer: torch.optim.Optimizer, setting: Setting, steps: int, first: int) -> None:
        state, total = self._state(optimizer), self._total()

        def after_step(done: int) -> None:
            if self._checkpoint is not None and done % SAVE_EVERY == 0:
                self._save(state, done)
            if self._progress is not None:
                self._progress("reconstruction", self._done + done, total)

        take_steps(self._student, optimizer, self._course, setting, steps, first=first, after_step=after_step)
        self._done += steps
        if setting.batch_statistics:
            self._average_statistics()
        trial = Trial(setting, steps, self._course.held_out_loss(self._student))
        self.trials.append(trial)
        if trial.loss < min(self.before, self.best_trial.loss if self.best_trial else math.inf):
            self.best_trial = trial
            self.best = {name: tensor.clone() for name, tensor in self._student.state_dict().items()}
        if self._checkpoint is not None:
            self._student.load_state_dict(self._start)
            self._save(self._state(adam(self._student)), 0)

    def _average_statistics(self) -> None:
        parts = equal_parts(self._course.trained[:STATISTICS_IMAGES], TEACHER_BATCH)
        average_statistics(self._student, (inputs for inputs, _ in self._course.teacher.batches(parts)))

    # ------------------------------------------------------------------ going on later

    def _state(self, optimizer: torch.optim.Optimizer) -> TrainingState:
        scaler = torch.amp.GradScaler(enabled=False)
        return TrainingState(
            self._student, optimizer, scaler, torch.Generator().manual_seed(0), SingleProcess(), self._about
        )

    def _save(self, state: TrainingState, step: int) -> None:
        assert self._checkpoint is not None
        best = None if self.best_trial is None else self.trials.index(self.best_trial)
        head = {"before": self.before, "steps": self._steps, "step": step, "best": best}
        state.save(self._checkpoint, [head, *map(asdict, self.trials)], self.best)

    def _resume(self, state: TrainingState) -> tuple[int | None, int]:
        """Take over a saved race: (number of the training to go on with or None, steps it has done)."""
        rows: Rows = [] if self._checkpoint is None else state.resume(self._checkpoint)
        if not rows:
            return None, 0
        head, *trials = rows
        self.before, self._steps = head["before"], head["steps"]
        self.trials = [Trial(Setting(**row["setting"]), row["steps"], row["loss"]) for row in trials]
        if head["best"] is not None:
            self.best, self.best_trial = state.extra, self.trials[head["best"]]
        return len(trials), head["step"]


def _distinct(candidates: tuple[Setting, ...], with_norms: bool) -> list[Setting]:
    """The settings that differ on a network: without batch norms there are no statistics to freeze."""
    settings = candidates if with_norms else tuple(replace(one, batch_statistics=False) for one in candidates)
    return list(dict.fromkeys(settings))

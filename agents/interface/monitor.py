"""Reports of every agent to the outside while it learns: history, callback, progress bar, TensorBoard.

An episode becomes one *record*, a dict of Python values (the rows of ``history.csv``):

================================ ==================================================================
key                              meaning
================================ ==================================================================
episode                          0 is the start plan itself, then 1, 2, ...
return                           sum of the episode's rewards
accuracy, soft_accuracy          of the last plan, on the reward split (fractions)
flops_reduction, lambda          of the last plan (fraction); penalty weight it was scored with
violation, score                 of the last plan
target_flops_reduction           what was asked for (fraction); 0 where the target is of something else
reduction, target_reduction      the same two of what the target limits: FLOPs, parameters or latency
kept                             kept units per layer of the last plan (list of int)
measured_evaluations             distinct plans measured so far, the start plan included
================================ ==================================================================

Environments that do not prune report what they have: at least episode and return.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from agents.interface.protocol import TOLERANCE, reduction_of, target_of

Record = dict[str, Any]
Callback = Callable[[Record], "bool | None"]

INFO_KEYS = (
    "accuracy",
    "soft_accuracy",
    "flops_reduction",
    "target_flops_reduction",
    "reduction",
    "target_reduction",
    "lambda",
    "violation",
    "score",
    "measured_evaluations",
)


def episode_record(episode: int, episode_return: float, info: Mapping[str, Any]) -> Record:
    """The history's row for an episode that ended with `info`."""
    record: Record = {"episode": episode, "return": float(episode_return)}
    for key in INFO_KEYS:
        if key in info:
            record[key] = int(info[key]) if key == "measured_evaluations" else float(info[key])
    if "kept" in info:
        record["kept"] = [int(count) for count in info["kept"]]
    return record


def best_feasible(history: list[Record], target: float | None = None) -> Record | None:
    """The record with the highest score among those whose plan meets its target; the earliest one of several.

    Args:
        history: records of :func:`episode_record`.
        target: only records of this target; None: of the last record's.

    Returns:
        The record; None if there is none.
    """
    of_plans = [record for record in history if "flops_reduction" in record]
    if not of_plans:
        return None
    wanted = target_of(of_plans[-1]) if target is None else target
    feasible = [
        record for record in of_plans if target_of(record) == wanted and 0 <= reduction_of(record) - wanted <= TOLERANCE
    ]
    return max(feasible, key=lambda record: record["score"], default=None)


def until(evaluations: int, callback: Callback | None = None) -> Callback:
    """A callback that ends the training once so many distinct plans were measured, the start plan included.

    Args:
        evaluations: budget of measured evaluations, at least 1.
        callback: called too; may end the training earlier.

    Raises:
        ValueError: a budget below 1.
    """
    if evaluations < 1:
        raise ValueError(f"evaluations must be at least 1 (the start plan is one), got {evaluations}")

    def stop(record: Record) -> bool:
        go_on = callback is None or callback(record) is not False
        return go_on and record.get("measured_evaluations", 0) < evaluations

    return stop


class Monitor:
    """Collects records and hands them on; a context manager around a call of ``learn``.

    Args:
        history: list the records are appended to.
        total: steps the call will take.
        callback: called with every new record; returning False ends the training.
        progress_bar: draw one on the terminal.
        log_dir: folder for TensorBoard event files.

    Attributes:
        stopped: whether the callback asked to end.
    """

    def __init__(
        self,
        history: list[Record],
        total: int,
        callback: Callback | None = None,
        progress_bar: bool = False,
        log_dir: str | Path | None = None,
    ) -> None:
        if isinstance(total, bool) or not isinstance(total, int) or total < 0:
            raise ValueError(f"total_timesteps must be a whole number >= 0, got {total!r}")
        self.history = history
        self.stopped = False
        self._callback = callback
        self._stack = ExitStack()
        self._bar: Any = None
        self._writer: Any = None
        if progress_bar:
            from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = self._stack.enter_context(Progress(*columns, TextColumn("{task.fields[best]}")))
            self._task = self._bar.add_task("learning", total=total, best="")
        if log_dir is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError("log_dir needs TensorBoard: pip install 'prune-gym[tensorboard]'") from error
            self._writer = self._stack.enter_context(SummaryWriter(str(log_dir)))

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def episode(self, episode_return: float, info: Mapping[str, Any], timestep: int) -> Record:
        """Append the record of an episode that ended at `timestep`, and tell everybody."""
        record = episode_record(self._next_episode(info), episode_return, info)
        self.history.append(record)
        self.log({"rollout/ep_rew_mean": record["return"]}, timestep)
        self.log({f"plan/{key}": record[key] for key in INFO_KEYS if key in record}, timestep)
        if self._bar is not None and (best := best_feasible(self.history)) is not None:
            self._bar.update(self._task, best=f"best accuracy {best['accuracy']:.3f}")
        if self._callback is not None and self._callback(record) is False:
            self.stopped = True
        return record

    def _next_episode(self, info: Mapping[str, Any]) -> int:
        """Episode 0 is kept for the start plan, which only a pruning environment has."""
        if self.history:
            return self.history[-1]["episode"] + 1
        return 0 if "kept" in info else 1

    def advance(self, steps: int = 1) -> None:
        """Move the progress bar."""
        if self._bar is not None:
            self._bar.advance(self._task, steps)

    def log(self, scalars: Mapping[str, float], timestep: int) -> None:
        """Write scalars for TensorBoard."""
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, timestep)

"""Summary of a submission: mean normalised scores with their spread over networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.columns import Interval
from benchmarks.studies.ladder.submission import CHECKPOINTS, Score, Submission
from prune_gym.bench.protocol import THRESHOLDS

RESAMPLES = 2000


@dataclass(frozen=True)
class Standing:
    """One line of the leaderboard.

    Attributes:
        submission: whose.
        means: mean normalised score over networks, one a checkpoint.
        known: the last one over networks of kinds that training has, with its interval over networks.
        held_out: the same over networks of held-out kinds.
        runs: number of runs.
        missing: runs of the protocol that it lacks.
    """

    submission: Submission
    means: tuple[float, ...]
    known: Interval | None
    held_out: Interval | None
    runs: int
    missing: int

    @property
    def level(self) -> str:
        """The highest threshold that the mean of the last checkpoint reaches."""
        reached = [name for name, threshold in THRESHOLDS.items() if self.means[-1] >= threshold]
        return reached[-1] if reached else "none"


def standing(submission: Submission, scored: Sequence[Score], asked: int, seed: int = 0) -> Standing:
    """Summarise the scores of a submission.

    Args:
        submission: whose.
        scored: its runs.
        asked: runs that the protocol asks for.
        seed: of the bootstrap.
    """
    known = _by_network([score for score in scored if not score.held_out_kind])
    held_out = _by_network([score for score in scored if score.held_out_kind])
    means = np.concatenate([part for part in (known, held_out) if len(part)]).mean(axis=0)
    return Standing(
        submission=submission,
        means=tuple(means.tolist()),
        known=_interval(known[:, -1], seed) if len(known) else None,
        held_out=_interval(held_out[:, -1], seed) if len(held_out) else None,
        runs=len(scored),
        missing=max(asked - len(scored), 0),
    )


def _by_network(scored: Sequence[Score]) -> NDArray[np.float64]:
    """Mean over the runs of every network, [networks, checkpoints]."""
    names = sorted({score.network for score in scored})
    rows = [np.mean([score.values for score in scored if score.network == name], axis=0) for name in names]
    return np.array(rows).reshape(-1, len(CHECKPOINTS))


def _interval(values: NDArray[np.float64], seed: int) -> Interval:
    """Mean with its 95 % interval by the bootstrap over networks; without one where there is one network."""
    if len(values) < 2:
        return Interval(float(values.mean()))
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))

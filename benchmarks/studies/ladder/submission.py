"""Submissions to the leaderboard: plans, and nothing that has to be believed.

A submission names, for every run, the best plan after so many scored plans. Scores are computed from the plans when the
file is read, so a file cannot say more than its plans are worth.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.common.signed import FileError, read_signed, write_signed
from prune_gym.bench.networks import load_networks
from prune_gym.bench.problem import BenchProblem
from prune_gym.bench.protocol import EVALUATIONS, contests

FORMAT = "prune-bench-submission-1"
CHECKPOINTS = (1, 8, 16, 32, EVALUATIONS)
"""Scored plans after which the best one counts; after the first it is the agent's answer with nothing scored."""

REMEDY = "make it with `python -m benchmarks.studies.ladder publish`"

Networks = str | os.PathLike[str] | None


class SubmissionError(FileError):
    """A submission that breaks the rules; the message names the run and the rule."""


class Run(BaseModel):
    """One run of an agent.

    Attributes:
        network: of the bench.
        target: FLOPs reduction asked for.
        seed: of the run.
        plans: checkpoint -> kept units of the best plan by then.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    network: Annotated[str, Field(min_length=1, max_length=60)]
    target: Annotated[float, Field(gt=0.0, lt=1.0)]
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    plans: dict[str, list[Annotated[int, Field(ge=1, le=2**31)]]]

    @property
    def name(self) -> str:
        """Run, in messages."""
        return f"{self.network} at {self.target:g}, seed {self.seed}"


class Submission(BaseModel):
    """Results of one agent on the bench.

    Attributes:
        format: of the file.
        agent: name on the leaderboard.
        about: what it is, one line.
        pretrained: whether it learned on the training networks before.
        runs: distinct runs.
        versions: of the software it ran with.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    format: Literal["prune-bench-submission-1"]
    agent: Annotated[str, Field(min_length=1, max_length=40)]
    about: Annotated[str, Field(min_length=1, max_length=200)]
    pretrained: bool = False
    runs: Annotated[list[Run], Field(min_length=1, max_length=100_000)]
    versions: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """Normalised scores of a run.

    Attributes:
        network: of the bench.
        held_out_kind: whether its whole kind is in test alone.
        target: FLOPs reduction asked for.
        seed: of the run.
        values: one a checkpoint.
    """

    network: str
    held_out_kind: bool
    target: float
    seed: int
    values: tuple[float, ...]


def write_submission(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a submission, checked first.

    Raises:
        SubmissionError: it breaks a rule.
    """
    return write_signed(path, _parsed(content, path).model_dump(mode="json"), indent=None)


def read_submission(path: Path) -> Submission:
    """Read a submission.

    Raises:
        FileError: it is damaged, or no submission.
    """
    return _parsed(read_signed(path, REMEDY), path)


def _parsed(content: Any, path: Path) -> Submission:
    try:
        return Submission.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SubmissionError(f"{path} is no submission ({place or 'top'}: {first['msg']}); {REMEDY}") from None


def scores(submission: Submission, networks: Networks = None) -> list[Score]:
    """Normalised scores of all runs, computed from their plans.

    Args:
        submission: as read.
        networks: file of the bench.

    Raises:
        SubmissionError: a run twice, on a network or target that is not asked for, or with a plan that breaks a rule.
    """
    known = load_networks(networks)
    seen: set[tuple[str, float, int]] = set()
    found = []
    for run in submission.runs:
        key = (run.network, run.target, run.seed)
        _need(key not in seen, run, "stands in the file twice")
        seen.add(key)
        _need(run.network in known, run, "is of no network of the bench")
        _need(known[run.network].split == "test", run, f"is of a network of the {known[run.network].split} split")
        problem = BenchProblem.shared(run.network, networks)
        scale = contests(problem).get(run.target)
        if scale is None:
            raise SubmissionError(f"the run {run.name} is no contest of the bench")
        plans = np.array(list(_plans(run, problem)), dtype=np.int64)
        soft = problem.surrogate_metrics(plans)[:, 1]
        values = tuple(float(value) for value in np.maximum.accumulate(scale(soft)))
        found.append(Score(run.network, known[run.network].description.held_out_kind, run.target, run.seed, values))
    return found


def _plans(run: Run, problem: BenchProblem) -> Iterator[list[int]]:
    """The plans of a run, one a checkpoint, legal and on the target."""
    wanted = [str(checkpoint) for checkpoint in CHECKPOINTS]
    _need(sorted(run.plans) == sorted(wanted), run, f"needs a plan after each of {', '.join(wanted)} scored ones")
    limits = problem.cost.limits()
    for name in wanted:
        plan = np.array(run.plans[name], dtype=np.int64)
        _need(plan.shape == (problem.num_layers,), run, f"has a plan of another number of layers (after {name})")
        _need(bool(limits.contains(plan)), run, f"has a plan with counts that are not legal (after {name})")
        _need(
            bool(problem.cost.reduction(plan) >= run.target), run, f"has a plan that misses the target (after {name})"
        )
        yield run.plans[name]


def _need(fits: bool, run: Run, what: str) -> None:
    if not fits:
        raise SubmissionError(f"the run {run.name} {what}")


def asked_for(networks: Networks = None) -> list[tuple[str, float]]:
    """Networks and targets of the protocol: the first and the last contest of every test network."""
    asked = []
    for name, network in sorted(load_networks(networks).items()):
        if network.split == "test":
            targets = sorted(contests(BenchProblem.shared(name, networks)))
            asked += [(name, target) for target in dict.fromkeys((*targets[:1], *targets[-1:]))]
    return asked

"""The leaderboard's page, made of submitted files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.columns import Column
from benchmarks.common.table import Table
from benchmarks.studies.ladder.submission import CHECKPOINTS, Networks, Submission, asked_for, read_submission, scores
from benchmarks.studies.ladder.summary import Standing, standing
from hessian.support.files import write_atomic
from prune_gym.bench.protocol import EVALUATIONS, SEEDS, THRESHOLDS

FOLDER = Path(__file__).resolve().parents[2] / "results" / "leaderboard"
"""Submitted files; the page lies beside the folder."""

_INTRODUCTION = f"""# PruneBench: the leaderboard

Normalised scores on test networks of the bench, by its surrogates: 0 is the knapsack's plan, 1 the best plan known.
Every run may score {EVALUATIONS} plans; columns say how good the best one was after so many. Means are over networks,
and intervals (95 %) come from resampling networks. *Held-out kinds* are kinds of networks of which training has none.

To enter: run your agent on every contest with seeds {", ".join(map(str, SEEDS))}
(`benchmarks.studies.ladder.submission.asked_for` lists them), write the plans with `write_submission`, check the file
with `prune-gym validate FILE`, put it into `benchmarks/results/leaderboard/`, and make this page anew with
`python -m benchmarks.studies.ladder page`. Scores are computed from the plans.

"""


def standings(folder: Path = FOLDER, networks: Networks = None) -> list[Standing]:
    """Lines of the leaderboard, best first.

    Args:
        folder: of submitted files.
        networks: file of the bench.

    Raises:
        FileError: a file is damaged, or breaks a rule.
    """
    asked = len(asked_for(networks)) * len(SEEDS)
    found = []
    for path in sorted(folder.glob("*.json")):
        submission = read_submission(path)
        found.append(standing(submission, scores(submission, networks), asked))
    return sorted(found, key=lambda line: (-line.means[-1], line.submission.agent))


def table(lines: Sequence[Standing]) -> Table:
    """The table of the page."""
    columns: list[Column | str] = [
        "agent",
        *(Column(f"after {count}", ".2f") for count in CHECKPOINTS),
        Column("known kinds", ".2f"),
        Column("held-out kinds", ".2f"),
        "level",
        Column("runs", "d"),
        Column("missing", "d"),
    ]
    rows = [
        [line.submission.agent, *line.means, line.known, line.held_out, line.level, line.runs, line.missing]
        for line in lines
    ]
    return Table("Leaderboard", columns, rows)


def _about(submission: Submission) -> str:
    return submission.about + ("; learned on the training networks before" if submission.pretrained else "")


def write_page(folder: Path = FOLDER, networks: Networks = None) -> Path:
    """Write ``leaderboard.md`` beside the folder of submitted files.

    Raises:
        FileError: a file is damaged, or breaks a rule.
    """
    lines = standings(folder, networks)
    levels = ", ".join(f"{name} from {threshold:g}" for name, threshold in THRESHOLDS.items())
    about = "".join(f"* **{line.submission.agent}**: {_about(line.submission)}\n" for line in lines)
    text = f"{_INTRODUCTION}{table(lines).markdown()}\nLevels, of the last column of scores: {levels}.\n\n{about}"
    return write_atomic(folder.parent / "leaderboard.md", text)

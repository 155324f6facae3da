"""Check of submitted files: ``prune-gym validate FILE.json ...``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.common.arguments import command_parser
from benchmarks.common.command import reports_errors
from benchmarks.common.errors import FAILED
from benchmarks.common.signed import FileError
from benchmarks.studies.engine.running import say
from benchmarks.studies.ladder.page import table
from benchmarks.studies.ladder.submission import asked_for, read_submission, scores
from benchmarks.studies.ladder.summary import standing
from prune_gym.bench.protocol import SEEDS


def is_submission(argument: str) -> bool:
    """Return whether an argument of ``prune-gym validate`` names a submission: a JSON file."""
    return argument.endswith(".json")


@reports_errors(FileNotFoundError)
def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Check submissions, and show what they would score.

    Args:
        argv: arguments; absent means those of the process.
        prog: name of the command in the help text.

    Returns:
        Exit code: 0 all are valid, 1 some are not.
    """
    parser = command_parser("benchmarks.studies.ladder.validate", "Check submissions to the leaderboard.", prog=prog)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="submission, a JSON file")
    parser.add_argument("--networks", type=Path, metavar="FILE", help="networks of the bench (default: the package's)")
    options = parser.parse_args(argv)
    console, valid, failed = Console(), [], False
    asked = len(asked_for(options.networks)) * len(SEEDS)
    for path in options.files:
        try:
            submission = read_submission(path)
            valid.append(standing(submission, scores(submission, options.networks), asked))
        except FileError as error:
            failed = True
            say(console, f"{path}: {error}")
    if valid:
        console.print(table(valid))
    return FAILED if failed else 0

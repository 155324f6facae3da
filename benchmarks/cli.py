"""The console script: ``prune-gym prune``, ``run``, ``sweep``, ``validate``, ``report``, ``tasks``, ``layers``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from rich.console import Console

from benchmarks.common.arguments import command_parser
from benchmarks.common.command import reports_errors
from benchmarks.common.errors import BAD_INPUT
from benchmarks.common.modules import hidden_package, import_modules
from hessian.support.names import suggest


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to a sub-command and return its exit code.

    Args:
        argv: arguments; absent means those of the process.
    """
    hidden = hidden_package()
    if hidden:
        Console(stderr=True).print(f"error: {hidden}", style="red", markup=False, highlight=False, soft_wrap=True)
        return BAD_INPUT
    arguments = sys.argv[1:] if argv is None else list(argv)
    command = _parser().parse_args(arguments[:1]).command
    return COMMANDS[command][1](arguments[1:])


class _Parser(argparse.ArgumentParser):
    """One that suggests the command somebody meant."""

    def error(self, message: str) -> NoReturn:
        """Exit with the message, and the nearest command where a wrong one was given."""
        wrong = message.partition("invalid choice: '")[2].partition("'")[0]
        super().error(
            f"there is no command {wrong!r}{suggest(wrong, list(COMMANDS), 'commands')}" if wrong else message
        )


def _parser() -> argparse.ArgumentParser:
    listed = "".join(f"\n  {name:11}{text}" for name, (text, _) in COMMANDS.items())
    parser = _Parser(
        prog="prune-gym",
        description="Smaller networks by structured pruning.",
        epilog=f"commands:{listed}\n\nprune-gym COMMAND --help tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="what to do")
    return parser


def _version() -> str:
    import prune_gym

    return f"prune-gym {prune_gym.__version__}"


def prune(argv: Sequence[str]) -> int:
    """Prune a network of the user's own."""
    from benchmarks.prune.command import main as prune_main

    return prune_main(argv, prog="prune-gym prune")


def run(argv: Sequence[str]) -> int:
    """Prune a network: the main job."""
    # Here, not above, so that `prune-gym --help` need not wait for PyTorch.
    from benchmarks.main import main as run_main

    return run_main(argv, prog="prune-gym run")


def sweep(argv: Sequence[str]) -> int:
    """Run a grid of methods, tasks, targets and seeds."""
    from benchmarks.sweep.command import main as sweep_main

    return sweep_main(argv, prog="prune-gym sweep")


def validate(argv: Sequence[str]) -> int:
    """Run rows of a table of results again and compare, or check submissions to the leaderboard."""
    from benchmarks.studies.ladder.validate import is_submission
    from benchmarks.studies.ladder.validate import main as submission_main
    from benchmarks.sweep.validate import main as validate_main

    if any(is_submission(argument) for argument in argv):
        return submission_main(argv, prog="prune-gym validate")

    return validate_main(argv, prog="prune-gym validate")


def report(argv: Sequence[str]) -> int:
    """Write a page about results."""
    from benchmarks.report.command import main as report_main

    return report_main(argv, prog="prune-gym report")


def layers(argv: Sequence[str]) -> int:
    """List what can be pruned of a task's network, and what cannot."""
    from benchmarks.layer_table import main as layers_main

    return layers_main(argv, prog="prune-gym layers")


@reports_errors()
def tasks(argv: Sequence[str]) -> int:
    """List the named tasks, what is at hand of each, and how to get the rest."""
    parser = command_parser("benchmarks.cli", "List the named tasks.", "import", prog="prune-gym tasks")
    import_modules(parser.parse_args(argv).imports)
    # Here, not above, so that `prune-gym --help` need not wait for PyTorch.
    from benchmarks.common.table import report_console
    from benchmarks.task_table import print_tasks

    print_tasks(report_console(Console()))
    return 0


def completion(argv: Sequence[str]) -> int:
    """Print what makes a shell complete commands and options."""
    from benchmarks.completion import main as completion_main

    return completion_main(argv, COMMANDS, prog="prune-gym completion")


COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "prune": ("make a network of your own smaller", prune),
    "run": ("run a configuration: prune a task's network and report what it cost", run),
    "sweep": ("run a grid of methods, tasks, targets and seeds", sweep),
    "validate": ("run rows of a sweep's results again and compare, or check submissions", validate),
    "report": ("write one HTML page about results", report),
    "tasks": ("list the named tasks", tasks),
    "layers": ("list what can be pruned of a task's network, what stays and why", layers),
    "completion": ("print what makes bash, zsh or fish complete commands and options", completion),
}


if __name__ == "__main__":
    sys.exit(main())

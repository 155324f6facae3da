"""The console script: ``prune-gym run``, ``sweep``, ``validate``, ``report``, ``tasks`` and ``layers``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from rich.console import Console


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to a sub-command and return its exit code.

    Args:
        argv: arguments; absent means those of the process.
    """
    listed = "".join(f"\n  {name:10}{text}" for name, (text, _) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="prune-gym",
        description="Structured pruning as a Gymnasium environment.",
        epilog=f"commands:{listed}\n\nprune-gym COMMAND --help tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="what to do")
    arguments = sys.argv[1:] if argv is None else list(argv)
    command = parser.parse_args(arguments[:1]).command
    return COMMANDS[command][1](arguments[1:])


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
    """Run rows of a table of results again and compare."""
    from benchmarks.sweep.validate import main as validate_main

    return validate_main(argv, prog="prune-gym validate")


def report(argv: Sequence[str]) -> int:
    """Write a page about results."""
    from benchmarks.report.page import main as report_main

    return report_main(argv, prog="prune-gym report")


def layers(argv: Sequence[str]) -> int:
    """List what can be pruned of a task's network, and what cannot."""
    from benchmarks.layer_table import main as layers_main

    return layers_main(argv, prog="prune-gym layers")


def tasks(argv: Sequence[str]) -> int:
    """List the named tasks, what is at hand of each, and how to get the rest."""
    argparse.ArgumentParser(prog="prune-gym tasks", description="List the named tasks.").parse_args(argv)
    # Here, not above, so that `prune-gym --help` need not wait for PyTorch.
    from benchmarks.common.table import report_console
    from benchmarks.task_table import print_tasks

    print_tasks(report_console(Console()))
    return 0


COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "prune": ("make a network of your own smaller", prune),
    "run": ("run a configuration: prune a task's network and report what it cost", run),
    "sweep": ("run a grid of methods, tasks, targets and seeds", sweep),
    "validate": ("run rows of a sweep's results again and compare", validate),
    "report": ("write one HTML page about results", report),
    "tasks": ("list the named tasks", tasks),
    "layers": ("list what can be pruned of a task's network, what stays and why", layers),
}


if __name__ == "__main__":
    sys.exit(main())

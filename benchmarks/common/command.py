"""Errors of commands: one line on the terminal, and an exit code."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

from rich.console import Console

from benchmarks.common.errors import BAD_INPUT, INTERRUPTED, CommandError

Arguments = ParamSpec("Arguments")
Main = Callable[Arguments, int]


def reports_errors(
    *expected: type[BaseException], interrupted: str = "interrupted"
) -> Callable[[Main[Arguments]], Main[Arguments]]:
    """Decorate a command so that bad input, full disks and Ctrl-C end it with a message instead of a traceback.

    Every :class:`~benchmarks.common.errors.CommandError` is shown and gives its own exit code, every OSError 2.

    Args:
        *expected: further exceptions that mean bad input: their message is shown and the exit code is 2. Others are
            bugs.
        interrupted: what Ctrl-C says; the exit code is then 130.
    """
    caught: tuple[type[BaseException], ...] = (CommandError, OSError, *expected)

    def decorate(main: Main[Arguments]) -> Main[Arguments]:
        @functools.wraps(main)
        def command(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
            errors = Console(stderr=True)
            try:
                return main(*args, **kwargs)
            except caught as error:
                # A KeyError's own text is its message in quotes.
                message = error.args[0] if isinstance(error, KeyError) and error.args else error
                errors.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
                return error.exit_code if isinstance(error, CommandError) else BAD_INPUT
            except KeyboardInterrupt:
                errors.print(interrupted, style="yellow")
                return INTERRUPTED

        return command

    return decorate

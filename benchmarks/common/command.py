"""Errors of commands: one line on the terminal, and an exit code."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

from rich.console import Console

BAD_INPUT, INTERRUPTED = 2, 130
"""Exit codes."""

Arguments = ParamSpec("Arguments")
Main = Callable[Arguments, int]


def reports_errors(
    *expected: type[BaseException], interrupted: str = "interrupted"
) -> Callable[[Main[Arguments]], Main[Arguments]]:
    """Decorate a command so that bad input and Ctrl-C end it with a message instead of a traceback.

    Args:
        *expected: exceptions that mean bad input: their message is shown and the exit code is 2. Others are bugs.
        interrupted: what Ctrl-C says; the exit code is then 130.
    """

    def decorate(main: Main[Arguments]) -> Main[Arguments]:
        @functools.wraps(main)
        def command(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
            errors = Console(stderr=True)
            try:
                return main(*args, **kwargs)
            except expected as error:
                # A KeyError's own text is its message in quotes.
                message = error.args[0] if isinstance(error, KeyError) and error.args else error
                errors.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
                return BAD_INPUT
            except KeyboardInterrupt:
                errors.print(interrupted, style="yellow")
                return INTERRUPTED

        return command

    return decorate

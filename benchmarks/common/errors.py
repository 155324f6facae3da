"""Errors that end a command with a line on the terminal instead of a traceback, and the exit codes."""

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes: something failed that was asked for, bad input, Ctrl-C."""


class CommandError(Exception):
    """Request that a command cannot carry out; the message says why and what to do.

    Attributes:
        exit_code: of the command.
    """

    exit_code = FAILED


class InputError(CommandError, ValueError):
    """Input that cannot be used; the message names it and says what to write instead."""

    exit_code = BAD_INPUT


class OptionError(InputError):
    """An option of a command that cannot be used; the message names it."""

"""Errors of command lines; imports nothing."""


class OptionError(ValueError):
    """An option of a command that cannot be used; the message names it."""

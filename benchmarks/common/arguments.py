"""Types of command-line arguments, and what options that all commands share mean."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.common.errors import OptionError
from prune_gym.support.device import resolve_device
from prune_gym.support.files import NotWritableError, check_writable

MAX_THREADS = 8
"""Small networks gain nothing from more, and lose when threads wait for each other."""


def positive(text: str) -> int:
    """Read a whole number, at least 1.

    Raises:
        argparse.ArgumentTypeError: smaller (argparse itself refuses what is no number).
    """
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def share(text: str) -> tuple[int, int]:
    """Read ``I/N``, the I-th of N shares, counted from 1; an argparse type.

    Raises:
        argparse.ArgumentTypeError: not of that form, or no such share.
    """
    try:
        part, parts = (int(number) for number in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"write it as 1/2; got {text!r}") from None
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"parts are counted from 1 to N; got {text!r}")
    return part, parts


def writable(text: str) -> Path:
    """Read the name of a file to write, before what goes into it is measured; an argparse type.

    Raises:
        argparse.ArgumentTypeError: it is a folder, or its folder cannot be written.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; name a file")
    try:
        check_writable(path.parent, key="it")
    except NotWritableError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def check_distinct(option: str, values: Sequence[object]) -> None:
    """Refuse an option that names a value twice: a run counted twice is no second run.

    Raises:
        ValueError: it does.
    """
    if len(set(values)) < len(values):
        raise ValueError(f"{option} must name each once, got {list(values)}")


def default_threads() -> int:
    """Return how many CPU threads a run gets by default: the cores this process may use, at most MAX_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_THREADS)


def chosen_device(gpu: str | None) -> torch.device:
    """Return the device of a ``--gpu`` option.

    Raises:
        OptionError: there is none of that name.
    """
    try:
        return resolve_device(gpu)
    except ValueError as error:
        raise OptionError(f"--gpu {gpu}: {error}") from None

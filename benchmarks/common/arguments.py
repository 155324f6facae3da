"""The options that commands share, what they mean, and types of arguments.

Nothing here loads PyTorch before an option is used, so that every command prints its help at once.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common.errors import OptionError
from hessian.support.names import unknown

if TYPE_CHECKING:
    import torch

MAX_THREADS = 8
"""Small networks gain nothing from more, and lose when threads wait for each other."""


def command_parser(
    module: str, description: str, *options: str, required: Collection[str] = (), prog: str | None = None
) -> argparse.ArgumentParser:
    """Return the parser of a command with the options of those names that all commands share.

    Args:
        module: what ``python -m`` runs.
        description: one line.
        *options: names of shared options, without dashes; ``config`` takes ``KEY=VALUE`` assignments too.
        required: those that have to be given.
        prog: name of the command in the help text, where it is another one than ``python -m <module>``.
    """
    parser = argparse.ArgumentParser(prog=prog or f"python -m {module}", description=description)
    add_options(parser, *options, required=required)
    return parser


def add_options(parser: argparse.ArgumentParser, *names: str, required: Collection[str] = ()) -> None:
    """Give a parser options that all commands share.

    Args:
        parser: of a command or a sub-command.
        *names: of shared options, without dashes; ``config`` takes ``KEY=VALUE`` assignments too.
        required: those that have to be given.
    """
    for name in names:
        parser.add_argument(f"--{name}", required=name in required or name == "config", **_SHARED[name])
    if "config" in names:
        parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="set a key of the configuration")


def prepare(options: argparse.Namespace, threads: int | None = None) -> torch.device:
    """Set the threads of PyTorch and return the device that ``--threads`` and ``--gpu`` ask for.

    Args:
        options: of a command with both.
        threads: where ``--threads`` is not given; None: one a core, at most :data:`MAX_THREADS`.

    Raises:
        OptionError: there is no such device.
    """
    import torch

    torch.set_num_threads(options.threads or threads or default_threads())
    return chosen_device(options.gpu)


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
    from prune_gym.support.files import NotWritableError, check_writable

    path = Path(text).expanduser()
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; name a file")
    try:
        check_writable(path.parent, key="it")
    except NotWritableError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def one_of(kind: str, known: Callable[[], Collection[str]]) -> Callable[[str], str]:
    """Return an argparse type that reads a name, and looks up which there are only when it is used.

    Args:
        kind: what is named, such as ``"task"``.
        known: returns all names.
    """

    def read(text: str) -> str:
        if text not in known():
            raise argparse.ArgumentTypeError(unknown(kind, text, list(known()), f"{kind}s"))
        return text

    return read


def _tasks() -> Collection[str]:
    from prune_gym.tasks.registry import task_names

    return task_names()


def check_distinct(option: str, values: Sequence[object]) -> None:
    """Refuse an option that names a value twice: a run counted twice is no second run.

    Raises:
        OptionError: it does.
    """
    if len(set(values)) < len(values):
        raise OptionError(f"{option} must name each once, got {list(values)}")


def default_threads() -> int:
    """Return how many CPU threads a run gets by default: the cores this process may use, at most MAX_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_THREADS)


def chosen_device(gpu: str | None) -> torch.device:
    """Return the device of a ``--gpu`` option.

    Raises:
        OptionError: there is none of that name.
    """
    from prune_gym.support.device import resolve_device

    try:
        return resolve_device(gpu)
    except ValueError as error:
        raise OptionError(f"--gpu {gpu}: {error}") from None


_SHARED: dict[str, dict[str, Any]] = {
    "config": {"metavar": "FILE", "help": "YAML file, or the name of a shipped one"},
    "task": {"type": one_of("task", _tasks), "metavar": "NAME", "help": "name of a task; prune-gym tasks lists them"},
    "seeds": {"type": int, "nargs": "+", "metavar": "N", "help": "of everything random"},
    "gpu": {"metavar": "ID", "help": "GPU index, or cpu (default: the only GPU if there is one, else the CPU)"},
    "threads": {"type": positive, "metavar": "N", "help": f"CPU threads (default: one a core, at most {MAX_THREADS})"},
    "json": {"type": writable, "metavar": "FILE", "help": "write all numbers here"},
    "import": {
        "dest": "imports",
        "action": "append",
        "default": [],
        "metavar": "MODULE",
        "help": "module that registers tasks or methods; again for more",
    },
    "overwrite": {"action": "store_true", "help": "start again, whatever the folder holds"},
    "retry-failed": {"action": "store_true", "help": "run again what failed"},
    "part": {"type": share, "default": (1, 1), "metavar": "I/N", "help": "only every N-th run, starting at the I-th"},
    "minutes": {"type": float, "help": "start no new run after so long"},
    "workers": {"type": positive, "metavar": "N", "help": "runs at a time, in processes of their own (default: one)"},
}
"""Name of a shared option -> what :meth:`argparse.ArgumentParser.add_argument` is told."""

"""Registers tasks when imported, as ``prune-gym sweep --import`` asks of a module: the tiny one, and three that fail.

Those that fail do so until the file named by ``$SWEEP_TESTS_MENDED`` exists.
"""

import errno
import os
import signal

from prune_gym.tasks import register_task, task_names
from tests.benchmarks import tiny_task


def mended():
    return os.path.exists(os.environ.get("SWEEP_TESTS_MENDED", ""))


def structure():
    return tiny_task.network(), tiny_task.trained()[1].train.images[:1]


def broken():
    if not mended():
        raise LookupError("no such luck")
    return tiny_task.build()


def deadly():
    if not mended():
        os.kill(os.getpid(), signal.SIGKILL)
    return tiny_task.build()


def filling():
    """From here on the disk is full, for this process."""
    if not mended():
        os.fsync = full
    return tiny_task.build()


def full(file):
    raise OSError(errno.ENOSPC, "No space left on device")


tiny_task.register()
for name, factory in (("tiny-broken", broken), ("tiny-deadly", deadly), ("tiny-filling", filling)):
    if name not in task_names():
        register_task(name, factory, structure=structure, default_target=0.5)

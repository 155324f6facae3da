"""Registers the tiny task when imported, as ``prune-gym sweep --import`` asks of a module."""

from tests.benchmarks import tiny_task

tiny_task.register()

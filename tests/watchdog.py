"""An end for a run of the tests that no longer reports anything.

pytest itself ends a process whose test takes too long (`faulthandler_timeout` in `pyproject.toml`), and pytest-xdist
ends the run when a process dies (`--max-worker-restart`). It cannot see the death of one whose forked child lives on
and holds the pipe open; then only the silence tells.
"""

from __future__ import annotations

import _thread
import sys
import threading

import pytest


class Watchdog:
    """Interrupts the process that hands out the tests when none began or ended for `limit` seconds."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._running: dict[str, None] = {}  # an ordered set
        self._event = threading.Event()
        self._finished = False
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._running[nodeid] = None
        self._event.set()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._running.pop(nodeid, None)
        self._event.set()

    def pytest_sessionfinish(self) -> None:
        self._finished = True
        self._event.set()

    def _watch(self) -> None:
        while self._event.wait(self.limit):
            if self._finished:
                return
            self._event.clear()
        running = ", ".join(self._running) or "none"
        silence = f"no test began or ended for {self.limit:g} s; still running: {running}"
        print(f"\n{silence}", file=sys.__stderr__, flush=True)
        _thread.interrupt_main()


def watch(session: pytest.Session) -> None:
    """Watch the run if this process hands out tests to others, a minute longer than a test may take."""
    limit = float(session.config.getini("faulthandler_timeout"))
    if limit and session.config.pluginmanager.hasplugin("dsession"):
        session.config.pluginmanager.register(Watchdog(limit + 60))

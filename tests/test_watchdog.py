"""A run of the tests that hangs ends, and says where."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from tests import watchdog


def test_silence_interrupts_the_run_and_names_what_still_runs(monkeypatch, capsys):
    interrupted = threading.Event()
    monkeypatch.setattr(watchdog, "_thread", SimpleNamespace(interrupt_main=interrupted.set))
    monkeypatch.setattr(watchdog.sys, "__stderr__", watchdog.sys.stderr)
    dog = watchdog.Watchdog(limit=0.05)
    for name in ("first", "second"):
        dog.pytest_runtest_logstart(name)
    dog.pytest_runtest_logfinish("first")
    assert interrupted.wait(60)
    assert "still running: second" in capsys.readouterr().err


def test_a_run_that_ended_is_not_interrupted(monkeypatch):
    interrupted = threading.Event()
    monkeypatch.setattr(watchdog, "_thread", SimpleNamespace(interrupt_main=interrupted.set))
    dog = watchdog.Watchdog(limit=3600)
    dog.pytest_runtest_logstart("first")
    dog.pytest_sessionfinish()
    dog.thread.join(60)
    assert not dog.thread.is_alive()
    assert not interrupted.is_set()

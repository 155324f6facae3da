"""A forward pass that stops at chosen places until it is told to go on.

Every pass runs in a thread of its own, but never two at once: who advances a pass waits until it stops again. Threads
are what lets a network's own Python code (branches, loops, modules called twice) be halted in the middle of it.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any

import torch


class _Abandoned(BaseException):
    """Unwinds a pass that nobody will advance any more; not an Exception, so that no network catches it."""


class Passage:
    """One pass, stopped at a place or finished.

    Args:
        run: what is run; it calls :meth:`stop` of the passage it is given.
        device: whose current device the thread works with.

    Attributes:
        stopped_at: what :meth:`stop` was called with; None once the pass has finished, and before it has begun.
        finished: whether the pass has come to its end.
    """

    def __init__(self, run: Callable[[Passage], None], device: torch.device) -> None:
        self.stopped_at: Any = None
        self.finished = False
        self._run = run
        self._device = device
        self._error: BaseException | None = None
        self._abandoned = False
        self._begun = False
        self._go, self._halt = threading.Semaphore(0), threading.Semaphore(0)
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._body,), daemon=True)

    def advance(self) -> None:
        """Run to the next stop, or to the end.

        Raises:
            BaseException: what the pass raised.
        """
        if self.finished:
            return
        if not self._begun:
            self._begun = True
            self._thread.start()
        self._go.release()
        self._halt.acquire()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def stop(self, place: Any) -> None:
        """Called by the pass itself: wait here for the next :meth:`advance`.

        Raises:
            _Abandoned: nobody will advance the pass any more.
        """
        self.stopped_at = place
        self._halt.release()
        self._go.acquire()
        if self._abandoned:
            raise _Abandoned

    def close(self) -> None:
        """Unwind the pass where it stands; nothing to do where it is finished or was never begun."""
        if not self._begun or not self._thread.is_alive():
            return
        self._abandoned = True
        self._go.release()
        self._thread.join()

    def _body(self) -> None:
        self._go.acquire()
        try:
            if not self._abandoned:
                with torch.no_grad(), _current(self._device):
                    self._run(self)
        except _Abandoned:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self.stopped_at, self.finished = None, True
            self._halt.release()


def _current(device: torch.device) -> Any:
    # Threads begin on the first GPU.
    return torch.cuda.device(device if device.type == "cuda" else -1)

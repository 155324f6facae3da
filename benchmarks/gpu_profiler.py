"""Where does the time go? Named, nested sections of a program, timed on a GPU or on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TextIO

import torch

from prune_gym.device import resolve_device
from prune_gym.timing import make_clock

# Marks waiting to be read. Bounded, so that profiling a long training does not hoard a CUDA event per section.
_MAX_PENDING = 4096


@dataclass
class _OpenSection:
    name: str
    start: Any


@dataclass
class _Span:
    """One finished run of a section: two clock marks, read only when a summary is asked for."""

    name: str
    parent: str | None
    start: Any
    end: Any


@dataclass
class _Totals:
    depth: int
    count: int = 0
    total_ms: float = 0.0
    children_ms: float = 0.0


class GPUProfiler:
    """Times named sections of a program; sections may nest.

    On a CUDA device the sections are marked with CUDA events, which are queued with the work and read only by
    `get_summary`: profiling does not stall the GPU. On any other device ``perf_counter`` is used.

    Example:
        >>> profiler = GPUProfiler(device="cpu")
        >>> with profiler.section("step"):
        ...     with profiler.section("forward"):
        ...         pass
        >>> sorted(profiler.get_summary())
        ['forward', 'step']

    The profiler itself is a context manager too; leaving it closes the sections an exception left open.

    Args:
        enabled: False turns every method into an immediate return: nothing is measured, synchronised or stored.
        device: Device whose work is timed; None means the only GPU if there is one, else the CPU.
    """

    def __init__(self, enabled: bool = True, *, device: str | int | torch.device | None = None) -> None:
        self.enabled = enabled
        self._open: list[_OpenSection] = []
        self._spans: list[_Span] = []
        self._totals: dict[str, _Totals] = {}
        if enabled:
            self.device = resolve_device(device)
            self._clock = make_clock(self.device)

    def start(self, name: str) -> None:
        """Open a section inside the sections that are open now.

        Raises:
            ValueError: If a section of that name is already open (its time would be counted twice).
        """
        if not self.enabled:
            return
        if any(section.name == name for section in self._open):
            raise ValueError(f"section {name!r} is already open; end it first or choose another name")
        self._totals.setdefault(name, _Totals(depth=len(self._open)))
        self._open.append(_OpenSection(name, self._clock.mark()))

    def end(self, name: str) -> None:
        """Close the innermost open section.

        Raises:
            ValueError: If ``name`` is not the innermost open section.
        """
        if not self.enabled:
            return
        if not self._open:
            raise ValueError(f"section {name!r} was ended but never started; call start({name!r}) first")
        innermost = self._open[-1]
        if innermost.name != name:
            raise ValueError(
                f"section {name!r} was ended while {innermost.name!r} is open; sections end innermost first"
            )
        self._open.pop()
        parent = self._open[-1].name if self._open else None
        self._spans.append(_Span(name, parent, innermost.start, self._clock.mark()))
        if len(self._spans) >= _MAX_PENDING:
            self._read_marks()

    def section(self, name: str) -> AbstractContextManager[None]:
        """Return a context manager that opens a section and closes it, also when the block raises."""
        return self._section(name) if self.enabled else nullcontext()

    @contextmanager
    def _section(self, name: str) -> Iterator[None]:
        self.start(name)
        try:
            yield
        finally:
            self._close_down_to(name)

    def _close_down_to(self, name: str) -> None:
        # An exception may have left sections open inside this one.
        while self._open and self._open[-1].name != name:
            self.end(self._open[-1].name)
        self.end(name)

    def __enter__(self) -> GPUProfiler:
        """Return the profiler."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close whatever is still open."""
        while self._open:
            self.end(self._open[-1].name)

    def reset(self) -> None:
        """Forget every finished section. Open ones stay open."""
        self._spans.clear()
        for entry in self._totals.values():
            entry.count, entry.total_ms, entry.children_ms = 0, 0.0, 0.0

    def get_summary(self) -> dict[str, dict[str, float | int]]:
        """Return the statistics of every finished section, in the order they were first opened.

        Returns:
            Section name -> ``count``; ``total_ms`` and ``mean_ms`` with nested sections included; ``self_ms``, the
            total without them; ``share``, the fraction of all profiled time spent in the section itself (``self_ms``
            over the sum of ``self_ms``: shares sum to 1); ``depth``, how many sections enclosed it when first opened.
            Empty when disabled.
        """
        self._read_marks()
        finished = {name: entry for name, entry in self._totals.items() if entry.count}
        own = {name: max(0.0, entry.total_ms - entry.children_ms) for name, entry in finished.items()}
        whole = sum(own.values())
        return {
            name: {
                "count": entry.count,
                "total_ms": entry.total_ms,
                "mean_ms": entry.total_ms / entry.count,
                "self_ms": own[name],
                "share": own[name] / whole if whole > 0 else 0.0,
                "depth": entry.depth,
            }
            for name, entry in finished.items()
        }

    def _read_marks(self) -> None:
        for span in self._spans:
            elapsed = self._clock.elapsed_ms(span.start, span.end)
            self._totals[span.name].count += 1
            self._totals[span.name].total_ms += elapsed
            if span.parent is not None:
                self._totals[span.parent].children_ms += elapsed
        self._spans.clear()

    def print_summary(self, file: TextIO | None = None) -> None:
        """Write the summary as a table, nested sections indented.

        Args:
            file: Where to write; None means standard output.
        """
        stream = sys.stdout if file is None else file
        stream.write(self.format_summary() + "\n")

    def format_summary(self) -> str:
        """Return the table that `print_summary` writes."""
        if not self.enabled:
            return "profiling is disabled"
        summary = self.get_summary()
        if not summary:
            return "no section was profiled"
        labels = {name: "  " * int(entry["depth"]) + name for name, entry in summary.items()}
        width = max(len("section"), *(len(label) for label in labels.values()))
        lines = [f"{'section':<{width}}  {'count':>7}  {'total ms':>11}  {'mean ms':>10}  {'self':>6}"]
        for name, entry in summary.items():
            lines.append(
                f"{labels[name]:<{width}}  {entry['count']:>7}  {entry['total_ms']:>11.3f}"
                f"  {entry['mean_ms']:>10.3f}  {entry['share']:>6.1%}"
            )
        return "\n".join(lines)

"""Named, nested sections of a program, timed on a GPU or on the CPU."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch

from benchmarks.metrics.memory import memory_meter
from hessian.support.files import write_atomic
from prune_gym.support.device import resolve_device
from prune_gym.support.timing import make_clock

# Marks waiting to be read. Bounded, so that profiling a long training does not hoard a CUDA event per section.
_MAX_PENDING = 4096


@dataclass
class _OpenSection:
    name: str
    start: Any
    peak: int = 0
    range: torch.profiler.record_function | None = None


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
    peak: int = 0


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

    The profiler itself is a context manager too; leaving it closes the sections an exception left open. With
    ``trace=True`` everything PyTorch does inside that context is recorded, sections included:

        >>> import tempfile
        >>> with GPUProfiler(device="cpu", trace=True) as profiler, profiler.section("sum"):
        ...     total = torch.ones(8).sum()
        >>> path = profiler.export_chrome_trace(Path(tempfile.mkdtemp()) / "trace.json")

    Args:
        enabled: False turns every method into an immediate return: nothing is measured, synchronised or stored.
        device: Device whose work is timed; None means the only GPU if there is one, else the CPU.
        memory: Whether to measure each section's peak memory: what the CUDA allocator handed out, or the process's
            resident set (Linux; takes up to some milliseconds a section).
        trace: Whether to record a trace with ``torch.profiler`` inside the context; it slows the program down.
    """

    def __init__(
        self,
        enabled: bool = True,
        *,
        device: str | int | torch.device | None = None,
        memory: bool = False,
        trace: bool = False,
    ) -> None:
        self.enabled = enabled
        self._meter = None
        self._trace: torch.profiler.profile | None = None
        self._traced = False
        self._open: list[_OpenSection] = []
        self._spans: list[_Span] = []
        self._totals: dict[str, _Totals] = {}
        if enabled:
            self.device = resolve_device(device)
            self._clock = make_clock(self.device)
            self._meter = memory_meter(self.device) if memory else None
            self._trace = torch.profiler.profile() if trace else None

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
        if self._meter is not None:
            if self._open:  # what the enclosing section has reached, before the mark is lowered
                self._open[-1].peak = max(self._open[-1].peak, self._meter.peak())
            self._meter.reset()
        section = _OpenSection(name, None)
        if self._trace is not None:
            section.range = torch.profiler.record_function(name)
            section.range.__enter__()
        section.start = self._clock.mark()
        self._open.append(section)

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
        end = self._clock.mark()
        self._open.pop()
        if innermost.range is not None:
            innermost.range.__exit__(None, None, None)
        self._note_peak(innermost)
        parent = self._open[-1].name if self._open else None
        self._spans.append(_Span(name, parent, innermost.start, end))
        if len(self._spans) >= _MAX_PENDING:
            self._read_marks()

    def _note_peak(self, section: _OpenSection) -> None:
        if self._meter is None:
            return
        peak = max(section.peak, self._meter.peak())
        self._totals[section.name].peak = max(self._totals[section.name].peak, peak)
        if self._open:
            self._open[-1].peak = max(self._open[-1].peak, peak)

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
        """Start the trace, if asked for, and return the profiler.

        Raises:
            ValueError: the profiler has recorded its trace already.
        """
        if self._trace is not None:
            if self._traced:
                raise ValueError("this profiler has recorded its trace; make another one")
            self._trace.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close whatever is still open, and the trace."""
        while self._open:
            self.end(self._open[-1].name)
        if self._trace is not None:
            self._trace.__exit__(exc_type, exc, traceback)
            self._traced = True

    def export_chrome_trace(self, path: str | os.PathLike[str]) -> Path | None:
        """Write what was recorded, for ``chrome://tracing`` or https://ui.perfetto.dev.

        Args:
            path: JSON file to write.

        Returns:
            The path written; None when disabled.

        Raises:
            ValueError: If nothing was recorded: ``trace=True`` and the ``with`` block are needed.
            OSError: If the file cannot be written.
        """
        if not self.enabled:
            return None
        if self._trace is None or not self._traced:
            raise ValueError(
                "no trace was recorded; use `with GPUProfiler(trace=True) as profiler:` and export after it"
            )
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / "trace.json"
            self._trace.export_chrome_trace(str(temporary))
            return write_atomic(path, temporary.read_bytes())

    def reset(self) -> None:
        """Forget every finished section. Open ones stay open."""
        self._spans.clear()
        for entry in self._totals.values():
            entry.count, entry.total_ms, entry.children_ms, entry.peak = 0, 0.0, 0.0, 0

    def get_summary(self) -> dict[str, dict[str, float | int]]:
        """Return the statistics of every finished section, in the order they were first opened.

        Returns:
            Section name -> ``count``; ``total_ms`` and ``mean_ms`` with nested sections included; ``self_ms``, the
            total without them; ``share``, the fraction of all profiled time spent in the section itself (``self_ms``
            over the sum of ``self_ms``: shares sum to 1); ``depth``, how many sections enclosed it when first opened.
            With ``memory=True``, where it can be measured, also ``peak_memory_bytes``, the most in use during any run
            of the section, nested ones included. Empty when disabled.
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
                **({} if self._meter is None else {"peak_memory_bytes": entry.peak}),
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
        heading = f"{'section':<{width}}  {'count':>7}  {'total ms':>11}  {'mean ms':>10}  {'self':>6}"
        lines = [heading if self._meter is None else f"{heading}  {'peak MiB':>9}"]
        for name, entry in summary.items():
            peak = "" if self._meter is None else f"  {entry['peak_memory_bytes'] / 2**20:>9,.1f}"
            lines.append(
                f"{labels[name]:<{width}}  {entry['count']:>7}  {entry['total_ms']:>11.3f}"
                f"  {entry['mean_ms']:>10.3f}  {entry['share']:>6.1%}{peak}"
            )
        return "\n".join(lines)

"""The profiler attributes time to the right section and costs nothing when it is off."""

import io
import json

import pytest
import torch

from benchmarks import gpu_profiler
from benchmarks.gpu_profiler import GPUProfiler
from prune_gym.support import timing


class FakeTime:
    """A clock that moves only when told, in ms."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now / 1e3


@pytest.fixture
def clock(monkeypatch):
    fake = FakeTime()
    monkeypatch.setattr(timing.time, "perf_counter", fake)
    return fake


def run_nested(profiler, clock):
    """Two steps of 10 ms, of which 6 ms forward (of which 1 ms norm) and 3 ms backward."""
    for _ in range(2):
        profiler.start("step")
        clock.now += 1
        profiler.start("forward")
        clock.now += 5
        profiler.start("norm")
        clock.now += 1
        profiler.end("norm")
        profiler.end("forward")
        profiler.start("backward")
        clock.now += 3
        profiler.end("backward")
        profiler.end("step")


def test_counts_totals_means_and_shares_of_nested_sections(clock):
    profiler = GPUProfiler(device="cpu")
    run_nested(profiler, clock)
    summary = profiler.get_summary()
    assert list(summary) == ["step", "forward", "norm", "backward"]
    assert {name: entry["count"] for name, entry in summary.items()} == dict.fromkeys(summary, 2)
    assert {name: entry["total_ms"] for name, entry in summary.items()} == pytest.approx(
        {"step": 20, "forward": 12, "norm": 2, "backward": 6}
    )
    assert summary["forward"]["mean_ms"] == pytest.approx(6)
    assert {name: entry["self_ms"] for name, entry in summary.items()} == pytest.approx(
        {"step": 2, "forward": 10, "norm": 2, "backward": 6}
    )
    assert {name: entry["share"] for name, entry in summary.items()} == pytest.approx(
        {"step": 0.1, "forward": 0.5, "norm": 0.1, "backward": 0.3}
    )
    assert {name: entry["depth"] for name, entry in summary.items()} == {
        "step": 0,
        "forward": 1,
        "norm": 2,
        "backward": 1,
    }


def test_long_runs_do_not_hoard_marks_and_lose_nothing(clock, monkeypatch):
    monkeypatch.setattr(gpu_profiler, "_MAX_PENDING", 3)
    profiler = GPUProfiler(device="cpu")
    for _ in range(5):
        run_nested(profiler, clock)
        assert len(profiler._spans) < 3
    assert profiler.get_summary()["step"]["total_ms"] == pytest.approx(100)
    assert profiler.get_summary()["step"]["share"] == pytest.approx(0.1)


def test_asking_twice_gives_the_same_answer(clock):
    profiler = GPUProfiler(device="cpu")
    run_nested(profiler, clock)
    assert profiler.get_summary() == profiler.get_summary()


def test_section_closes_on_an_exception_together_with_what_was_left_open(clock):
    profiler = GPUProfiler(device="cpu")

    def fail_inside():
        with profiler.section("outer"):
            profiler.start("inner")
            clock.now += 4
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    summary = profiler.get_summary()
    assert summary["outer"]["total_ms"] == summary["inner"]["total_ms"] == pytest.approx(4)


def test_the_profiler_is_a_context_manager_that_closes_open_sections(clock):
    with GPUProfiler(device="cpu") as profiler:
        profiler.start("a")
        clock.now += 2
    assert profiler.get_summary()["a"]["total_ms"] == pytest.approx(2)


def test_open_sections_are_not_in_the_summary(clock):
    profiler = GPUProfiler(device="cpu")
    profiler.start("a")
    assert profiler.get_summary() == {}


def test_reset_forgets(clock):
    profiler = GPUProfiler(device="cpu")
    run_nested(profiler, clock)
    profiler.reset()
    assert profiler.get_summary() == {}


def test_disabled_profiler_touches_no_clock_and_no_device(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a disabled profiler must not do this")

    for target in ("resolve_device", "make_clock"):
        monkeypatch.setattr(gpu_profiler, target, refuse)
    monkeypatch.setattr(timing.time, "perf_counter", refuse)
    with GPUProfiler(enabled=False) as profiler:
        profiler.start("a")
        profiler.end("never opened")
        with profiler.section("b"):
            pass
    assert profiler.get_summary() == {}
    assert profiler._spans == []


def test_misuse_is_named():
    profiler = GPUProfiler(device="cpu")
    with pytest.raises(ValueError, match="'a' was ended but never started"):
        profiler.end("a")
    profiler.start("a")
    with pytest.raises(ValueError, match="'a' is already open"):
        profiler.start("a")
    profiler.start("b")
    with pytest.raises(ValueError, match="'a' was ended while 'b' is open"):
        profiler.end("a")


def test_printed_table_shows_nesting_and_numbers(clock, capsys):
    profiler = GPUProfiler(device="cpu")
    run_nested(profiler, clock)
    profiler.print_summary()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["step", "2", "20.000", "10.000", "10.0%"]
    assert lines[2].startswith("  forward ")
    assert lines[3].startswith("    norm ")
    stream = io.StringIO()
    GPUProfiler(enabled=False).print_summary(stream)
    assert stream.getvalue() == "profiling is disabled\n"
    GPUProfiler(device="cpu").print_summary(stream)
    assert "no section" in stream.getvalue()


def test_runs_on_every_device(device):
    profiler = GPUProfiler(device=device)
    with profiler.section("a"):
        pass
    assert profiler.get_summary()["a"]["total_ms"] >= 0


class FakeMeter:
    """Memory in use is what the test says; the mark follows it up and falls only on a reset."""

    kind = "fake"

    def __init__(self):
        self.used = self.mark = 0

    def use(self, count):
        self.used = count
        self.mark = max(self.mark, count)

    def reset(self):
        self.mark = self.used

    def peak(self):
        return self.mark


def test_a_sections_peak_memory_includes_nested_ones_and_no_others(monkeypatch):
    meter = FakeMeter()
    monkeypatch.setattr(gpu_profiler, "memory_meter", lambda device: meter)
    profiler = GPUProfiler(device="cpu", memory=True)
    meter.use(100)
    meter.use(5)
    with profiler.section("step"):
        meter.use(30)
        meter.use(10)
        with profiler.section("small"):
            meter.use(12)
        meter.use(10)
        with profiler.section("large"):
            meter.use(50)
        meter.use(1)
    summary = profiler.get_summary()
    assert {name: entry["peak_memory_bytes"] for name, entry in summary.items()} == {
        "step": 50,
        "small": 12,
        "large": 50,
    }
    assert "peak MiB" in profiler.format_summary()


def test_peak_memory_is_measured_on_every_device(device):
    profiler = GPUProfiler(device=device, memory=True)
    with profiler.section("outer"), profiler.section("inner"):
        tensor = torch.ones(1 << 22, device=device)
    if "peak_memory_bytes" not in profiler.get_summary()["inner"]:
        pytest.skip("this device does not report its memory")
    assert profiler.get_summary()["inner"]["peak_memory_bytes"] >= tensor.numel() * 4
    assert "peak_memory_bytes" not in GPUProfiler(device=device).get_summary()


def test_the_chrome_trace_holds_the_sections_and_the_operators_in_them(tmp_path):
    with GPUProfiler(device="cpu", trace=True) as profiler, profiler.section("outer"), profiler.section("inner"):
        torch.ones(8) @ torch.ones(8)
    path = profiler.export_chrome_trace(tmp_path / "deep" / "trace.json")
    events = {event.get("name"): event for event in json.loads(path.read_text())["traceEvents"] if "dur" in event}
    outer, inner, dot = events["outer"], events["inner"], events["aten::dot"]
    for around, inside in ((outer, inner), (inner, dot)):
        assert around["ts"] <= inside["ts"]
        assert inside["ts"] + inside["dur"] <= around["ts"] + around["dur"] + 1
    assert profiler.get_summary()["inner"]["count"] == 1


def test_a_trace_that_was_not_recorded_cannot_be_exported(tmp_path):
    for profiler in (GPUProfiler(device="cpu"), GPUProfiler(device="cpu", trace=True)):
        with pytest.raises(ValueError, match="no trace was recorded"):
            profiler.export_chrome_trace(tmp_path / "trace.json")
    assert GPUProfiler(enabled=False, trace=True).export_chrome_trace(tmp_path / "trace.json") is None
    with GPUProfiler(device="cpu", trace=True) as profiler:
        pass
    with pytest.raises(ValueError, match="make another one"), profiler:
        pass

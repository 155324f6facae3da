import subprocess
import sys

import pytest

from prune_gym.pruning.targets import LatencyLimit, TargetError, Targets


@pytest.mark.parametrize(
    ("given", "removed"), [(0.3, 0.3), ("0.3", 0.3), ("30%", 0.3), ("0.7x", 0.3), ("70 %", 0.7), (".5", 0.5)]
)
def test_shares_are_read_as_people_write_them(given, removed):
    assert Targets.of(flops=given).flops == pytest.approx(removed)
    assert Targets.of(params=given).params == pytest.approx(removed)


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ("4.2ms", LatencyLimit(milliseconds=4.2)),
        ("300us", LatencyLimit(milliseconds=0.3)),
        ("0.6x", LatencyLimit(share=0.6)),
    ],
)
def test_latencies_are_times_or_shares(given, limit):
    found = Targets.of(latency=given).latency
    assert (found.share, found.milliseconds) == (limit.share, pytest.approx(limit.milliseconds))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "no target is given"),
        ({"flops": 50}, r"did you mean 50%\?"),
        ({"flops": "1.2x"}, "flops: is a share to remove"),
        ({"flops": 0}, "a share to remove"),
        ({"flops": True}, "a share to remove"),
        ({"params": "half"}, "params: is a share"),
        ({"latency": 4.2}, "latency: is a time such as 4.2ms"),
        ({"latency": "1.5x"}, "between 0x and 1x"),
        ({"max_drop": -1}, "percentage points"),
        ({"max_drop": "nan"}, "percentage points"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_an_example(asked, message):
    with pytest.raises(TargetError, match=message):
        Targets.of(**asked)


def test_targets_are_read_without_loading_pytorch():
    script = "import sys, prune_gym.pruning.targets, benchmarks.prune.options; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)

"""The numbers of docs/prune.md are those of the committed runs."""

import json
import re

from benchmarks.prune.options import parser
from tests.pages import DOCS, ROOT, prose

RESULTS = ROOT / "benchmarks" / "results" / "prune_resnet18.json"


def test_every_row_of_the_table_is_a_committed_run():
    rows = [line for line in (DOCS / "prune.md").read_text().splitlines() if line.startswith("| `--")]
    runs = json.loads(RESULTS.read_text())["rows"]
    measured = [row for row in rows if row.count("|") == 9]
    assert len(measured) == len(runs)
    for row, run in zip(measured, runs, strict=True):
        option = run["command"].partition("small.onnx ")[2]
        assert f"`{option}`" in row
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        values = [100 * run[key] for key in ("dense", "pruned", "flops_reduction", "params_reduction")]
        assert cells[2:4] == [f"{value:.2f}" for value in values[:2]]
        assert cells[4:6] == [f"{value:.1f}" for value in values[2:]]
        assert cells[6:] == [f"{run['latency_share']:.2f}x", f"{run['cpu_seconds']:.0f}"]


def test_the_runs_reached_what_they_asked_for_and_all_but_one_within_five_processor_minutes():
    runs = json.loads(RESULTS.read_text())["rows"]
    assert [run["name"] for run in runs if run["cpu_seconds"] >= 300] == ["unlabelled_max_drop"]
    assert "all but one stay within five minutes" in prose(DOCS / "prune.md")
    for run in runs:
        assert run["onnx_largest_difference"] < 1e-4
        if "--flops 0.5" in run["command"]:
            assert run["flops_reduction"] >= 0.5
        if "--latency 0.6x" in run["command"]:
            assert run["latency_share"] <= 1.05 * 0.6
        if "--max-drop 1" in run["command"]:
            assert run["dense_held_out"] - run["pruned_held_out"] <= 0.01


def test_every_option_it_names_exists():
    named = set(re.findall(r"`(--[a-z-]+)", prose(DOCS / "prune.md")))
    assert len(named) >= 10
    assert named <= set(parser(None)._option_string_actions)

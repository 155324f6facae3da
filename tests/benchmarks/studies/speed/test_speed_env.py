"""The environment's speed rows: all of them, on a small task."""

import json

import pytest

from benchmarks.studies.speed import command as speed
from benchmarks.studies.speed import env as speed_env
from prune_gym.measuring.repair import REPAIRS
from tests.prune_gym.tiny import register_tiny

MAY_BE_NEGATIVE = ("repair_share", "latency_table_spearman", "memory_growth")


def run(tmp_path, *rows):
    path = tmp_path / "rows.json"
    arguments = ["--task", "tiny", "--images", "50", "--repeats", "1", "--threads", "1", "--gpu", "cpu"]
    assert speed.main(["env", *arguments, "--json", str(path), *(("--rows", *rows) if rows else ())]) == 0
    return json.loads(path.read_text())["rows"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    register_tiny()
    monkeypatch.setitem(speed_env.TARGETS, "084", 0.6)
    monkeypatch.setattr(speed_env, "LATENCY_TARGETS", (0.5, 0.6))
    monkeypatch.setattr(speed_env, "PREDICTED_BATCH", 64)
    monkeypatch.setattr(speed_env, "STEPS", 60)
    monkeypatch.setattr(speed_env, "MEMORY_PLANS", (2, 3))


def test_every_promised_row_is_measured(tmp_path):
    rows = {row["name"]: row for row in run(tmp_path)}
    promised = {"measured_vs_floor_050", "measured_vs_floor_084", "dense_vs_floor", "revisit_ms", "import_s"}
    promised |= {"latency_table_error", "latency_table_spearman"}
    promised |= {"memory_after_2_plans", "memory_after_3_plans", "memory_growth_from_2", "memory_plan_s"}
    rows_of_vectors = ("vector_bound", "padded_pass")
    promised |= {f"{row}_{name}_{width}" for row in rows_of_vectors for name in speed_env.TARGETS for width in (8, 16)}
    promised |= {f"predicted_{what}_{kind}" for what in ("steps_per_s", "batched_per_s") for kind in ("soft", "hard")}
    for name in speed_env.TARGETS:
        suffixes = ["", "_closed_form_in_search", *(f"_{repair}" for repair in REPAIRS if repair != "sequential")]
        promised |= {f"{row}_{name}{suffix}" for suffix in suffixes for row in ("measured_vs_masked", "repair_share")}
        promised |= {f"measured_vs_masked_{name}{suffix}_without_repair" for suffix in ("", "_bfloat16")}
    assert promised <= set(rows)
    for row in rows.values():
        assert set(row) == {"name", "value", "unit", "baseline", "ratio"}
        assert row["value"] > 0 or row["name"].startswith(MAY_BE_NEGATIVE)
        assert bool(row["baseline"]) == (row["ratio"] is not None)


def test_rows_can_be_chosen(tmp_path):
    assert [row["name"] for row in run(tmp_path, "revisit_ms")] == ["revisit_ms"]


def test_memory_is_measured_in_processes_that_keep_so_many_kernels(tmp_path):
    rows = {row["name"]: row for row in run(tmp_path, "memory")}
    assert rows["memory_after_3_plans"]["value"] > 50
    assert 0.5 < rows["memory_after_3_plans"]["ratio"] < 2

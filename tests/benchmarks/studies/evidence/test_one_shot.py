import json

from benchmarks.studies.evidence import one_shot
from tests.benchmarks import tiny_task


def test_every_step_is_measured_and_the_refit_beats_doing_nothing(tmp_path, capsys, monkeypatch):
    tiny_task.register()
    monkeypatch.setattr(one_shot, "TARGETS", (0.6,))
    assert one_shot.main(["--task", "tiny-cnn", "--json", str(tmp_path / "a.json"), "--threads", "1"]) == 0
    (run,) = json.loads((tmp_path / "a.json").read_text())["runs"]
    (row,) = run["budgets"]
    assert list(row["accuracies"]) == list(one_shot.LADDER)
    assert row["reduction"] >= 0.55
    assert row["accuracies"]["magnitude + sequential"] > row["accuracies"]["magnitude"]
    assert "H-OBS + sequential" in capsys.readouterr().out

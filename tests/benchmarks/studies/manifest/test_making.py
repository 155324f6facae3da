"""Parts are made once a version of the code, go on where they stopped, and their numbers come out again."""

import json

import pytest

from benchmarks.studies.manifest import command
from benchmarks.studies.manifest.checking import check, draw, numbers
from benchmarks.studies.manifest.ledger import NEVER, Ledger
from benchmarks.studies.manifest.parts import PARTS, Part
from benchmarks.studies.manifest.running import PartError, publish, run_part

CODE = {"hessian": "1"}
WRITE = "-c \"import pathlib; path = pathlib.Path(r'{out}', '%s'); path.write_text(%s)\""


def part(*commands, results=("a.json",)):
    return Part("a", commands, results, 1)


def test_a_part_goes_on_where_it_stopped_and_begins_again_with_other_code(tmp_path):
    folder = tmp_path / "a"
    count = "str(int(path.read_text()) + 1) if path.exists() else '1'"
    one = part(WRITE % ("count", count), WRITE % ("a.json", "'1'"))
    run_part(one, CODE, folder)
    assert run_part(one, CODE, folder) > 0
    assert (folder / "count").read_text() == "2"
    run_part(one, {"hessian": "2"}, folder)
    assert (folder / "count").read_text() == "1"


def test_a_command_that_fails_ends_the_part(tmp_path):
    with pytest.raises(PartError, match="exit code 3"):
        run_part(part('-c "raise SystemExit(3)"', WRITE % ("a.json", "'1'")), CODE, tmp_path / "a")
    assert not (tmp_path / "a" / "a.json").exists()


def test_results_are_published_whole_and_a_missing_one_is_an_error(tmp_path):
    made, kept = tmp_path / "made", tmp_path / "kept"
    for path in (made / "study" / "cells", made / "study" / "plans", kept / "study"):
        path.mkdir(parents=True)
    (made / "study" / "cells" / "1.json").write_text("1")
    (kept / "study" / "old.json").write_text("0")
    publish(part(results=("study",)), made, kept)
    assert [path.name for path in (kept / "study").iterdir()] == ["cells"]
    with pytest.raises(PartError, match=r"left no b\.json"):
        publish(part(results=("b.json",)), made, kept)


def test_the_ledger_says_what_changed_since(tmp_path):
    (tmp_path / "hessian").mkdir()
    module = tmp_path / "hessian" / "obs.py"
    module.write_text("x = 1\n")
    one = part("-m hessian.obs")
    ledger = Ledger(tmp_path / "manifest.json", tmp_path, tmp_path)
    assert ledger.changed(one) == [NEVER]
    (tmp_path / "a.json").write_text("{}")
    ledger.note(one, 3.0, ledger.code(one))
    assert Ledger(tmp_path / "manifest.json", tmp_path, tmp_path).changed(one) == []
    module.write_text("x = 2\n")
    again = Ledger(tmp_path / "manifest.json", tmp_path, tmp_path)
    assert again.changed(one) == ["hessian"]
    assert again.records["a"].seconds == 3.0


def test_only_measured_numbers_are_drawn_and_each_once(tmp_path):
    content = {"rows": [{"seed": 1.0, "seconds": 2.5, "accuracy": 0.9, "name": "a"}, {"accuracy": 0.8}], "n": 3}
    assert dict(numbers(content)) == {("rows", 0, "accuracy"): 0.9, ("rows", 1, "accuracy"): 0.8}
    (tmp_path / "a.json").write_text(json.dumps(content))
    drawn = draw([part()], 10, 0, tmp_path)
    assert sorted(value for _, _, value in drawn) == [0.8, 0.9]


def test_a_number_that_moved_or_went_is_found(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"rows": [0.9, 0.8, 0.7]}))
    again = tmp_path / "again"
    again.mkdir()
    (again / "a.json").write_text(json.dumps({"rows": [0.904, 0.81]}))
    made = []
    checked = check(draw([part()], 3, 0, tmp_path), lambda one: made.append(one) or again, 0.005)
    assert {one.stored: one.same for one in checked} == {0.9: True, 0.8: False, 0.7: False}
    assert len(made) == 1


def test_the_list_names_every_part_and_what_reads_it(capsys):
    assert command.main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in PARTS)
    assert "results.md" in shown


def test_the_part_asked_for_is_made_published_and_noted(tmp_path, monkeypatch):
    one = part(WRITE % ("a.json", "'{{\\\"x\\\": 0.5}}'"))
    monkeypatch.setattr(command, "PARTS", {"a": one})
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.setattr(command, "CHECKED", tmp_path / "checked.json")
    monkeypatch.setattr(command, "Ledger", lambda: Ledger(tmp_path / "manifest.json", tmp_path, tmp_path))
    out = ["--out", str(tmp_path / "out")]
    assert command.main(["--part", "a", *out]) == 0
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 0.5}
    assert "a" in Ledger(tmp_path / "manifest.json", tmp_path, tmp_path).records
    assert command.main(["--check", "1", *out]) == 0
    (found,) = json.loads((tmp_path / "checked.json").read_text())["numbers"]
    assert found["same"]
    (tmp_path / "a.json").write_text('{"x": 0.7}')
    assert command.main(["--check", "1", *out]) == 1


def test_a_part_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["--part", "reconstructoin"])
    assert "reconstruction" in capsys.readouterr().err

"""Files of earlier versions get a checksum; what they say stays."""

import json

import pytest

from benchmarks.common.signed import read_signed
from benchmarks.common.signed_table import read_csv
from benchmarks.files import sign


@pytest.mark.parametrize("content", [{"a": 0.1, "b": [1, 1e-12]}, {}, [1, 2.5], {"content": 3}, "word"])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_file_without_a_checksum_is_read_after_it_was_signed_and_says_the_same(tmp_path, content, indent):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content, indent=indent))
    assert sign.sign(path)
    assert read_signed(path, "") == content
    assert not sign.sign(path)


def test_a_table_gets_a_column(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text('name,accuracy\n"a, b",0.50\n')
    assert sign.sign(path)
    assert read_csv(path, "") == [{"name": "a, b", "accuracy": "0.50"}]
    assert not sign.sign(path)


def test_a_folder_s_results_are_signed_and_nothing_else(tmp_path, capsys):
    (tmp_path / "cells").mkdir()
    for name in ("cells/a.json", "result.json", "budgets.json"):
        (tmp_path / name).write_text("{}")
    assert sign.main([str(tmp_path)]) == 0
    assert "2 of 2 files" in capsys.readouterr().out
    assert (tmp_path / "budgets.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"a": 1, "sha256": "0"}'),
        ("a.json", '{"a": NaN}'),
        ("a.json", '{"manifest_sha256": ""}'),
        ("a.csv", "a,sha256\n1,0\n"),
        ("a.csv", "a\n"),
        ("a.txt", ""),
    ],
)
def test_damaged_files_and_others_are_refused_and_named(tmp_path, name, text, capsys):
    (tmp_path / name).write_text(text)
    assert sign.main([str(tmp_path / name)]) == 2
    assert name in capsys.readouterr().err.replace("\n", "")
    assert (tmp_path / name).read_text() == text

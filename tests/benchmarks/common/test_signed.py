"""Signed JSON and signed tables: what was written is read, and nothing else."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.common.signed import FileError, read_signed, signed, write_signed
from benchmarks.common.signed_table import read_csv, signed_csv

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**60), 2**60),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)


@settings(max_examples=100)
@given(content=JSON)
def test_what_is_written_is_read(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("signed") / "x.json"
    assert read_signed(write_signed(path, content), "") == content


def test_an_object_keeps_its_keys_for_people_who_read_it(tmp_path):
    path = write_signed(tmp_path / "x.json", {"accuracy": 0.5})
    assert json.loads(path.read_text()).keys() == {"accuracy", "sha256"}


def test_indenting_anew_changes_nothing(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(signed({"b": [1, 2.5], "a": None}), indent=7, sort_keys=True))
    assert read_signed(path, "") == {"b": [1, 2.5], "a": None}


@pytest.mark.parametrize("text", ['{"a": 2, "sha256": "%s"}', '{"a": 1.0, "sha256": "%s"}', '{"A": 1, "sha256": "%s"}'])
def test_other_values_types_or_keys_do_not_match(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text % signed({"a": 1})["sha256"])
    with pytest.raises(FileError, match=r"x\.json does not match its checksum: .*; ask somebody"):
        read_signed(path, "ask somebody")


@pytest.mark.parametrize(("name", "text"), [("x.json", '{"a": 1}'), ("x.csv", "a\n1\n")])
def test_files_without_a_checksum_are_refused_and_the_error_says_what_gives_them_one(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(FileError, match=r"carries no checksum, .* python -m benchmarks\.files\.sign"):
        read_signed(path, "") if name == "x.json" else read_csv(path, "")


ROWS = [
    {"seed": 1, "accuracy": 0.5, "note": "a,b"},
    {"seed": 2, "accuracy": 0.25, "note": None},
    {"seed": 3, "accuracy": 1.0, "note": "x"},
]
COLUMNS = ("seed", "accuracy", "note")


def test_a_table_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(signed_csv(ROWS, COLUMNS))
    assert [row["accuracy"] for row in read_csv(path, "")] == ["0.5", "0.25", "1.0"]
    assert read_csv(path, "")[0].keys() == set(COLUMNS)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: lines[:-1],
        lambda lines: [lines[0], lines[2], lines[1], lines[3]],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [line.replace("0.25", "0.35") for line in lines],
        lambda lines: [lines[0].replace("seed", "sead"), *lines[1:]],
    ],
    ids=["first row gone", "last row gone", "rows swapped", "row twice", "another number", "another column"],
)
def test_a_table_with_rows_missing_or_changed_is_refused(tmp_path, change):
    path = tmp_path / "t.csv"
    path.write_text("\n".join(change(signed_csv(ROWS, COLUMNS).splitlines())) + "\n")
    with pytest.raises(FileError, match=r"t\.csv does not match its checksum: .* rows are missing"):
        read_csv(path, "")


def test_a_row_cut_off_is_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n3\n")
    with pytest.raises(FileError, match=r"t\.csv, row 2: more or fewer values than columns"):
        read_csv(path, "")

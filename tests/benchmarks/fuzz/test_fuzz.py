"""A short run of the fuzz command, and that it would notice a reader that believes what it reads."""

import json
import random
import time

import pytest

from benchmarks.fuzz import command
from benchmarks.fuzz.formats import Format, formats
from benchmarks.fuzz.mutations import MUTATIONS
from benchmarks.fuzz.samples import Samples

SAMPLES_OF = [form.name for form in formats(Samples(None))]


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    return {form.name: form for form in formats(Samples(tmp_path_factory.mktemp("fuzz")))}


@pytest.mark.parametrize("name", SAMPLES_OF)
def test_no_damage_passes_in_silence_ends_in_a_traceback_or_hangs(every, name, tmp_path):
    row = command.fuzz(every[name], tmp_path / "files", 3 * len(MUTATIONS), seed=1)
    assert not any(row[failure] for failure in command.FAILURES), row["examples"]
    assert row["refused"] > 0


def believing(read):
    def write(folder):
        path = folder / "number.txt"
        path.write_text("0.25")
        return path

    return Format("believes", write, read, refusals=(KeyError,))


@pytest.mark.parametrize(
    ("read", "failure"),
    [
        (lambda path: path.read_bytes().hex(), "silent"),
        (lambda path: str(float(path.read_text())), "traceback"),
        (lambda path: "0.25" if path.read_bytes() == b"0.25" else str(time.sleep(9)), "hang"),
    ],
)
def test_a_reader_that_believes_falls_or_hangs_is_found(tmp_path, monkeypatch, read, failure):
    monkeypatch.setattr(command, "SECONDS", 0.01)
    assert command.fuzz(believing(read), tmp_path / "files", 2 * len(MUTATIONS))[failure] > 0


def test_an_error_that_names_no_file_is_no_clean_refusal(tmp_path):
    def read(path):
        if path.read_bytes() != b"0.25":
            raise KeyError("entry")
        return "0.25"

    row = command.fuzz(believing(read), tmp_path / "files", len(MUTATIONS))
    assert row["traceback"] == len(MUTATIONS)


@pytest.mark.parametrize("name", MUTATIONS)
@pytest.mark.parametrize("data", [b"x", b'{"a": 1.5, "word": [1, 2]}\n' * 20, bytes(range(256))])
def test_every_mutation_changes_any_file(name, data):
    changed = [MUTATIONS[name](data, random.Random(seed)) for seed in range(20)]
    assert any(found != data for found in changed)


def test_the_command_writes_a_row_a_format_and_says_whether_all_held(tmp_path):
    path = tmp_path / "fuzz.json"
    assert command.main(["--mutations", "14", "--formats", "run: measured plans", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert {row["format"] for row in rows} == {"run: measured plans"}
    assert all(sum(row[outcome] for outcome in command.OUTCOMES) == 14 for row in rows)

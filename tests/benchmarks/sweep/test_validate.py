import csv

import pytest

from benchmarks import cli
from benchmarks.files.sign import sign
from benchmarks.sweep import validate
from benchmarks.sweep.results_table import ResultsError, read_results
from benchmarks.sweep.runner import run_sweep
from tests.benchmarks.result_folders import signed_again
from tests.benchmarks.sweep.test_sweep import Inline, make_sweep


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep of two rows; its folder."""
    sweep = make_sweep(tmp_path_factory.mktemp("validate"), methods=["hobs-uniform"])
    run_sweep(sweep, Inline())
    return sweep.save_dir


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(validate, "LocalWorkers", lambda *_: Inline())


@pytest.fixture
def edited(swept):
    """Change the table for one test."""
    table = swept / "results.csv"
    before = table.read_text()

    def edit(old, new):
        assert old in before
        table.write_text(signed_again(before.replace(old, new)))

    yield edit
    table.write_text(before)


def test_rows_come_out_again_to_the_bit(swept, capsys):
    assert cli.main(["validate", str(swept)]) == 0
    assert "2 of 2 rows came out again (tolerance 0)" in capsys.readouterr().out


@pytest.mark.parametrize("table", ["results.csv", "results.parquet"])
def test_a_sample_of_either_table_is_enough(swept, capsys, table):
    if not (swept / table).is_file():
        pytest.skip("needs pyarrow")
    assert cli.main(["validate", str(swept / table), "--sample", "1"]) == 0
    assert "1 of 1 rows" in capsys.readouterr().out


def test_a_changed_number_is_reported_and_the_exit_code_says_so(swept, edited, capsys):
    row = read_results(swept)[0]
    before = f",{row['reconstructed_accuracy']!r},"
    edited(f"{before}{row['final_accuracy']!r},", f"{before}{row['final_accuracy'] - 0.01!r},")
    assert cli.main(["validate", str(swept)]) == 1
    shown = capsys.readouterr().out
    assert f"final_accuracy: {row['final_accuracy'] - 0.01} in the table, {row['final_accuracy']} this time" in shown
    assert "rows came out again (tolerance 0)" in shown


def test_a_tolerance_accepts_small_differences(swept):
    stored = read_results(swept)[0]
    again = {**stored, "final_accuracy": stored["final_accuracy"] + 0.004, "final_flops": stored["final_flops"] + 1}
    assert {difference.column for difference in validate.compare(stored, again)} == {"final_accuracy", "final_flops"}
    assert validate.compare(stored, again, tolerance=0.005) == []


def test_other_budgets_are_a_difference(swept):
    stored = read_results(swept)[0]
    (difference,) = validate.compare(stored, {**stored, "budgets": '{"0":0.1}'}, tolerance=0.5)
    assert difference.column == "budgets"


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("final_accuracy", "", r"row 1: the value of 'final_accuracy' is missing"),
        ("final_accuracy", "nan", r"row 1: 'final_accuracy' is nan, not a finite number"),
        ("seed", "one", r"row 1: 'seed' is no int: 'one'"),
        ("seed", "2", r"rows 1 and 2 are both the run \('tiny-cnn', 'hobs-uniform', 0.6, 2\)"),
        ("schema_version", "1", r"has schema version 1, this version of the project reads 2"),
        ("schema_version", "", r"carries no schema version"),
    ],
)
def test_bad_tables_are_refused_and_say_where(swept, tmp_path, column, value, said):
    header, first, *others = (swept / "results.csv").read_text().splitlines()
    position = header.split(",").index(column)
    cells = first.split(",", position + 1)
    cells[position] = value
    (tmp_path / "results.csv").write_text(signed_again("\n".join([header, ",".join(cells), *others]) + "\n"))
    with pytest.raises(ResultsError, match=said):
        read_results(tmp_path)
    assert cli.main(["validate", str(tmp_path)]) == 2


@pytest.mark.parametrize(("column", "value"), [("budgets", '{"0":'), ("versions", "[]")])
def test_a_cell_that_is_no_json_object_is_named(swept, tmp_path, column, value):
    rows = read_results(swept)
    rows[0][column] = value
    with open(tmp_path / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    sign(tmp_path / "results.csv")
    with pytest.raises(ResultsError, match=f"row 1: '{column}' is no JSON object"):
        read_results(tmp_path)


def test_a_row_the_sweep_does_not_have_and_a_missing_sweep_are_errors(swept, edited, tmp_path, capsys):
    edited(",hobs-uniform,0.6,2,", ",hobs-uniform,0.6,7,")
    assert cli.main(["validate", str(swept)]) == 2
    assert "its sweep.yaml does not" in capsys.readouterr().err
    (tmp_path / "results.csv").write_bytes((swept / "results.csv").read_bytes())
    assert cli.main(["validate", str(tmp_path)]) == 2
    assert "has no sweep.yaml" in capsys.readouterr().err
    assert cli.main(["validate", str(tmp_path / "nowhere")]) == 2


@pytest.mark.parametrize(("table", "said"), [(b"", "has no rows"), (b"task,\xff\xfe\n1,2\n", "no CSV file")])
def test_a_table_of_nothing_is_not_taken_for_a_right_one(swept, tmp_path, capsys, table, said):
    (tmp_path / "sweep.yaml").write_bytes((swept / "sweep.yaml").read_bytes())
    (tmp_path / "results.csv").write_bytes(table)
    assert cli.main(["validate", str(tmp_path)]) == 2
    assert said in " ".join(capsys.readouterr().err.split())

"""One table of many runs: a row a run, results apart from timings, the same bytes for the same results.

``results.csv`` (and ``results.parquet`` where pyarrow is installed) holds what a seed reproduces; ``timings.csv`` holds
what no two runs share. Rows are sorted by task, method, target and seed, whatever order the runs ended in.
"""

from __future__ import annotations

import io
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.columns import Column, Columns, Spread, percent_column
from benchmarks.common.errors import InputError
from benchmarks.common.signed import FileError
from benchmarks.common.signed_table import read_csv, signed_csv, table_digest, verified
from benchmarks.common.table import Table
from hessian.support.files import CHECKSUM_KEY

SCHEMA_VERSION = 2
"""Of the columns below; a table of another version is refused."""

KEY = ("task", "method", "target_flops_reduction", "seed")
"""Columns that name a run."""

NETWORKS = ("dense", "one_shot", "reconstructed", "final")
COUNTED, COUNTS = ("dense", "final"), ("flops", "parameters")
SEARCH = ("measured_evaluations", "reward_accuracy", "reward_soft_accuracy")
COLUMNS: dict[str, type] = {
    "schema_version": int,
    "task": str,
    "method": str,
    "target_flops_reduction": float,
    "seed": int,
    "flops_reduction": float,
    "test_images": int,
    **{f"{network}_accuracy": float for network in NETWORKS},
    **{f"{network}_{count}": int for network in COUNTED for count in COUNTS},
    "final_bytes_on_disk": int,
    "measured_evaluations": int,
    "reward_accuracy": float,
    "reward_soft_accuracy": float,
    "budgets": str,
    "device": str,
    "num_threads": int,
    "versions": str,
}
"""Columns of the results and their types. ``budgets`` (layer -> pruning ratio) and ``versions`` are JSON objects."""

JSON_COLUMNS = ("budgets", "versions")

TIMED_COLUMNS = (
    *KEY,
    *(f"{network}_{measure}" for network in NETWORKS for measure in ("latency_ms", "throughput_imgs_per_sec")),
    "seconds",
)
"""Columns of the timings: median latency of one image (ms), images/s in batches of 64, wall time of the run (s)."""

AGAIN = "move it away, and the sweep writes it again"

Row = dict[str, Any]


class ResultsError(InputError):
    """A table of results that cannot be used; the message says why and what to do."""


def result_row(result: Mapping[str, Any]) -> Row:
    """Return the row of a run's ``result.json`` in the table of results.

    Raises:
        ResultsError: something is missing there.
    """
    try:
        return {
            "schema_version": SCHEMA_VERSION,
            **{column: result[column] for column in (*KEY, "flops_reduction", "test_images", "num_threads")},
            "device": result["device"].split(":")[0],  # which of several equal GPUs does not matter
            **{f"{network}_accuracy": result[network]["accuracy"] for network in NETWORKS},
            **{f"{name}_{count}": result[name][count] for name in COUNTED for count in COUNTS},
            "final_bytes_on_disk": result["final"]["bytes_on_disk"],
            **{column: result["search"][column] for column in SEARCH},
            "budgets": _compact(result["budgets"]),
            "versions": _compact(result["versions"]),
        }
    except (KeyError, TypeError) as error:
        raise ResultsError(f"a result.json was written by another version of the project: no entry {error}") from None


def timing_row(result: Mapping[str, Any]) -> Row:
    """Return the row of a run's ``result.json`` in the table of timings."""
    return {
        **{column: result[column] for column in KEY},
        **{column: _timed(result, column) for column in TIMED_COLUMNS[len(KEY) : -1]},
        "seconds": sum(result["seconds"].values()),
    }


def _timed(result: Mapping[str, Any], column: str) -> float:
    network = next(name for name in NETWORKS if column.startswith(f"{name}_"))
    value: float = result[network][column.removeprefix(f"{network}_")]
    return value


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def result_files(results: Sequence[Mapping[str, Any]]) -> dict[str, str | bytes]:
    """Return ``results.csv``, ``timings.csv`` and, where pyarrow is installed, ``results.parquet``.

    Args:
        results: contents of ``result.json`` files, in any order.

    Raises:
        ResultsError: a result lacks something.
    """
    rows = sorted((result_row(result) for result in results), key=run_key)
    timings = sorted((timing_row(result) for result in results), key=run_key)
    files: dict[str, str | bytes] = {
        "results.csv": signed_csv(rows, tuple(COLUMNS)),
        "timings.csv": signed_csv(timings, TIMED_COLUMNS),
    }
    parquet = _parquet(rows)
    return files if parquet is None else {**files, "results.parquet": parquet}


def run_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the name of the run of a row: task, method, target and seed."""
    return tuple(row[column] for column in KEY)


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes | None:
    """The table as Parquet; None where pyarrow is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return None
    types = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    schema = pyarrow.schema([*((column, types[kind]) for column, kind in COLUMNS.items()), (CHECKSUM_KEY, types[str])])
    digest = table_digest([{column: str(row[column]) for column in COLUMNS} for row in rows])
    buffer = io.BytesIO()
    signed = [{**row, CHECKSUM_KEY: digest} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(signed, schema=schema), buffer)
    return buffer.getvalue()


def read_results(path: str | Path) -> list[Row]:
    """Read a table of results.

    Args:
        path: a ``results.csv`` or ``results.parquet``, or the folder that holds one.

    Returns:
        A typed row a run, as :data:`COLUMNS` says.

    Raises:
        FileNotFoundError: no such table.
        ResultsError: a table of another version, with missing or undefined values, or a run twice.
    """
    path = Path(path)
    table = path / "results.csv" if path.is_dir() else path
    if not table.is_file():
        raise FileNotFoundError(f"no table of results {str(table)!r}; prune-gym sweep writes one")
    raw = _read_parquet(table) if table.suffix == ".parquet" else _read_csv(table)
    _check_version(table, raw)
    rows = [_typed(table, number, row) for number, row in enumerate(raw, start=1)]
    _check_distinct(table, rows)
    return rows


def _read_csv(path: Path) -> list[Row]:
    try:
        return list(read_csv(path, AGAIN))
    except FileError as error:
        raise ResultsError(str(error)) from None


def _read_parquet(path: Path) -> list[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ResultsError(f"reading {path} needs pyarrow: pip install 'prune-gym[parquet]'") from None
    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
        return verified(rows, path, AGAIN)
    except FileError as error:
        raise ResultsError(str(error)) from None
    except (ArrowException, OSError, ValueError, KeyError) as error:
        raise ResultsError(f"{path} is damaged or no Parquet file ({error})") from None


def _check_version(path: Path, rows: Sequence[Row]) -> None:
    for row in rows:
        found = row.get("schema_version")
        if str(found) != str(SCHEMA_VERSION):
            what = "carries no schema version" if found in (None, "") else f"has schema version {found}"
            raise ResultsError(
                f"{path} {what}, this version of the project reads {SCHEMA_VERSION}; use the version that wrote it, or "
                "move it away and let the sweep write it again"
            )


def _typed(path: Path, number: int, row: Mapping[str, Any]) -> Row:
    typed: Row = {}
    for column, kind in COLUMNS.items():
        value = row.get(column)
        if value is None or value == "":
            raise ResultsError(f"{path}, row {number}: the value of {column!r} is missing")
        try:
            typed[column] = kind(value)
        except ValueError:
            raise ResultsError(f"{path}, row {number}: {column!r} is no {kind.__name__}: {value!r}") from None
        if kind is float and not math.isfinite(typed[column]):
            raise ResultsError(f"{path}, row {number}: {column!r} is {value}, not a finite number")
    for column in JSON_COLUMNS:
        if not _is_json_object(typed[column]):
            raise ResultsError(f"{path}, row {number}: {column!r} is no JSON object: {typed[column]!r}")
    return typed


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _check_distinct(path: Path, rows: Sequence[Row]) -> None:
    first: dict[tuple[Any, ...], int] = {}
    for number, row in enumerate(rows, start=1):
        if first.setdefault(run_key(row), number) != number:
            raise ResultsError(f"{path}: rows {first[run_key(row)]} and {number} are both the run {run_key(row)}")


GROUP = ("task", "target_flops_reduction", "method")


def summary_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Means (and standard deviations) over seeds.

    Args:
        results: contents of ``result.json`` files.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        groups[tuple(result[key] for key in GROUP)].append(result)
    columns: Columns = (
        *("task", Column("target", "g", scale=100), Column("method", align="left"), "seeds"),
        percent_column("FLOPs removed", 1),
        *map(percent_column, ("dense", "one-shot", "reconstructed", "fine-tuned")),
        "plans measured",
    )
    lines = [
        [
            *(task, target, method, len(rows)),
            statistics.mean(row["flops_reduction"] for row in rows),
            *(Spread.of([row[network]["accuracy"] for row in rows]) for network in NETWORKS),
            statistics.mean(row["search"]["measured_evaluations"] for row in rows),
        ]
        for (task, target, method), rows in sorted(groups.items())
    ]
    return Table("", columns, lines, "test accuracy and FLOPs removed, %; ± standard deviation over seeds")

"""The table of measured plans: one Parquet file, a row a network and plan."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hessian.support.files import CHECKSUM_KEY, sha256_of, write_atomic
from prune_gym.cost.limits import FloatArray, IntArray

if TYPE_CHECKING:
    import pyarrow

PLANS_FILE = Path(__file__).resolve().parents[1] / "assets" / "bench" / "plans.parquet"
"""Plans of the package."""

SOURCES = ("knapsack", "uniform", "perturbed", "random", "search")
"""Ways a plan was found."""

METRIC_COLUMNS = ("top1", "soft", "loss")
TEST_COLUMNS = tuple(f"test_{name}" for name in METRIC_COLUMNS)
RECONSTRUCTED_COLUMNS = (
    "reconstructed_top1",
    "reconstructed_soft",
    "reconstructed_test_top1",
    "reconstructed_test_soft",
)


@dataclass(frozen=True, eq=False)
class NetworkPlans:
    """Measured plans of one network.

    Attributes:
        network: its name.
        kept: int64 [N, L], kept units.
        source: how each was found, one of :data:`SOURCES`.
        target: float64 [N], FLOPs reduction it was made for.
        flops_reduction: float64 [N], the one it has.
        params_reduction: float64 [N], the same of parameters.
        metrics: float64 [N, 3], accuracy, soft accuracy and loss on the reward split.
        test_metrics: float64 [N, 3], the same on the test split.
        layer_errors: float64 [N, L], relative error of every layer's outputs that the refit reports; NaN where none.
        reconstructed: float64 [N, 4], accuracy and soft accuracy on the reward split after reconstruction, then on
            test; NaN where not measured.

    Raises:
        ValueError: arrays of lengths that do not fit, or numbers out of their range.
    """

    network: str
    kept: IntArray
    source: tuple[str, ...]
    target: FloatArray
    flops_reduction: FloatArray
    params_reduction: FloatArray
    metrics: FloatArray
    test_metrics: FloatArray
    layer_errors: FloatArray
    reconstructed: FloatArray

    def __post_init__(self) -> None:
        _check(self)

    def __len__(self) -> int:
        return len(self.kept)

    def select(self, rows: Any) -> NetworkPlans:
        """Some of the plans: an index array, a mask or a slice."""
        chosen = np.arange(len(self))[rows]
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        taken = {name: value[chosen] for name, value in own.items() if isinstance(value, np.ndarray)}
        return NetworkPlans(self.network, source=tuple(self.source[i] for i in chosen), **taken)


PlanTable = Mapping[str, NetworkPlans]
"""Network's name -> its measured plans."""


def _check(plans: NetworkPlans) -> None:
    def need(fits: Any, what: str) -> None:
        if not fits:
            raise ValueError(f"plans of network {plans.network!r}: {what}")

    count = len(plans.kept)
    need(plans.kept.ndim == 2 and plans.kept.shape[1] >= 1, "kept is a table, a plan a row")
    need((plans.kept >= 1).all(), "every layer keeps a unit")
    need(len(plans.source) == count and set(plans.source) <= set(SOURCES), f"a source is one of {', '.join(SOURCES)}")
    for name in ("target", "flops_reduction", "params_reduction"):
        values = getattr(plans, name)
        need(values.shape == (count,) and ((values >= 0.0) & (values < 1.0)).all(), f"{name} lies in [0, 1)")
    for name in ("metrics", "test_metrics"):
        values = getattr(plans, name)
        need(values.shape == (count, 3), f"{name} has three columns")
        need(((values[:, :2] >= 0.0) & (values[:, :2] <= 1.0)).all(), f"accuracies of {name} lie in [0, 1]")
        need((np.isfinite(values[:, 2]) & (values[:, 2] >= 0.0)).all(), f"losses of {name} are at least 0")
    errors, after = plans.layer_errors, plans.reconstructed
    need(errors.shape == plans.kept.shape and (np.isnan(errors) | (errors >= 0.0)).all(), "layer errors are at least 0")
    need(after.shape == (count, 4), "reconstructed has four columns")
    need((np.isnan(after) | ((after >= 0.0) & (after <= 1.0))).all(), "reconstructed accuracies lie in [0, 1]")


def write_plans(path: str | os.PathLike[str], plans: Iterable[NetworkPlans]) -> Path:
    """Write measured plans to a file, whole or not at all, with a checksum over what they say.

    Args:
        path: file to write, by convention ``plans.parquet``.
        plans: of different networks; sorted by name in the file.

    Returns:
        The path written.

    Raises:
        ImportError: pyarrow is missing.
        ValueError: two entries of one network.
    """
    arrow, parquet = _parquet()
    ordered = sorted(plans, key=lambda entry: entry.network)
    if len({entry.network for entry in ordered}) != len(ordered):
        raise ValueError("plans of one network are one entry; some network comes twice")
    table = arrow.concat_tables([_rows(arrow, entry) for entry in ordered])
    table = table.replace_schema_metadata({CHECKSUM_KEY: digest(ordered)})
    buffer = arrow.BufferOutputStream()
    parquet.write_table(table, buffer, compression="zstd", compression_level=19, use_dictionary=["network", "source"])
    return write_atomic(path, buffer.getvalue().to_pybytes())


def digest(plans: Iterable[NetworkPlans]) -> str:
    """Digest of plans as a file holds them, 64 hexadecimal digits."""
    content = {}
    for entry in plans:
        own = {field.name: getattr(entry, field.name) for field in fields(entry)}
        arrays = {name: value for name, value in own.items() if isinstance(value, np.ndarray)}
        # The file has 32 bits a number; what is missing has many forms as bytes, and one as a number.
        numbers = {name: np.nan_to_num(array.astype(np.float32), nan=-1.0) for name, array in arrays.items()}
        rows = {name: [list(array.shape), array.tobytes()] for name, array in numbers.items()}
        content[entry.network] = {**rows, "source": list(entry.source)}
    return sha256_of(content)


def _rows(arrow: Any, plans: NetworkPlans) -> pyarrow.Table:
    single, lists = arrow.float32(), arrow.list_(arrow.float32())
    count = len(plans)
    columns = {
        "network": arrow.array([plans.network] * count, arrow.string()),
        "kept": arrow.array(list(plans.kept.astype(np.int16)), arrow.list_(arrow.int16())),
        "source": arrow.array(list(plans.source), arrow.string()),
    }
    for name in ("target", "flops_reduction", "params_reduction"):
        columns[name] = arrow.array(getattr(plans, name), single)
    for names, values in ((METRIC_COLUMNS, plans.metrics), (TEST_COLUMNS, plans.test_metrics)):
        columns |= {name: arrow.array(values[:, i], single) for i, name in enumerate(names)}
    known = [bool(np.isfinite(row).any()) for row in plans.layer_errors]
    errors = [row.astype(np.float32) if has else None for row, has in zip(plans.layer_errors, known, strict=True)]
    columns["layer_errors"] = arrow.array(errors, lists)
    after = plans.reconstructed
    columns |= {n: arrow.array(after[:, i], single, from_pandas=True) for i, n in enumerate(RECONSTRUCTED_COLUMNS)}
    return arrow.table(columns)


def load_plans(path: str | os.PathLike[str] | None = None) -> PlanTable:
    """The measured plans of a file, by network.

    Args:
        path: file of :func:`write_plans`; None means the package's.

    Raises:
        ImportError: pyarrow is missing.
        FileNotFoundError: there is no such file.
        ValueError: it is no Parquet file, lacks a column, has numbers out of their range, or does not match its
            checksum.
    """
    arrow, parquet = _parquet()
    path = PLANS_FILE if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no measured plans at {path}; python -m benchmarks.studies.bench makes them")
    try:
        table = parquet.read_table(path)
        columns = set(table.column_names)  # names that are no UTF-8 are read like others, until somebody asks for them
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is no Parquet file ({error})") from error
    needed = ("network", "kept", "source", "target", "flops_reduction", "params_reduction", "layer_errors")
    missing = {*needed, *METRIC_COLUMNS, *TEST_COLUMNS, *RECONSTRUCTED_COLUMNS} - columns
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(sorted(missing))}")
    found = {}
    try:
        names = np.array(table["network"].to_pylist())
        for name in sorted(set(names.tolist())):
            found[name] = _plans(name, table.take(np.flatnonzero(names == name)))
    except (ValueError, TypeError, arrow.ArrowException) as error:
        raise ValueError(f"{path}: {error}") from error
    expected = (table.schema.metadata or {}).get(CHECKSUM_KEY.encode(), b"")
    if digest(found.values()).encode() != expected:
        raise ValueError(f"{path} does not match its checksum: it was changed or damaged")
    return found


def _plans(name: str, rows: pyarrow.Table) -> NetworkPlans:
    def column(label: str) -> FloatArray:
        return np.array(rows[label].to_numpy(), dtype=np.float64)

    def columns(labels: tuple[str, ...]) -> FloatArray:
        return np.stack([column(label) for label in labels], axis=-1)

    kept = np.array(rows["kept"].to_pylist(), dtype=np.int64)
    blank = [float("nan")] * kept.shape[1]
    errors = [row if row is not None else blank for row in rows["layer_errors"].to_pylist()]
    return NetworkPlans(
        network=name,
        kept=kept,
        source=tuple(rows["source"].to_pylist()),
        target=column("target"),
        flops_reduction=column("flops_reduction"),
        params_reduction=column("params_reduction"),
        metrics=columns(METRIC_COLUMNS),
        test_metrics=columns(TEST_COLUMNS),
        layer_errors=np.array(errors, dtype=np.float64),
        reconstructed=columns(RECONSTRUCTED_COLUMNS),
    )


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("the table of plans is a Parquet file: pip install 'prune-gym[parquet]'") from error
    return pyarrow, parquet

"""The files of the bench, of all networks that are measured: what the package ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.errors import CommandError
from benchmarks.studies.bench.datasheet import datasheet
from benchmarks.studies.engine.store import CellFiles
from benchmarks.studies.engine.study import Result
from hessian.support.files import write_atomic
from prune_gym.bench.description import Description
from prune_gym.bench.networks import NETWORKS_FILE, BenchNetwork, write_networks
from prune_gym.bench.plans import PLANS_FILE, NetworkPlans, write_plans
from prune_gym.bench.problem import BenchProblem
from prune_gym.bench.protocol import best_known, reachable
from prune_gym.bench.surrogate import Surrogate
from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.cost.quadratic import QuadraticCost

MOST_BYTES = 10_000_000
"""Size of the files together, at most."""

DATASHEET = "datasheet.md"
"""File that describes the table."""

KNOWN = 10
"""Best measured plans that the search for a reference begins from."""


class TooLargeError(CommandError, ValueError):
    """The files are larger than a package may carry."""


def build_files(folder: Path, to: Path | None) -> int:
    """Write ``networks.safetensors``, ``plans.parquet`` and ``datasheet.md`` of the finished cells.

    Args:
        folder: of the study.
        to: where files go; None: into the package.

    Returns:
        Exit code 0.

    Raises:
        ValueError: no cell is finished.
        TooLargeError: the files are larger than :data:`MOST_BYTES`.
    """
    from rich.console import Console

    from benchmarks.studies.engine.running import say

    cells = CellFiles(folder).finished()
    if not cells:
        raise ValueError(f"{folder} has no measured network; run `measure` first")
    console = Console()
    plans = [plans_of(cell) for cell in cells]
    networks = []
    for cell, measured in zip(cells, plans, strict=True):
        networks.append(network_of(cell, measured))
        fitted = networks[-1].surrogate
        assert fitted is not None
        say(console, f"[{len(networks)}/{len(cells)}] {cell['name']}: Spearman {fitted.spearman[1]:.3f}")
    place = NETWORKS_FILE.parent if to is None else to
    written = [write_networks(place / NETWORKS_FILE.name, networks), write_plans(place / PLANS_FILE.name, plans)]
    size = sum(path.stat().st_size for path in written)
    write_atomic(place / DATASHEET, datasheet(networks, plans, cells, size))
    say(console, f"{len(networks)} networks, {sum(map(len, plans))} plans, {size / 1e6:.1f} MB: {place}")
    if size > MOST_BYTES:
        raise TooLargeError(f"the files have {size:,} bytes; {MOST_BYTES:,} are allowed")
    return 0


def plans_of(cell: Result) -> NetworkPlans:
    """The measured plans of a cell, as precise as the file keeps them."""
    plans, kept = cell["plans"], np.array(cell["plans"]["kept"], dtype=np.int64)
    return NetworkPlans(
        network=cell["name"],
        kept=kept,
        source=tuple(plans["source"]),
        target=_single(plans["target"]),
        flops_reduction=_single(plans["flops_reduction"]),
        params_reduction=_single(plans["params_reduction"]),
        metrics=_single(plans["reward"]),
        test_metrics=_single(plans["test"]),
        layer_errors=_single(plans["layer_errors"]),
        reconstructed=_reconstructed(cell["reconstructed"], len(kept)),
    )


def _single(values: Any) -> FloatArray:
    """Numbers rounded to single precision, in double."""
    return np.array(values, dtype=np.float32).astype(np.float64)


def _reconstructed(scores: Mapping[str, Any] | None, count: int) -> FloatArray:
    """Accuracy and soft accuracy on reward, then on test, [count, 4]; NaN where not measured."""
    table = np.full((count, 4), np.nan)
    if scores is not None:
        reward, test = _single(scores["reward"]), _single(scores["test"])
        table[scores["rows"]] = np.concatenate([reward[:, :2], test[:, :2]], axis=1)
    return table


def network_of(cell: Result, plans: NetworkPlans) -> BenchNetwork:
    """The network of a cell with a surrogate of its plans, and the best plans the surrogate knows."""
    dense = np.array(cell["dense"])
    bare = BenchNetwork(
        description=Description(
            **{name: cell[name] for name in ("name", "kind", "split", "held_out_kind", "dataset", "recipe")},
            seed=0,
            input_shape=tuple(cell["input_shape"]),
            layer_names=tuple(cell["layer_names"]),
            default_target=cell["default_target"],
        ),
        units=np.array(cell["units"], dtype=np.int64),
        curves=tuple(_single(curve) for curve in cell["curves"]),
        features=np.array(cell["features"]),
        flops_form=_form(cell["flops_form"]),
        params_form=_form(cell["params_form"]),
        dense=dense,
    )
    surrogate = Surrogate.fit(bare.curves, plans.kept, plans.metrics, dense[:3])
    fitted = BenchNetwork(**{**vars(bare), "surrogate": surrogate})
    problem = BenchProblem(fitted)
    references = {target: best_known(problem, target, _best_measured(plans, target)) for target in reachable(fitted)}
    return BenchNetwork(**{**vars(fitted), "references": references})


def _form(form: Mapping[str, Any]) -> QuadraticCost:
    return QuadraticCost(float(form["constant"]), np.array(form["linear"]), np.array(form["pairwise"]))


def _best_measured(plans: NetworkPlans, target: float) -> Sequence[IntArray]:
    """The plans of the highest soft accuracy among those that meet a target, best first."""
    meets = np.flatnonzero(plans.flops_reduction >= target)
    ranked = meets[np.argsort(-plans.metrics[meets, 1], kind="stable")]
    return list(plans.kept[ranked[:KNOWN]])

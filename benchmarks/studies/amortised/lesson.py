"""The lesson: all variants are taught, the best on the validation networks is chosen, and both are written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from agents.amortised.examples import Examples
from agents.amortised.storage import save_model
from benchmarks.common.columns import Column
from benchmarks.common.provenance import write_result
from benchmarks.common.table import Table
from benchmarks.studies.amortised.family import Family
from benchmarks.studies.amortised.teaching import VARIANTS, as_rows, choose_trust, quality, teach


def lesson(family: Family, out: Path, to: Path | None, seed: int) -> int:
    """Teach all variants on the training networks.

    Args:
        family: with training and validation networks.
        out: folder of ``linear.safetensors``, ``amortised.safetensors`` and ``lesson.json``.
        to: file of the chosen model, beside that.
        seed: of weights and dropout.

    Returns:
        Exit code 0.

    Raises:
        ValueError: a split without networks.
    """
    names = {split: family.names(split) for split in ("train", "validation")}
    for split, found in names.items():
        if not found:
            raise ValueError(f"the bench has no measured networks in split {split!r}; measure some first")
    examples = {split: Examples(family.measured(found)) for split, found in names.items()}
    console, problems = Console(), [family.problem(name) for name in names["validation"]]
    qualities, models, trusts = {}, {}, {}
    for variant in VARIANTS:
        models[variant] = teach(variant, examples["train"], names["train"], seed)
        qualities[variant] = quality(models[variant], examples["validation"])
        trusts[variant] = choose_trust(models[variant], problems)
    chosen = max(trusts, key=lambda variant: max(trusts[variant].values()))
    console.print(_table(models, qualities, trusts, chosen).rich())
    save_model(models["linear"], out / "linear.safetensors")
    for path in (out / "amortised.safetensors", *([to] if to is not None else [])):
        save_model(models[chosen], path)
    write_result(
        out / "lesson.json",
        {
            "networks": names,
            "validation": as_rows(qualities),
            "parameters": {name: model.parameter_count for name, model in models.items()},
            "first_plan_scores": {name: {str(t): s for t, s in found.items()} for name, found in trusts.items()},
            "chosen": chosen,
        },
    )
    return 0


def _table(models: dict[str, Any], qualities: dict[str, Any], trusts: dict[str, Any], chosen: str) -> Table:
    columns = (
        "variant",
        "parameters",
        "CPU s",
        Column("rank correlation", ".3f"),
        Column("gain", ".2f"),
        "trust",
        Column("first plans", ".2f"),
    )
    rows = [
        [
            name + (" *" if name == chosen else ""),
            models[name].parameter_count,
            models[name].trained_on["cpu_seconds"],
            found.rank_correlation,
            found.gain,
            models[name].trust,
            max(trusts[name].values()),
        ]
        for name, found in qualities.items()
    ]
    summed = next(iter(qualities.values())).summed
    return Table("Validation networks", columns, rows, f"summed predicted losses: rank correlation {summed:.3f}")

"""The lesson: models are taught on the training networks, and judged on the validation networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from agents.amortised.examples import Examples
from agents.amortised.model import AmortisedModel
from agents.amortised.storage import save_model
from benchmarks.common.columns import Column
from benchmarks.common.provenance import write_result
from benchmarks.common.table import Table
from benchmarks.studies.amortised.family import Family
from benchmarks.studies.amortised.teaching import VARIANTS, Quality, quality, teach


def lesson(family: Family, out: Path, to: Path | None, seed: int) -> int:
    """Teach all variants on the training networks.

    Args:
        family: with training and validation networks.
        out: folder of a ``.safetensors`` file a variant and of ``lesson.json``.
        to: file of the model with attention, beside that.
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
    models = {variant: teach(variant, examples["train"], names["train"], seed) for variant in VARIANTS}
    qualities = {variant: quality(model, examples["validation"]) for variant, model in models.items()}
    Console().print(lesson_table(models, qualities).rich())
    for variant, model in models.items():
        save_model(model, out / f"{variant}.safetensors")
    if to is not None:
        save_model(models["attention"], to)
    content = {
        variant: {"parameters": model.parameter_count, **model.trained_on, "validation": asdict(qualities[variant])}
        for variant, model in models.items()
    }
    write_result(out / "lesson.json", {"validation_networks": names["validation"], "variants": content})
    return 0


def lesson_table(models: Mapping[str, AmortisedModel], qualities: Mapping[str, Quality]) -> Table:
    """The table of what models know of the validation networks."""
    columns = ("model", "parameters", "CPU s", Column("rank correlation", ".3f"), Column("gain", ".2f"))
    rows = [
        [
            name,
            models[name].parameter_count,
            models[name].trained_on["cpu_seconds"],
            found.rank_correlation,
            found.gain,
        ]
        for name, found in qualities.items()
    ]
    summed = next(iter(qualities.values())).summed
    return Table("Validation networks", columns, rows, f"summed predicted losses: rank correlation {summed:.3f}")

"""Parts that an ablation takes away, one a variant: nothing but keys of the configuration change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.settings.methods import METHODS
from benchmarks.settings.reading import load_config
from benchmarks.settings.schema import Config
from benchmarks.settings.source import ConfigError

if TYPE_CHECKING:
    from benchmarks.studies.engine.run_folders import RunCell

FULL = "full"
"""The variant the others are compared with: the configuration as it is."""

_MAGNITUDE = "pruning.hobs.selection=magnitude"
_NO_REFIT = "pruning.hobs.refit=none"
_UNIFORM = "pruning.method=hobs-uniform"
_NO_KD = "pruning.finetune.distillation.weight=0.0"
_FIXED_LAMBDA = "pruning.rspar.tau=0.0"


def _always_matters(_: Config) -> str | None:
    return None


@dataclass(frozen=True)
class Variant:
    """One row of the ablation.

    Attributes:
        name: what users write.
        summary: what is different, for tables.
        overrides: ``KEY=VALUE`` strings laid over the configuration.
        without_effect: says why the variant would be the full run all the same under a configuration, or None.
    """

    name: str
    summary: str
    overrides: tuple[str, ...] = ()
    without_effect: Callable[[Config], str | None] = _always_matters


def _lambda_is_inert(config: Config) -> str | None:
    if config.pruning.constraint == "hard":
        return "under pruning.constraint=hard every plan meets the target and lambda weighs nothing; set it to soft"
    if not METHODS[config.pruning.method].searches:
        return f"{config.pruning.method} does not search, so there is no reward for lambda to be in"
    return None


def _nothing_is_tuned(config: Config) -> str | None:
    return "pruning.finetune.epochs is 0, so nothing is distilled" if config.pruning.finetune.epochs == 0 else None


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(FULL, "H-OBS, R-SPAR, distillation"),
        Variant("no_hessian", "magnitude order, no refit, no curvature anywhere", (_MAGNITUDE, _NO_REFIT)),
        Variant("no_refit", "H-OBS order, weights not refitted", (_NO_REFIT,)),
        Variant("no_rl", "uniform budgets instead of R-SPAR's", (_UNIFORM,)),
        Variant("no_kd", "fine-tuned on labels alone", (_NO_KD,), _nothing_is_tuned),
        Variant("no_adaptive", "lambda fixed instead of adaptive", (_FIXED_LAMBDA,), _lambda_is_inert),
        Variant("baseline", "none of them", (_MAGNITUDE, _NO_REFIT, _UNIFORM, _NO_KD, _FIXED_LAMBDA)),
    )
}


@dataclass(frozen=True)
class Plan:
    """The variants of one configuration.

    Attributes:
        configs: variant -> its whole configuration; all share seeds, target and fine-tuning.
        left_out: variant -> why it would change nothing.
        folder: where the results of all of them go.
    """

    configs: dict[str, Config]
    left_out: dict[str, str]
    folder: Path

    def cells(self, name: str) -> list[RunCell]:
        """Return the runs of a variant, one a seed."""
        from benchmarks.studies.engine.run_folders import RunCell

        config = self.configs[name]
        return [RunCell(f"{name}/seed_{seed}", config, seed) for seed in config.experiment.random_seeds]


def plan_ablation(path: str | Path, overrides: Sequence[str] = ()) -> Plan:
    """Lay every variant over a configuration.

    Args:
        path: YAML file.
        overrides: ``KEY=VALUE`` strings for all variants.

    Raises:
        FileNotFoundError: no such file.
        ConfigError: a wrong key or value, or a method that no part can be taken from.
    """
    base = load_config(path, overrides)
    if base.pruning.method not in METHODS:
        raise ConfigError(
            f"'pruning.method': an ablation takes parts of H-OBS and of its search away, and {base.pruning.method!r} "
            f"has neither; choose one of {', '.join(METHODS)}"
        )
    folder = base.experiment.save_dir.expanduser() / "ablation"
    configs, left_out = {}, {}
    for variant in VARIANTS.values():
        config = load_config(path, [*overrides, *variant.overrides])
        reason = _why_same(variant, config, base)
        if reason is not None:
            left_out[variant.name] = reason
            continue
        placed = {"save_dir": folder / variant.name, "name": f"{base.experiment.name}, {variant.name}"}
        configs[variant.name] = config.model_copy(update={"experiment": base.experiment.model_copy(update=placed)})
    return Plan(configs, left_out, folder)


def _why_same(variant: Variant, config: Config, base: Config) -> str | None:
    if variant.name == FULL:
        return None
    reason = variant.without_effect(base)
    if reason is None and not config.differences(base):
        reason = f"the configuration has {' '.join(variant.overrides)} already"
    return reason

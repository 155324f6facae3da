"""The configuration of a run: one typed tree, validated once at the door.

Every key has a type, a default and a meaning; the docstring below a field is its reference text. An unknown or
ill-typed key is an error that names the key's path, where it was set, and the nearest valid key.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from benchmarks.config_source import ConfigError, ConfigSource, KeyPath, dotted
from prune_gym.reward import LAMBDA_0, TAU

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
FilePath = Annotated[Path, Field(strict=False)]


class Section(BaseModel):
    """Base of every section: immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ModelConfig(Section):
    """Which network is pruned."""

    name: Name
    """Network name, e.g. ``resnet20``; together with ``dataset.name`` it names the task."""
    pretrained: bool = True
    """Start from the trained weights that come with the task."""
    num_classes: Count | None = None
    """Number of classes; checked against the task when given."""


class DatasetConfig(Section):
    """Which images it is pruned for."""

    name: Name
    """Data set name, e.g. ``digits``; together with ``model.name`` it names the task."""
    data_dir: FilePath | None = None
    """Folder of the data, for tasks that read one."""
    image_size: Count | None = None
    """Height and width of an input in pixels; checked against the task when given."""


class HOBSConfig(Section):
    """How removing a channel is priced."""

    use_kfac: bool = True
    """Kronecker-factored curvature; false asks for exact second derivatives (small networks only)."""
    damping: Positive = 1e-3
    """Damping of the curvature, relative to the factors' mean diagonal."""
    num_batches_sensitivity: Count = 10
    """Batches of the calibration split the curvature is estimated from."""


class RSPARConfig(Section):
    """How the budgets are searched: the agent's training, and what every search may spend."""

    num_episodes: Count = 100
    """Episodes of training; with the default horizon of one move also the most plans a search may measure."""
    hidden_dim: Count = 256
    """Width of the policy and value networks."""
    learning_rate: Positive = 3e-4
    """Step size of the policy's optimizer (Adam)."""
    gamma: Fraction = 0.99
    """Discount factor of the return."""
    lambda_0: NonNegative = LAMBDA_0
    """Weight of a missed FLOPs target in the reward for a plan as good as the dense network."""
    tau: NonNegative = TAU
    """How fast lambda(t) = lambda_0 exp(-tau * accuracy drop) falls when pruning hurts; 0 keeps lambda fixed."""


class DistillationConfig(Section):
    """How the dense network teaches the pruned one."""

    temperature: Positive = 4.0
    """Softening of both networks' logits."""
    weight: Fraction = 0.9
    """Share of the distillation loss; the labels' cross-entropy has the rest. 0 trains on labels alone."""


class FinetuneConfig(Section):
    """How the pruned network is trained after surgery."""

    epochs: Annotated[int, Field(ge=0)] = 10
    """Passes over the dense-train split; 0 leaves the network as the surgery made it."""
    learning_rate: Positive = 0.02
    """Peak learning rate."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Images a step."""
    distillation: DistillationConfig = DistillationConfig()
    """Knowledge distillation from the dense network."""


class PruningConfig(Section):
    """What is removed and how the budgets are found."""

    method: Name = "hobs-rspar"
    """How the budgets are found: ``hobs-rspar``, ``hobs-knapsack``, ``hobs-uniform`` or ``random``."""
    target_flops_reduction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Fraction of the FLOPs to remove, in (0, 1); absent means the task's own default target."""
    max_pruning_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Largest fraction of a single layer's channels that may go."""
    constraint: Literal["soft", "hard"] = "soft"
    """How the search treats the target: ``soft`` penalises a miss, ``hard`` projects every plan onto it."""
    hobs: HOBSConfig = HOBSConfig()
    """How removing a channel is priced."""
    rspar: RSPARConfig = RSPARConfig()
    """How the budgets are searched."""
    finetune: FinetuneConfig = FinetuneConfig()
    """How the pruned network is trained after surgery."""


class ExperimentConfig(Section):
    """Where the results go and which seeds run."""

    name: Name
    """Title of the run in tables and plots."""
    save_dir: FilePath = Path("results")
    """Folder of the results; every seed gets a folder ``seed_<n>`` in it."""
    random_seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)] = (42,)
    """One full run per seed."""

    @field_validator("random_seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"must name each seed once, got {list(seeds)}")
        return seeds


class Config(Section):
    """A whole run."""

    model: ModelConfig
    """Which network is pruned."""
    dataset: DatasetConfig
    """Which images it is pruned for."""
    pruning: PruningConfig = PruningConfig()
    """What is removed and how the budgets are found."""
    experiment: ExperimentConfig
    """Where the results go and which seeds run."""

    @property
    def task_name(self) -> str:
        """Name of the task that ``dataset.name`` and ``model.name`` spell, e.g. ``"digits-resnet20"``."""
        return f"{self.dataset.name}-{self.model.name}"

    def to_yaml(self) -> str:
        """Return the resolved configuration, defaults included, as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def for_seed(self, seed: int) -> Config:
        """Return this configuration for one seed only."""
        experiment = self.experiment.model_copy(update={"random_seeds": (seed,)})
        return self.model_copy(update={"experiment": experiment})

    def differences(self, other: Config) -> list[str]:
        """Return what separates the results of two configurations, one line a key.

        Names, folders and the list of seeds decide where results go, not what they are; they are left out.
        """
        mine, theirs = _flatten(self.model_dump(mode="json")), _flatten(other.model_dump(mode="json"))
        return [
            f"{key}: {mine.get(key)!r} != {theirs.get(key)!r}"
            for key in sorted(mine.keys() | theirs.keys())
            if not key.startswith("experiment.") and mine.get(key) != theirs.get(key)
        ]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read, override and validate a configuration file.

    Args:
        path: YAML file.
        overrides: ``KEY=VALUE`` strings with dotted keys, applied in order.

    Raises:
        FileNotFoundError: no such file; the message lists those that exist.
        ConfigError: everything wrong with the keys and values, one line each.
    """
    source = ConfigSource.from_file(path)
    source.override(overrides)
    return validate_config(source)


def parse_config(text: str, overrides: Sequence[str] = (), name: str = "configuration") -> Config:
    """Like :func:`load_config`, for YAML text."""
    source = ConfigSource.from_yaml(text, name=name)
    source.override(overrides)
    return validate_config(source)


def validate_config(source: ConfigSource) -> Config:
    """Turn a parsed tree into the typed one.

    Raises:
        ConfigError: one line for each unknown, missing or ill-typed key, with where it was set.
    """
    try:
        config = Config.model_validate(source.tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(detail, source) for detail in error.errors())) from None
    _check_choices(config, source)
    return config


def valid_keys(section: type[BaseModel] = Config, prefix: KeyPath = ()) -> list[KeyPath]:
    """Return the path of every key of the tree, sections before what they hold."""
    paths: list[KeyPath] = []
    for name, info in section.model_fields.items():
        paths.append((*prefix, name))
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            paths.extend(valid_keys(info.annotation, (*prefix, name)))
    return paths


def nearest_key(path: KeyPath) -> KeyPath | None:
    """Return the valid key someone who wrote ``path`` most likely meant, or None if nothing is near.

    A misspelling in the same section wins; then the same or a similar word in another section.
    """
    keys = valid_keys()
    leaf = str(path[-1])
    siblings = {str(key[-1]): key for key in keys if key[:-1] == path[:-1]}
    close = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.6)
    if close:
        return siblings[close[0]]
    elsewhere: dict[str, KeyPath] = {}
    for key in keys:
        elsewhere.setdefault(str(key[-1]), key)
    close = difflib.get_close_matches(leaf, elsewhere, n=1, cutoff=0.7)
    return elsewhere[close[0]] if close else None


def _check_choices(config: Config, source: ConfigSource) -> None:
    """Refuse a method or a task that does not exist, before anything is loaded."""
    from benchmarks.methods import method_names
    from prune_gym.tasks import task_names

    problems = []
    if config.pruning.method not in method_names():
        where = source.origin(("pruning", "method"))
        problems.append(f"{where}: {_unknown('method', config.pruning.method, method_names())}")
    if config.task_name not in task_names():
        where = source.origin(("model", "name"))
        problems.append(
            f"{where}: dataset.name and model.name together name the task: "
            f"{_unknown('task', config.task_name, task_names())}"
        )
    if problems:
        raise ConfigError("\n".join(problems))


def _unknown(kind: str, given: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {kind} {given!r}; {hint}({kind}s: {', '.join(known)})"


def _explain(detail: ErrorDetails, source: ConfigSource) -> str:
    path: KeyPath = tuple(detail["loc"])
    key, where = dotted(path), source.origin(path)
    if detail["type"] == "extra_forbidden":
        near = nearest_key(path)
        siblings = ", ".join(str(key[-1]) for key in valid_keys() if key[:-1] == path[:-1])
        hint = f"did you mean {dotted(near)!r}? " if near else ""
        return f"{where}: unknown key {key!r}; {hint}(keys here: {siblings})"
    if detail["type"] == "missing":
        return f"{where}: the key {key!r} is missing"
    if detail["type"] in ("model_type", "model_attributes_type"):
        inside = ", ".join(str(known[-1]) for known in valid_keys() if known[:-1] == path)
        return f"{where}: {key!r} must be a section with the keys {inside}, got {detail['input']!r}"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    given = "" if "got" in message else f", got {detail['input']!r}"
    return f"{where}: {key!r} {message[0].lower()}{message[1:]}{given}"


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat

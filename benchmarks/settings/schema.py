"""The typed tree of a run's configuration.

Every key has a type, a default and a meaning; the text below a field is its reference. What is wrong with a file is
found and explained by :mod:`benchmarks.settings.reading`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

LAMBDA_0, TAU = 3.0, 1.0
"""Defaults of :class:`prune_gym.envs.reward.LambdaSchedule`, which would import PyTorch."""

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
    """The network that is pruned."""

    name: Name
    """Network name, e.g. ``resnet20``; together with ``dataset.name`` it names the task."""
    pretrained: bool = True
    """Start from the trained weights that come with the task."""
    num_classes: Count | None = None
    """Number of classes; checked against the task when given."""


class DatasetConfig(Section):
    """The images it is pruned for."""

    name: Name
    """Data set name, e.g. ``digits``; together with ``model.name`` it names the task."""
    data_dir: FilePath | None = None
    """Folder of the data, for tasks that read one."""
    image_size: Count | None = None
    """Height and width of an input in pixels: what images are resized to where the task can (ImageNet), else checked
    against the task."""
    reward_size: Count | None = None
    """Images of the reward split, for tasks that read files; absent: the task's own number."""
    calibration_size: Count | None = None
    """Images of the calibration split, for tasks that read files; absent: the task's own number."""


class HOBSConfig(Section):
    """Pricing and choice of channels, and repair of what stays."""

    use_kfac: bool = True
    """Kronecker-factored curvature; false asks for exact second derivatives (small networks only)."""
    damping: Positive = 1e-3
    """Damping of the curvature, relative to the factors' mean diagonal."""
    num_batches_sensitivity: Count = 10
    """Batches of the calibration split the curvature is estimated from."""
    selection: Literal["hobs", "magnitude"] = "hobs"
    """Order in which channels leave a layer: ``hobs``, elimination order; ``magnitude``, smallest filters first,
    and no curvature is measured at all: predictions and observations have none, searches start from equal ratios."""
    refit: Literal["sequential", "closed_form", "none"] = "sequential"
    """Repair of the surviving weights, both when a plan is measured and in the final network; ``none`` only
    recalibrates BatchNorm."""

    measured_after: Literal["refit", "reconstruction"] = "refit"
    """Stage after which a search measures its plans: the refit, or some forty more steps towards the dense network's
    outputs (three times as long, with ``refit: sequential`` only)."""
    judge: Literal["labels", "dense"] = "labels"
    """Judge of a search's plans on the reward split: ``labels``, or ``dense``, the dense network's outputs."""

    @model_validator(mode="after")
    def _measurable(self) -> HOBSConfig:
        if self.measured_after == "reconstruction" and self.refit != "sequential":
            raise ValueError("measures plans after a reconstruction, which follows refit: sequential only")
        return self

    @model_validator(mode="after")
    def _repairable(self) -> HOBSConfig:
        if self.selection == "magnitude" and self.refit == "closed_form":
            raise ValueError(
                "asks for a closed-form refit, which needs curvature, but selects by magnitude, which measures none; "
                "set refit to sequential or none"
            )
        return self


class RSPARConfig(Section):
    """Search for the budgets: the agent's training, and what every search may spend."""

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
    """Rate at which lambda(t) = lambda_0 exp(-tau * accuracy drop) falls when pruning hurts; 0 keeps lambda fixed."""
    initial_agent: FilePath | None = None
    """An agent to go on from, the ``agent.safetensors`` of another run: its policy's plan is measured first, and what
    its reward model learned on a network of as many layers is expected here; absent: one that knows nothing."""


class StepSettingConfig(Section):
    """One way to take the steps of a reconstruction."""

    learning_rate: Positive
    """Peak learning rate (Adam)."""
    batch_statistics: bool = True
    """Use the statistics of every batch in batch norms; false leaves them as they are."""


class ReconstructionConfig(Section):
    """Teaching of the pruned network by the dense one on images without labels, before fine-tuning."""

    steps: Annotated[int, Field(ge=0)] = 1000
    """Gradient steps of the setting that wins the race; 0 leaves the network as the surgery made it."""
    images: Annotated[int, Field(ge=20)] = 5000
    """Images of the dense-train split it learns from, drawn by the seed; a tenth is held out and decides what stays."""
    batch_size: Annotated[int, Field(ge=2)] = 32
    """Images a step."""
    temperature: Positive = 4.0
    """Softening of both networks' logits."""
    candidates: Annotated[tuple[StepSettingConfig, ...], Field(strict=False, min_length=1)] = (
        StepSettingConfig(learning_rate=4e-3),
        StepSettingConfig(learning_rate=1e-3, batch_statistics=False),
        StepSettingConfig(learning_rate=3e-4, batch_statistics=False),
    )
    """Settings that are raced by successive halving, which takes 0.45 times the steps more."""
    seconds: Positive | None = None
    """Time to stay within; steps are cut to what fits. The result then depends on the machine. Absent: all steps."""
    mixed_precision: bool = False
    """Compute forward passes in 16 bits where the device supports it."""


class DistillationConfig(Section):
    """Teaching of the pruned network by the dense one while it is fine-tuned."""

    temperature: Positive = 4.0
    """Softening of both networks' logits."""
    weight: Fraction = 0.9
    """Share of the distillation loss; the labels' cross-entropy has the rest. 0 trains on labels alone."""


class AugmentationConfig(Section):
    """Random changes of the training images that keep their label; the dense network's own are a good choice."""

    max_shift: NonNegative = 0.0
    """Largest shift along either axis, in pixels."""
    max_rotation: NonNegative = 0.0
    """Largest rotation either way, in degrees."""
    flip: bool = False
    """Mirror half of the images left to right."""


class FinetuneConfig(Section):
    """Training of the pruned network after surgery."""

    epochs: Annotated[int, Field(ge=0)] = 10
    """Passes over the dense-train split; 0 leaves the network as the surgery made it."""
    max_images: Count | None = None
    """Most images a pass uses, spread evenly over the dense-train split; absent: all of them."""
    learning_rate: Positive = 0.02
    """Peak learning rate."""
    race: Annotated[tuple[Positive, ...], Field(strict=False)] = ()
    """Peak learning rates that are raced, each for one pass over 5,000 images; the best on the reward split is used
    instead of ``learning_rate``. Empty: no race."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """``sgd`` with Nesterov momentum, or ``adam`` (AdamW), which wants smaller learning rates."""
    schedule: Literal["one_cycle", "cosine"] = "one_cycle"
    """``one_cycle`` goes up for a tenth of the steps, then half a cosine down; ``cosine`` starts at the peak."""
    weight_average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of a running average of the weights, which the network ends with; 0 takes the last weights."""
    block_weight: NonNegative = 0.0
    """Weight of matching every layer's outputs to the dense network's; 0 matches the network's outputs only."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Images a step."""
    distillation: DistillationConfig = DistillationConfig()
    """Knowledge distillation from the dense network."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Random changes of the training images."""


class PruningConfig(Section):
    """The channels to remove, and the search for their budgets."""

    method: Name = "hobs-rspar"
    """Method of pruning: ``hobs-rspar``, a search (``hobs-knapsack``, ``hobs-uniform``, ``hobs-gp``,
    ``hobs-cmaes``, ``hobs-cem``, ``hobs-annealing``, ``random``), or a published method
    (``python -c "import baselines; print(baselines.available())"``)."""
    target_flops_reduction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Fraction of the FLOPs to remove, in (0, 1); absent means the task's own default target."""
    max_pruning_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Largest fraction of a single layer's channels that may go."""
    constraint: Literal["soft", "hard"] = "soft"
    """Effect of the target on the search: ``soft`` penalises a miss, ``hard`` projects every plan onto it."""
    hobs: HOBSConfig = HOBSConfig()
    """Pricing and choice of channels, and repair of what stays."""
    rspar: RSPARConfig = RSPARConfig()
    """Search for the budgets."""
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    """Teaching of the pruned network by the dense one on images without labels, before fine-tuning."""
    finetune: FinetuneConfig = FinetuneConfig()
    """Training of the pruned network after surgery."""


class ExperimentConfig(Section):
    """Place of the results, and the seeds that run."""

    name: Name
    """Title of the run in tables and plots."""
    save_dir: FilePath = Path("results")
    """Folder of the results; every seed gets a folder ``seed_<n>`` in it."""
    random_seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)] = (42,)
    """One full run per seed."""
    num_threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads for PyTorch; absent: one a core, at most 8. Small networks are faster, and far steadier on a busy
    machine, with 1."""

    @field_validator("random_seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"must name each seed once, got {list(seeds)}")
        return seeds


class Config(Section):
    """A whole run."""

    model: ModelConfig
    """The network that is pruned."""
    dataset: DatasetConfig
    """The images it is pruned for."""
    pruning: PruningConfig = PruningConfig()
    """The channels to remove, and the search for their budgets."""
    experiment: ExperimentConfig
    """Place of the results, and the seeds that run."""

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


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat

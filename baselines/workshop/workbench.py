"""Workbench of every method: a private copy of the network, its layers, the images and the target, checked once."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from baselines.workshop.removal import Plan, RatioOf, Selection, Target, counts, make_target, to_plan
from baselines.workshop.taps import unit_mask
from hessian.channels.group import ChannelGroup
from hessian.channels.slicing import NetworkSlicer, installed
from hessian.support.batches import INPUT_KEYS, split_batch
from hessian.support.door import plain_model
from hessian.support.progress import Progress
from prune_gym.cost.model import CostModel
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.splits import TensorSplit, equal_parts
from prune_gym.support.device import module_device
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.training.fitting import Schedule, fit
from prune_gym.training.stepping import BatchLoss
from prune_gym.training.training import evaluate_model

NO_LABEL = -1


@dataclass
class Spent:
    """Resources a method used up.

    Attributes:
        images: images run forward through the network or a candidate.
        backward_passes: backward passes, one a minibatch.
        evaluations: distinct candidate plans whose accuracy was measured.
    """

    images: int = 0
    backward_passes: int = 0
    evaluations: int = 0


@dataclass(frozen=True, eq=False)
class Outcome:
    """Result that a method returns to the registry.

    Attributes:
        selection: one boolean array [num_units] a layer, True for the units that stay.
        model: a trained network of the dense structure whose channels are to be cut; None means the dense network
            itself.
        pruned: the network already cut, if the method had to; it then agrees with ``selection``.
        details: further findings, JSON-able.
    """

    selection: Selection
    model: nn.Module | None = None
    pruned: nn.Module | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class Workbench:
    """A network on the bench; everything a method needs, after all checks.

    Args:
        model: the trained network; never modified.
        dataloader: yields (images, labels) batches or is a split; read into memory.
        pruning_ratio: global share to remove, in [0, 1).
        ratio_of: share of the channels or of the FLOPs.
        needs_labels: whether batches must have labels.
        validation: images that candidate plans are scored on; the loader's own by default.
        seed: of everything random.
        batch_size: images a training step.
        max_pruning_ratio: largest share of a single layer that may go.
        ignored_layers: names of modules whose channels stay.
        augment: random changes of training images.
        progress: called with (description, done, total).

    Attributes:
        dense: private copy of the network in evaluation mode, all parameters trainable.
        data: the images, on the model's device; labels are -1 where there are none.
        validation: a split.
        groups: prunable layers in execution order.
        cost: FLOPs and parameters of plans.
        target: what to reach.
        spent: used up so far.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: see :func:`baselines.workshop.registry.register`.
    """

    def __init__(
        self,
        model: nn.Module,
        dataloader: TensorSplit | Iterable[Any],
        pruning_ratio: float = 0.5,
        *,
        ratio_of: RatioOf = "channels",
        needs_labels: bool = True,
        validation: TensorSplit | Iterable[Any] | None = None,
        seed: int = 0,
        batch_size: int = 32,
        max_pruning_ratio: float = 0.95,
        ignored_layers: Sequence[str] = (),
        augment: Augmentation | None = None,
        progress: Progress | None = None,
    ) -> None:
        model = plain_model(model)
        self.device = module_device(model)
        self.dense = copy.deepcopy(model).eval().requires_grad_(True)
        self.data = read_split(dataloader, self.device, needs_labels)
        self.validation = self.data if validation is None else read_split(validation, self.device, needs_labels)
        _check_batches(self.dense, self.data, batch_size)
        self.example = self.data.images[:1]
        self._pruner = PhysicalPruner(self.dense, self.example, ignored_layers=ignored_layers)
        self.groups: list[ChannelGroup] = self._pruner.groups
        self.cost = CostModel(self.groups, self.dense, self.example)
        self.target: Target = make_target(pruning_ratio, ratio_of, self.cost, max_pruning_ratio)
        self.modules: dict[str, Any] = dict(self.dense.named_modules())
        self.seed, self.batch_size, self.augment = seed, batch_size, augment
        self.ignored_layers = tuple(ignored_layers)
        self.max_pruning_ratio = max_pruning_ratio
        self.spent = Spent()
        self._progress = progress

    def report(self, description: str, done: int, total: int) -> None:
        """Tell how far a long step is."""
        if self._progress is not None:
            self._progress(description, done, total)

    def generator(self) -> torch.Generator:
        """A fresh CPU generator of the run's seed."""
        return torch.Generator().manual_seed(self.seed)

    def plan(self, selection: Selection) -> Plan:
        """Layer name -> removed channel indices."""
        return to_plan(self.groups, selection)

    def cut(self, selection: Selection, model: nn.Module | None = None) -> nn.Module:
        """The physically smaller network.

        Args:
            selection: units that stay.
            model: network of the dense structure to cut; the dense one by default.
        """
        pruner = self._pruner
        if model is not None:
            pruner = PhysicalPruner(model, self.example, ignored_layers=self.ignored_layers)
        return pruner.prune(self.plan(selection))

    def gates(self, selection: Selection) -> dict[str, Tensor]:
        """Layer name -> 0 or 1 a channel, float [size], for the layers that lose some, in execution order."""
        pairs = zip(self.groups, selection, strict=True)
        return {group.name: unit_mask(group, there).to(self.device) for group, there in pairs if not there.all()}

    def copy_dense(self) -> nn.Module:
        """A trainable copy of the dense network, in evaluation mode."""
        return copy.deepcopy(self.dense)

    def train(
        self,
        model: nn.Module,
        *,
        epochs: int,
        lr: float,
        loss_of: BatchLoss | None = None,
        weight_decay: float = 5e-4,
        description: str = "fine-tuning",
    ) -> None:
        """Train a network in place on the bench's images, as :mod:`prune_gym.training.fitting` does.

        Args:
            model: any network on the bench's device.
            epochs: passes over the images; 0 does nothing.
            lr: peak learning rate.
            loss_of: what is minimised; cross-entropy by default.
            weight_decay: L2 penalty of the weights.
            description: for progress.
        """
        if epochs <= 0:
            return

        def counted(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
            self.spent.images += len(labels)
            self.spent.backward_passes += 1
            return cross_entropy(logits, labels) if loss_of is None else loss_of(logits, labels, images)

        schedule = Schedule(epochs, lr, self.batch_size, weight_decay, momentum=0.9, warmup=0.1)
        fit(
            model,
            self.data,
            counted,
            schedule,
            augment=self.augment,
            seed=self.seed,
            progress=self._progress,
            description=description,
        )

    def minibatches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless shuffled, augmented minibatches of the images, (images, labels)."""
        generator = self.generator()
        while True:
            order = torch.randperm(len(self.data), generator=generator)
            for part in equal_parts(order, self.batch_size):
                batch = self.data.subset(part.to(self.device))
                yield (self.augment(batch.images, generator) if self.augment else batch.images), batch.labels


class Scorer:
    """Accuracy of candidate plans without repair: the network's weights sliced, run small, nothing rebuilt.

    Args:
        bench: gives images and layers, and is charged.
        model: the network whose weights are sliced, of the dense structure; the dense one by default.
    """

    def __init__(self, bench: Workbench, model: nn.Module | None = None) -> None:
        self._bench = bench
        self._model = copy.deepcopy(bench.dense if model is None else model).eval().requires_grad_(False)
        self._slicer = NetworkSlicer(copy.deepcopy(self._model), bench.groups)
        self._known: dict[bytes, float] = {}

    def accuracy(self, selection: Selection) -> float:
        """Top-1 on the bench's validation images, a fraction. Revisits are free."""
        key = b"".join(mask.tobytes() for mask in selection)
        if key not in self._known:
            cut = self._slicer.cut(self._bench.plan(selection))
            with torch.no_grad(), installed(self._model, cut.state(), cut.attributes):
                self._known[key] = evaluate_model(self._model, self._bench.validation).accuracy
            self._bench.spent.images += len(self._bench.validation)
            self._bench.spent.evaluations += 1
        return self._known[key]


def kept_counts(selection: Selection) -> list[int]:
    """Kept units of every layer as plain integers."""
    return [int(count) for count in counts(selection)]


def read_split(data: TensorSplit | Iterable[Any], device: torch.device, needs_labels: bool) -> TensorSplit:
    """A loader in memory.

    Raises:
        ValueError: nothing in it, labels needed and missing, or batches of another form.
    """
    if isinstance(data, TensorSplit):
        split = data
    else:
        pairs = [_inputs_and_labels(batch, needs_labels) for batch in data]
        pairs = [pair for pair in pairs if len(pair[0])]
        if not pairs:
            raise ValueError("the dataloader yields no images; at least one non-empty batch is needed")
        split = TensorSplit(torch.cat([images for images, _ in pairs]), torch.cat([labels for _, labels in pairs]))
    if len(split) == 0:
        raise ValueError("the dataloader yields no images; at least one non-empty batch is needed")
    return split.to(device)


def _inputs_and_labels(batch: Any, needs_labels: bool) -> tuple[Tensor, Tensor]:
    if isinstance(batch, Mapping) and not needs_labels:
        batch = next((batch[key] for key in INPUT_KEYS if key in batch), batch)
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        batch = batch[0]
    if isinstance(batch, Tensor):
        if needs_labels:
            raise ValueError(
                "this method needs labels, but the dataloader yields images alone; pass a loader of (images, labels)"
            )
        return batch, torch.full((len(batch),), NO_LABEL)
    if not needs_labels and isinstance(batch, (tuple, list)) and not isinstance(batch[1], Tensor):
        return _inputs_and_labels(batch[0], needs_labels)
    return split_batch(batch)


def _check_batches(model: nn.Module, data: TensorSplit, batch_size: int) -> None:
    """Refuse what batch norms cannot train on, whether or not this method trains: all methods then accept the same.

    Raises:
        ValueError: a batch size below 1, or batches of one image where the network has batch norms.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is a whole number of images, at least 1; got {batch_size!r}")
    has_norms = any(isinstance(module, _BatchNorm) for module in model.modules())
    if has_norms and min(batch_size, len(data)) < 2:
        given = f"batch_size={batch_size}" if batch_size < 2 else "a dataloader with a single image"
        raise ValueError(
            f"the network has batch norms, which have no variance over batches of one image, but got {given}; "
            "use at least 2"
        )

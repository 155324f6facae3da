"""Physical pruning: a pruning plan becomes a smaller network, or an error, never a broken one.

The cutting is done by torch-pruning's dependency graph (DepGraph, Fang et al., CVPR 2023) on a copy of the model. Its
result is not taken on trust: every tensor is compared with what the channel groups predict, sizes must agree
with weights, and the smaller network has to run forwards and backwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import nn

from hessian.channels.group import ChannelGroup, PinnedChannels, UnsupportedStructureError
from hessian.channels.slicing import NetworkSlicer
from hessian.discovery.discover import discover, layers_found
from hessian.refit.sequential import SequentialRefitter
from hessian.support.batches import Batch, read_batches, regrouped
from hessian.support.door import plain_model, undisturbed
from prune_gym.cost.limits import FloatArray
from prune_gym.data.splits import TensorSplit
from prune_gym.reconstruction.images import ImagesLike
from prune_gym.reconstruction.reconstruction import reconstruct as match_outputs
from prune_gym.reconstruction.settings import Reconstruction
from prune_gym.support.device import module_device, resolve_device
from prune_gym.surgery.auto_rounding import RoundedPlan, time_roundings
from prune_gym.surgery.cutting import check_against_prediction, remove_channels, surgery_failed
from prune_gym.surgery.plan import resolve_plan
from prune_gym.surgery.rounding import PlanRounder, RoundTo, check_round_to
from prune_gym.surgery.tracing import (
    check_devices,
    in_format_of,
    output_shapes,
    outputs,
    plain,
    random_image,
    restore_properties,
    sizes_depend_on_data,
    trainable_copy,
)
from prune_gym.training import batchnorm

if TYPE_CHECKING:
    from hessian.hobs import HOBSSensitivityAnalyzer

Refit: TypeAlias = Literal["none", "closed_form", "sequential"]
REFITS = ("none", "closed_form", "sequential")

_CALIBRATION_BATCH = 100


class PhysicalPruner:
    """Removes channels from a network for good.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> pruner = PhysicalPruner(model, torch.zeros(1, 3, 8, 8))
        >>> pruner.prune({"0": [1, 5, 6]})[0].out_channels
        5

    Args:
        model: The dense network; never modified. Wrappers (DataParallel, a compiled module) are taken off.
        example_input: A tensor, tuple of tensors or dict of keywords the model accepts, on the model's device; None
            means a random [1, 3, 224, 224].
        ignored_layers: Names (or modules) whose channels stay.
        damping: Relative damping of the refits' least-squares problems.

    Attributes:
        groups: The prunable layers, in execution order.
        pinned: Channels that stay, with the place and the reason.

    Raises:
        TypeError: If ``model`` is not a module, or one whose layers cannot be reached (`hessian.support.door`).
        ValueError: If the model is spread over devices or the example input is on another one, the model does not run
            on it, or the network has no prunable layer or a structure that cannot be cut consistently.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Any = None,
        *,
        ignored_layers: Sequence[str | nn.Module] = (),
        damping: float = 1e-3,
    ) -> None:
        self.model = model = plain_model(model)
        self._ignored = [_name_of(layer, model) for layer in ignored_layers]
        self._damping = damping
        with undisturbed(self.model):
            self.example_input = random_image(model) if example_input is None else plain(example_input)
            check_devices(model, self.example_input)
            scratch = trainable_copy(model)
            self._output_shapes = output_shapes(scratch, self.example_input)
            found = discover(scratch, self.example_input, self._ignored)
            self.groups: list[ChannelGroup] = layers_found(scratch, found)
            self.pinned: list[PinnedChannels] = found.pinned

    def resolve(self, plan: Mapping[str, Any]) -> dict[str, list[int]]:
        """Check a plan and key it by layer; see `prune_gym.surgery.plan.resolve_plan` for what is accepted."""
        return resolve_plan(plan, self.groups, self.model)

    def prune(
        self,
        plan: Mapping[str, Any],
        *,
        refit: Refit = "none",
        calibration: TensorSplit | Any | None = None,
        recalibrate_bn: bool | None = None,
        analyzer: HOBSSensitivityAnalyzer | None = None,
        round_to: RoundTo | None = None,
        device: str | int | torch.device | None = None,
        reconstruct: bool | Reconstruction = False,
        unlabelled: ImagesLike | None = None,
        seed: int = 0,
    ) -> nn.Module:
        """Return a smaller copy of the network.

        The copy keeps the model's memory format, every module's mode, every parameter's ``requires_grad``.

        Args:
            plan: Layer name -> removed channel indices. Any producer of a coupled layer may name it.
            refit: ``"none"`` keeps the surviving weights; ``"closed_form"`` repairs every consumer by the H-OBS least
                squares on the dense network's statistics; ``"sequential"`` solves the consumers in execution order
                against the dense network's outputs.
            calibration: Images for refit and batch-norm statistics, read into memory: a split, a tensor of images, a
                dataset, or a loader of images, (images, labels) pairs, dicts or several inputs
                (`hessian.support.batches`). Labels are not used.
            recalibrate_bn: Whether to re-estimate batch-norm statistics on the calibration images; None means yes
                when there are any, except after a sequential refit, which fits every layer to the statistics there
                are.
            analyzer: For ``refit="closed_form"``: curvature of this model computed before, instead of from
                ``calibration``. With ``round_to`` its elimination orders say which channels leave or return.
            round_to: Changes the plan first, so that pruned layers keep a multiple of so many channels: a number for
                the nearest multiple, ``"auto"`` for the fastest on this machine, see `rounded`; None for the plan as
                it is.
            device: Where the pruned network ends up; None means the model's device, where all work is done.
            reconstruct: Whether the pruned network is then trained, for seconds to minutes, to give the dense network's
                outputs (`prune_gym.reconstruction`); never to the worse. Settings say how.
            unlabelled: Images it is trained on, the more the better: a tensor, a split or batches, whose labels are not
                looked at; None takes the calibration images.
            seed: Of the reconstruction.

        Returns:
            The pruned network.

        Raises:
            TypeError: If the plan is not a mapping of names to integer indices.
            ValueError: If the plan is not legal (see `resolve`), ``refit``, ``round_to`` or ``device`` is unknown,
                calibration images are needed and missing, or torch-pruning does not cut what the plan says.
        """
        _check_request(refit, calibration is not None, recalibrate_bn, analyzer is not None)
        if reconstruct and unlabelled is None and calibration is None:
            raise ValueError("reconstruct needs images: pass unlabelled=<images> or calibration=<split or loader>")
        home = module_device(self.model) if device is None else resolve_device(device)
        resolved = self.resolve(plan) if round_to is None else self.rounded(plan, round_to, analyzer=analyzer)
        with undisturbed(self.model):
            images = None if calibration is None else _in_memory(calibration, module_device(self.model), self.model)
            pruned = self._cut(resolved)
            if refit == "closed_form":
                analyzer = self._analyzer(images) if analyzer is None else analyzer
                pruned.load_state_dict(analyzer.compensate(resolved))
            elif refit == "sequential":
                assert images is not None
                refitter = SequentialRefitter(self.model, self.groups, images, self._damping, store_bytes=0)
                pruned.load_state_dict(refitter.state(resolved))
            if images is not None and (recalibrate_bn or (recalibrate_bn is None and refit != "sequential")):
                batchnorm.recalibrate_bn(pruned, images)
            if reconstruct:
                settings = Reconstruction() if isinstance(reconstruct, bool) else reconstruct
                shown = _shown(images or ()) if unlabelled is None else unlabelled
                match_outputs(pruned, self.model, shown, settings, seed=seed)
        return pruned.to(home)

    def rounded(
        self, plan: Mapping[str, Any], round_to: RoundTo = "auto", *, analyzer: HOBSSensitivityAnalyzer | None = None
    ) -> dict[str, list[int]]:
        """Return a plan whose pruned layers keep rounded numbers of channels; what ``prune(round_to=...)`` cuts.

        Args:
            plan: Layer name -> removed channel indices.
            round_to: A number: kept channels go to the nearest multiple, at least one (narrower layers stay whole), and
                the FLOPs reduction follows. ``"auto"``: the fastest of `time_roundings`, whose FLOPs reduction is at
                least the plan's.
            analyzer: Whose elimination orders say which channels leave or return; None means by the norm of their
                filters.

        Raises:
            TypeError: If the plan is not a mapping of names to integer indices.
            ValueError: If the plan is not legal or ``round_to`` is neither a positive whole number nor ``"auto"``.
        """
        check_round_to(round_to)
        if round_to == "auto":
            return self.time_roundings(plan, analyzer=analyzer)[0].plan
        return self._rounder(analyzer).nearest(self.resolve(plan), int(round_to))

    def time_roundings(
        self,
        plan: Mapping[str, Any],
        *,
        analyzer: HOBSSensitivityAnalyzer | None = None,
        num_iterations: int = 20,
    ) -> list[RoundedPlan]:
        """Measure which counts near a plan run fastest here, under the plan's own FLOPs reduction.

        Candidates are the plan rounded to several multiples, and the fastest of these with its layers moved against
        each other by the times of their modules (see `prune_gym.surgery.auto_rounding`). They are cut and timed in
        turns on the example input: its batch size, the model's device, number and memory format and the threads PyTorch
        has are what the answer is good for.

        Args:
            plan: Layer name -> removed channel indices.
            analyzer: As for `rounded`; moves of layers against each other then keep to the predicted loss.
            num_iterations: Timed passes of every candidate, >= 1.

        Returns:
            The candidates, the fastest first; the plan as it is is one of them.

        Raises:
            TypeError: If the plan is not a mapping of names to integer indices.
            ValueError: If the plan is not legal or ``num_iterations`` is not positive.
        """
        resolved, example = self.resolve(plan), in_format_of(self.model, self.example_input)
        curves = None if analyzer is None or not analyzer.curves else self._curves(analyzer)
        with undisturbed(self.model):
            return time_roundings(
                self._rounder(analyzer), resolved, self._cut, example, curves=curves, num_iterations=num_iterations
            )

    def _rounder(self, analyzer: HOBSSensitivityAnalyzer | None) -> PlanRounder:
        return PlanRounder(self.groups, self.model, self.example_input, None if analyzer is None else analyzer.orders)

    def _curves(self, analyzer: HOBSSensitivityAnalyzer) -> list[FloatArray]:
        return [analyzer.curves[group.name].double().cpu().numpy() for group in self.groups]

    def _cut(self, plan: dict[str, list[int]]) -> nn.Module:
        pruned = trainable_copy(self.model)
        cut = NetworkSlicer(self.model, self.groups).cut(plan)
        remove_channels(pruned, cut)
        check_against_prediction(pruned, cut.state())
        self._check_runs(pruned)
        restore_properties(pruned, self.model)
        return pruned

    def _check_runs(self, pruned: nn.Module) -> None:
        """Check that the network runs, its outputs keep their shapes and gradients flow.

        Where values decide sizes, as many boxes as a detector keeps, outputs keep their numbers of dimensions.

        Raises:
            UnsupportedStructureError: one of them fails.
        """
        try:
            found = outputs(pruned, self.example_input)
            total = torch.stack([output.float().sum() for output in found if output.requires_grad]).sum()
            parameters = [parameter for parameter in pruned.parameters() if parameter.requires_grad]
            torch.autograd.grad(total, parameters, allow_unused=True)
        except (RuntimeError, ValueError, TypeError) as error:
            raise UnsupportedStructureError(surgery_failed(f"the pruned network does not run: {error}")) from error
        shapes = [tuple(output.shape) for output in found]
        same_dimensions = [*map(len, shapes)] == [*map(len, self._output_shapes)]
        if shapes != self._output_shapes and not (same_dimensions and sizes_depend_on_data(pruned, self.example_input)):
            raise UnsupportedStructureError(
                surgery_failed(f"the output shape changed from {self._output_shapes} to {shapes}")
            )

    def _analyzer(self, images: Sequence[Batch] | None) -> HOBSSensitivityAnalyzer:
        from hessian.hobs import HOBSSensitivityAnalyzer

        assert images is not None
        analyzer = HOBSSensitivityAnalyzer(
            trainable_copy(self.model),
            self._damping,
            example_input=self.example_input,
            ignored_layers=self._ignored,
        )
        analyzer.measure_inputs(images, num_batches=None)
        return analyzer


def _check_request(refit: str, has_images: bool, recalibrate_bn: bool | None, has_analyzer: bool) -> None:
    if refit not in REFITS:
        raise ValueError(f"unknown refit {refit!r}; choose one of {', '.join(map(repr, REFITS))}")
    if has_images:
        return
    if recalibrate_bn:
        raise ValueError("recalibrate_bn=True needs calibration images: pass calibration=<split or loader>")
    if refit == "sequential" or (refit == "closed_form" and not has_analyzer):
        raise ValueError(f"refit={refit!r} needs calibration images: pass calibration=<split or loader>")


def _in_memory(calibration: Any, device: torch.device, model: nn.Module) -> list[Batch]:
    """Calibration data as calls of the model on its device; labels are dropped, no repair needs them."""
    if isinstance(calibration, TensorSplit):
        calibration = calibration.images
    return regrouped(read_batches(calibration, device, model=model), _CALIBRATION_BATCH)


def _shown(batches: Sequence[Batch]) -> ImagesLike:
    """Calibration data as what a reconstruction takes.

    Raises:
        ValueError: several inputs in batches that cannot be put together, or inputs by name.
    """
    if all(batch.images is not None for batch in batches):
        return [batch.images for batch in batches]
    if len(batches) == 1 and not batches[0].kwargs:
        return batches[0].args
    raise ValueError("reconstruct takes images, or the network's arguments as a tuple of tensors: pass unlabelled=")


def _name_of(layer: str | nn.Module, model: nn.Module) -> str:
    """Return a module's name, so that it means the same layer in every copy of the model.

    Raises:
        ValueError: it is no module of the model.
    """
    if isinstance(layer, str):
        return layer
    for name, module in model.named_modules():
        if module is layer:
            return name
    raise ValueError(f"ignored layer {layer!r} is not a module of the model; give its name or the module itself")

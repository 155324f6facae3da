"""Discovery, a plan, surgery and the comparison with the oracle, as one record of a network."""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.studies.any_network.oracle import distance, network_outputs, zeroing_gap
from hessian.channels.group import ChannelGroup
from hessian.channels.slicing import NetworkSlicer, installed
from prune_gym.surgery.pruner import PhysicalPruner

TOLERANCE = 1e-4
"""Largest difference of an output relative to its largest entry, of a network that counts as cut rightly."""
_BLIND = 1e-6
"""Effect of a cut on the outputs below which an error would not show."""

ERRORS = (ValueError, RuntimeError, TypeError, KeyError, IndexError, AttributeError, AssertionError)
"""Errors a network that cannot be handled may raise: a finding, not the end of a run."""

RIGHT, WRONG, FAILED, WHOLE = "right", "wrong", "failed", "whole"
"""Cut exactly; cut, but not to the oracle's numbers; an error; nothing there to cut."""


@dataclass(frozen=True)
class Pin:
    """Channels that stay.

    Attributes:
        where: convolution or linear layer that makes them.
        reason: why.
    """

    where: str
    reason: str


@dataclass(frozen=True)
class Judgement:
    """Findings on one network.

    Attributes:
        verdict: one of `RIGHT`, `WRONG`, `FAILED`, `WHOLE`.
        layers: prunable layers.
        producers: modules that make their channels.
        pins: what stays and why.
        parameters_kept: of removing about half the units of every layer, a fraction.
        flops_removed: of the same, a fraction.
        gap: largest difference from the oracle over all plans and modes, relative to the largest output.
        effect: what the largest cut changes in the outputs, in the same measure.
        seconds: of processor time, of discovery with its proof.
        message: what went wrong.
    """

    verdict: str
    layers: int = 0
    producers: tuple[str, ...] = ()
    pins: tuple[Pin, ...] = ()
    parameters_kept: float = 1.0
    flops_removed: float = 0.0
    gap: float = 0.0
    effect: float = 0.0
    seconds: float = 0.0
    message: str = ""


def judge(
    model: nn.Module,
    example: Any,
    *,
    seed: int = 0,
    modes: Sequence[bool] = (False, True),
    watched: Sequence[str] = (),
    singles: int = 1,
    single_image: Any = None,
    flops: bool = True,
) -> Judgement:
    """Cut a network as a user would, and compare the result with the oracle.

    Args:
        model: the network, in evaluation mode, lively (see `enliven`); not changed.
        example: its input, at least two images.
        seed: chooses the units that go.
        modes: training modes to compare in, the first for every plan, all for the plan that halves every layer.
        watched: modules whose outputs are compared instead of the network's.
        singles: layers that lose one unit and nothing else, followed by a plan of any counts; 0 leaves about half of
            every layer, the plan that is always there.
        single_image: the input that layers are found with; absent means the first image of ``example``.
        flops: whether FLOPs are counted; they are 0 otherwise.
    """
    started = time.process_time()
    try:
        pruner = PhysicalPruner(model, first_image(example) if single_image is None else single_image)
    except ERRORS as error:
        verdict = WHOLE if "no prunable layer" in str(error) else FAILED
        return Judgement(verdict, message=f"{type(error).__name__}: {error}", seconds=time.process_time() - started)
    seconds = time.process_time() - started
    trial, todo = _Trial(pruner, example, modes, watched), plans(pruner.groups, seed, singles)
    try:
        for plan in todo[:-1]:
            trial.compare(plan, modes[:1])
        trial.compare_views(todo[-1], trial.compare(todo[-1], modes), flops=flops)
        verdict, message = RIGHT, ""
    except _Verdict as found:
        verdict, message = found.verdict, str(found)
    return Judgement(
        verdict,
        layers=len(pruner.groups),
        producers=tuple(sorted({member.module for group in pruner.groups for member in group.producers})),
        pins=tuple(Pin(pin.name, pin.reason) for pin in pruner.pinned),
        parameters_kept=trial.parameters_kept,
        flops_removed=trial.flops_removed,
        gap=trial.gap,
        effect=trial.effect,
        seconds=seconds,
        message=message,
    )


class _Verdict(Exception):
    """Ends a trial: what was found, and where."""

    def __init__(self, verdict: str, plan: Mapping[str, Sequence[int]], message: str) -> None:
        what = (
            f"{len(plan)} layers" if len(plan) > 1 else " ".join(f"{name} {list(gone)}" for name, gone in plan.items())
        )
        super().__init__(f"{what}: {message}")
        self.verdict = verdict


class _Trial:
    """Plans of one network against the oracle; remembers the largest gap and effect."""

    def __init__(self, pruner: PhysicalPruner, example: Any, modes: Sequence[bool], watched: Sequence[str]) -> None:
        self._pruner, self._example, self._watched = pruner, example, watched
        self._whole = {mode: network_outputs(pruner.model, example, training=mode, watched=watched) for mode in modes}
        self.gap = self.effect = self.flops_removed = 0.0
        self.parameters_kept = 1.0

    def compare(self, plan: Mapping[str, Sequence[int]], modes: Sequence[bool]) -> nn.Module:
        """Cut and compare; returns the pruned network.

        Raises:
            _Verdict: a width, a shape or an output is wrong.
        """
        small = self._cut(plan)
        rows = producer_rows(self._pruner.groups, plan)
        for name, gone in rows.items():
            if _width(small, name) != _width(self._pruner.model, name) - len(gone):
                raise _Verdict(WRONG, plan, f"{name} did not shrink by {len(gone)}")
        for training in modes:
            mode = "training" if training else "evaluation"
            try:
                gap = zeroing_gap(
                    self._pruner.model,
                    small,
                    rows,
                    self._example,
                    training=training,
                    watched=self._watched,
                    whole=self._whole[training],
                )
            except ERRORS as error:
                raise _Verdict(WRONG, plan, f"{mode}: {type(error).__name__}: {error}") from error
            self.effect = max(self.effect, gap.effect)
            self._note(gap.error, plan, mode)
        return small

    def compare_views(self, plan: Mapping[str, Sequence[int]], small: nn.Module, *, flops: bool) -> None:
        """Compare the evaluator's slices with the pruned network, and count what is left.

        Raises:
            _Verdict: the cut changes nothing.
        """
        model = copy.deepcopy(self._pruner.model).eval()
        cut = NetworkSlicer(model, self._pruner.groups).cut(plan)
        with installed(model, cut.state(), cut.attributes):
            sliced = network_outputs(model, self._example, watched=self._watched)
        self._note(distance(sliced, network_outputs(small, self._example, watched=self._watched)), plan, "slices")
        self.parameters_kept = count_parameters(small) / count_parameters(model)
        if flops:
            counted = [count_flops(each, self._pruner.example_input) for each in (small, self._pruner.model)]
            self.flops_removed = 1 - counted[0] / max(1, counted[1])
        if self.effect < _BLIND:
            raise _Verdict(FAILED, plan, "the cut changes nothing, so nothing was seen")

    def _cut(self, plan: Mapping[str, Sequence[int]]) -> nn.Module:
        try:
            return self._pruner.prune(plan)
        except ERRORS as error:
            raise _Verdict(FAILED, plan, f"{type(error).__name__}: {error}") from error

    def _note(self, gap: float, plan: Mapping[str, Sequence[int]], where: str) -> None:
        self.gap = gap if math.isnan(gap) else max(self.gap, gap)
        if not gap <= TOLERANCE:
            raise _Verdict(WRONG, plan, f"{where}: {gap:.1e} of the output")


def plans(groups: Sequence[ChannelGroup], seed: int, singles: int) -> list[dict[str, list[int]]]:
    """Units chosen at random: one of a few layers by themselves, any number of every layer, about half of every layer.

    Without ``singles``, only the last.
    """
    chance = random.Random(seed)
    able = [group for group in groups if group.num_units > 1]
    made = [
        {group.name: group.channels(_some(group, 1, chance))} for group in chance.sample(able, min(singles, len(able)))
    ]
    if singles:
        uneven = {group.name: group.channels(_some(group, chance.randrange(group.num_units), chance)) for group in able}
        made.append({name: gone for name, gone in uneven.items() if gone})
    about = {group.name: max(1, round(chance.uniform(0.4, 0.6) * group.num_units)) for group in able}
    return [*made, {group.name: group.channels(_some(group, about[group.name], chance)) for group in able}]


def _some(group: ChannelGroup, count: int, chance: random.Random) -> list[int]:
    return chance.sample(range(group.num_units), min(count, group.num_units - 1))


def producer_rows(groups: Sequence[ChannelGroup], plan: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Rows of every producer that a plan removes."""
    rows: dict[str, set[int]] = {}
    for group in groups:
        removed = list(plan.get(group.name, ()))
        for member in group.producers:
            if removed:
                rows.setdefault(member.module, set()).update(member.indices[removed].reshape(-1).tolist())
    return {name: sorted(gone) for name, gone in rows.items()}


def first_image(example: Any) -> Any:
    """The same input for one image."""
    return tree_map_only(Tensor, lambda tensor: tensor[:1], example)


def in_double(example: Any) -> Any:
    """The same input in double precision."""
    return tree_map_only(Tensor, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, example)


def enliven(model: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Randomise all that starts as a constant, so that nothing hides behind a zero or a one.

    Norms get statistics, scales and shifts; biases, slopes and layer scales get values; weights stay as initialised
    unless they are constant.

    Args:
        model: changed in place, and returned in evaluation mode.
        seed: of the random numbers.
        dtype: that it gets.
    """
    generator = torch.Generator().manual_seed(seed)
    model = model.to(dtype).eval()
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                _randomise(parameter, name, generator)
            for name, buffer in module.named_buffers(recurse=False):
                if name == "running_var":
                    buffer.uniform_(0.5, 1.5, generator=generator)
                elif name == "running_mean":
                    buffer.normal_(0.0, 0.2, generator=generator)
                elif buffer.is_floating_point() and buffer.ndim and bool((buffer == buffer.reshape(-1)[0]).all()):
                    buffer.uniform_(0.5, 1.5, generator=generator)
    return model


def _randomise(parameter: Tensor, name: str, generator: torch.Generator) -> None:
    if not parameter.is_floating_point():
        return
    if name == "bias":
        parameter.normal_(0.0, 0.2, generator=generator)
    elif parameter.numel() == 1 or bool((parameter == parameter.reshape(-1)[0]).all()):
        parameter.uniform_(0.5, 1.5, generator=generator)
    elif float(parameter.abs().max()) < 1e-3:
        parameter.normal_(0.0, 0.1, generator=generator)


def count_parameters(model: nn.Module) -> int:
    """Parameters, each counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: nn.Module, example: Any) -> int:
    """FLOPs of convolutions and matrix products on an input."""
    # The counter wants to hook into gradients, of which there are none.
    model = copy.deepcopy(model).requires_grad_(False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if isinstance(example, dict):
            model(**example)
        elif isinstance(example, tuple):
            model(*example)
        else:
            model(example)
    return counter.get_total_flops()


def _width(model: nn.Module, name: str) -> int:
    module: Any = model.get_submodule(name)
    return module.out_features if isinstance(module, nn.Linear) else module.out_channels

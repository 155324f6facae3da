"""Sequential refit: repair a pruned network layer by layer against the dense one.

The closed-form repair (:mod:`hessian.refit.closed_form`) solves every consumer on the *dense* network's inputs. After a
deep cut those inputs are no longer what the layer sees. Here layers are walked in execution order and each is solved
against the dense network's outputs Y on the *pruned* network's inputs X,

    ``W' = W + (Y - W X) X^T (X X^T + damping)^-1``

so that every layer corrects the errors of the ones before. The last layer of a residual block is solved for the block's
sum: its target is the dense sum minus what the pruned shortcut already carries. A layer in front of a ReLU is then
solved for what the ReLU lets through (:mod:`hessian.refit.relu_aware`). Damping pulls towards the sliced dense weights.
BatchNorm statistics stay the dense ones, up to the shift a BatchNorm absorbs for a bias-free layer: the layer before it
is fitted to give it what it expects.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hessian.channels.group import ChannelGroup
from hessian.channels.layer_types import TRANSPOSED_TYPES
from hessian.channels.norms import shift_absorbing_norms
from hessian.channels.slicing import Cut, ModuleSlice, NetworkSlicer, Plan, installed
from hessian.obs.algebra import Factorisations
from hessian.patches.layer_view import layer_view
from hessian.patches.matrices import from_matrix, matrix_width, num_groups, to_matrix
from hessian.patches.subsampling import PositionSample, position_extents
from hessian.refit.lockstep import DenseValues, HaltingNetwork, Place, Stop, kept, shared_copy, shared_names
from hessian.refit.relu_aware import ReluTargets, inverse_gain
from hessian.refit.ridge import NormalEquations, errors_of, ridge_refit, wide
from hessian.refit.standardised import Made, Standardised
from hessian.refit.structure import read_structure
from hessian.support.batches import model_device, read_batches, regrouped
from hessian.support.door import plain_execution, plain_model, undisturbed
from hessian.support.layout import layout_for, sent, unchanged
from hessian.support.progress import Progress

SMALLEST_BATCH = 64
"""Images of one shape that come in smaller batches are put together: every batch is a pass of its own."""

STORE_BYTES = 2 << 30
"""Dense activations kept between refits; past this they are computed anew for every plan."""

WALKS = 5
"""Walks over a network at most; more than one where layers run more than once."""

MIN_POSITIONS = 3000
"""A layer is never solved on fewer positions (where there are as many)."""


class SequentialRefitter:
    """Refits pruned versions of one network; structure, inputs and dense activations are shared by all plans.

    The network is run as it is written: its forward may branch, loop, call modules more than once and take or return
    anything. A layer that runs more than once is fitted to all its calls; what follows it is then fitted to it in a
    further walk, one for each such layer (:data:`WALKS` in all).

    Args:
        model: the dense network; not modified.
        groups: its prunable layers.
        batches: calibration data, labels or not: whatever :func:`hessian.support.batches.read_batches` reads.
        damping: ridge towards the sliced weights, relative to the mean diagonal of ``X X^T``.
        samples_per_input: a layer is solved on this many random positions an unknown of a row, spread over all images;
            None uses all positions.
        store_bytes: memory for dense activations; where they need more they are recomputed for every plan.
        relu_aware: whether layers in front of a ReLU are solved for what it lets through
            (:mod:`hessian.refit.relu_aware`), instead of for their outputs as they are.

    Attributes:
        left_out: layers that keep their sliced weights -> why: those that compute their weight from parameters, other
            than by standardising it (:mod:`hessian.refit.standardised`).
        errors: of the last refit, layer -> share of its targets' variance that it misses
            (:class:`hessian.refit.ridge.Refitted`), in execution order; layers before the first cut are not in it.

    Raises:
        TypeError: the model is no module that can be reached (:func:`hessian.support.door.plain_model`).
        ValueError: no batches.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[ChannelGroup],
        batches: Any,
        damping: float = 1e-3,
        *,
        samples_per_input: int | None = 200,
        store_bytes: int = STORE_BYTES,
        relu_aware: bool = True,
    ) -> None:
        if samples_per_input is not None and samples_per_input < 1:
            raise ValueError(f"samples_per_input must be at least 1, got {samples_per_input}")
        model = plain_model(model)
        self.damping = damping
        self.samples_per_input = samples_per_input
        self.relu_aware = relu_aware
        self.slicer = NetworkSlicer(model, groups)
        with undisturbed(model), torch.no_grad():
            self.inputs = regrouped(read_batches(batches, model_device(model), model=model), SMALLEST_BATCH)
            first = self.inputs[0]
            # One image shows what all of them do; of other inputs (a list of images) the whole batch is needed.
            example = first if first.images is None else first.first_sample()
            self._norms = shift_absorbing_norms(model, example)
            self._layout = unchanged if example.images is None else layout_for(model, example.images)
            self._structure = read_structure(shared_copy(model), example)
            self._private = shared_copy(model)
            self._modules: dict[str, Any] = dict(self._private.named_modules())
            layers, closing = {place.layer for place in self._structure.order}, self._structure.closing
            self._dense = HaltingNetwork(shared_copy(model), layers, closing, outputs=True)
            self._pruned = HaltingNetwork(self._private, layers, closing, outputs=False)
            self._store = self._dense_values(store_bytes)
        self._layers = layers
        self._shared = shared_names(model)
        self.errors: dict[str, float] = {}

    @property
    def left_out(self) -> Mapping[str, str]:
        """Layers that keep their sliced weights -> why."""
        return self._structure.left_out

    def state(self, plan: Plan, *, progress: Progress | None = None) -> dict[str, Tensor]:
        """State dict of the pruned network, every layer downstream of a cut refitted in execution order.

        Args:
            plan: layer name -> removed channel indices.
            progress: called with (description, done, total) after every layer.

        Returns:
            Every key of the model's state dict, at the pruned shapes. The dense state where nothing is removed.

        Raises:
            ValueError: an illegal plan.
        """
        return self.refit(self.slicer.cut(plan), progress=progress)

    def refit(self, cut: Cut, *, progress: Progress | None = None) -> dict[str, Tensor]:
        """:meth:`state` of a plan that was applied to this network before."""
        self.errors = {}
        with plain_execution():
            state = cut.state()
            if not cut.slices:
                return state
            state = self._walked(cut, state, held={}, final=(), progress=progress)
            for final in self._held_layers():
                held = {name: tensor for name, tensor in state.items() if self._belongs(name, final)}
                state = self._walked(cut, cut.state(), held=held, final=final, progress=progress)
            return state

    def _held_layers(self) -> list[list[str]]:
        """Of every further walk, the layers that keep what the walk before found.

        The first of the layers that run more than once is right after one walk, the next one after another, and so on;
        with many of them several are taken at a time.
        """
        layers = [name for name in self._structure.repeated if name not in self._structure.left_out]
        each = math.ceil(len(layers) / (WALKS - 1))
        return [layers[: stop + each] for stop in range(0, len(layers), max(1, each))]

    # ------------------------------------------------------------------ walking

    def _walked(
        self,
        cut: Cut,
        state: dict[str, Tensor],
        *,
        held: Mapping[str, Tensor],
        final: Collection[str],
        progress: Progress | None,
    ) -> dict[str, Tensor]:
        """A sliced state after one walk; tensors in ``held`` are taken as they are, and the ``final`` layers left."""
        refitted = self._layers - self._structure.left_out.keys()
        touched = {name: self._belongs(name, refitted) for name in state}
        state = {name: self._layout(tensor.clone()) if touched[name] else tensor for name, tensor in state.items()}
        state |= held
        skipped = self._structure.left_out.keys() | set(final)
        # A forward pass may count in its buffers: it gets copies.
        counters = [name for name, _ in self._private.named_buffers() if not touched.get(name, True)]
        working = {name: state[name].clone() for name in counters}
        installing = installed(self._private, state | working, cut.attributes)
        with undisturbed(self._private), torch.no_grad(), installing:
            _Walk(self, cut.slices, skipped, progress).run()
        for names in self._shared:
            source = next((name for name in names if touched[name]), names[0])
            state.update(dict.fromkeys(names, state[source]))
        return state

    def _belongs(self, tensor: str, layers: Collection[str]) -> bool:
        """Return whether a tensor of the state dict is changed with one of the layers."""
        owner, _, suffix = tensor.rpartition(".")
        if suffix == "running_mean":
            return any(self._norms.get(layer) == owner for layer in layers)
        rule = self._structure.standardised.get(owner)
        return owner in layers and suffix in ("weight", "bias", rule and rule.gain)

    def _dense_values(self, limit: int) -> dict[tuple[int, Place], Stop] | None:
        """Values of every batch at every place, or None where that is more than ``limit`` bytes."""
        values: dict[tuple[int, Place], Stop] = {}
        size = 0
        with self._dense.passes(self.inputs if limit > 0 else []) as passes:
            for index, one in enumerate(passes):
                while size <= limit:
                    one.advance()
                    if one.stop is None:
                        break
                    stop = kept(one.stop)
                    values[index, stop.place] = stop
                    size += sum(part.nbytes for part in (stop.value, stop.other) if part is not None)
        return values if limit > 0 and size <= limit else None

    def sample(self, module: Any, outputs: Sequence[Tensor]) -> PositionSample | None:
        """Output positions a layer is solved on, or None for all of them."""
        if self.samples_per_input is None or isinstance(module, TRANSPOSED_TYPES):
            return None
        positions = sum(len(output) for output in outputs) * math.prod(position_extents(module, outputs[0]))
        wanted = max(self.samples_per_input * matrix_width(module), MIN_POSITIONS)
        return PositionSample(module, outputs, wanted) if wanted < positions else None


class _Walk:
    """One walk of a pruned network beside the dense one; layers of the private network are solved in place."""

    def __init__(
        self,
        owner: SequentialRefitter,
        slices: Mapping[str, ModuleSlice],
        skipped: Collection[str],
        progress: Progress | None,
    ) -> None:
        self._owner = owner
        self._slices = slices
        self._skipped = skipped
        self._progress = progress
        self._order = dict(owner._structure.order)
        self._visited: set[str] = set()
        self._cut = False
        self._equations: dict[str, _Solved] = {}
        self._solving = Factorisations()
        self._missed: dict[str, Tensor] = {}

    def run(self) -> None:
        """Solve every layer from the first cut one on.

        Raises:
            DegenerateFactorError: a layer's equations have no solution.
        """
        owner = self._owner
        with owner._pruned.passes(owner.inputs) as pruned, owner._dense.passes(owner.inputs) as passes:
            dense = DenseValues(owner._store, passes)
            for one in pruned:
                one.advance()
            while stops := {index: one.stop for index, one in enumerate(pruned) if one.stop is not None}:
                place = min((stop.place for stop in stops.values()), key=self._rank)
                here = {index: stop for index, stop in stops.items() if stop.place == place}
                self._visit(place, here, dense)
                for index in here:
                    pruned[index].advance()
        self._solving.check()
        owner.errors.update(zip(self._missed, errors_of(list(self._missed.values())), strict=True))

    def _rank(self, place: Place) -> int:
        return self._order.setdefault(place, len(self._order))

    def _visit(self, place: Place, stops: Mapping[int, Stop], dense: DenseValues) -> None:
        module = self._owner._modules[place.layer]
        part = self._slices.get(place.layer, ModuleSlice())
        wanted = {index: dense.take(index, place) for index in stops}
        self._cut = self._cut or part.columns is not None or (part.rows is not None and num_groups(module) > 1)
        # A branch that only the pruned network takes has nothing to be held against.
        pairs = [(stops[index], target) for index, target in wanted.items() if target is not None]
        if self._cut and pairs and place.layer not in self._skipped:
            self._refit(module, place, part, pairs)
        self._visited.add(place.layer)
        if self._progress is not None:
            self._progress("sequential refit", len(self._visited), len(self._owner._layers))

    def _refit(self, module: Any, place: Place, part: ModuleSlice, pairs: Sequence[tuple[Stop, Stop]]) -> None:
        """Solve one layer of the private network in place."""
        owner, name = self._owner, place.layer
        outputs = [target.value for _, target in pairs]
        sample = owner.sample(module, outputs)
        values = [wide(_rows(module, output, part)) for output in _at(sample, outputs)]
        targets = values
        if all(stop.other is not None and target.other is not None for stop, target in pairs):
            targets = self._closing_targets(module, name, part, pairs, sample, values)
        relu = self._relu_targets(module, name, part, pairs, sample, values, targets)
        given, rule = pairs[0][0].value, owner._structure.standardised.get(name)
        views = [layer_view(module, stop.value) for stop, _ in pairs]
        inputs, solved = [wide(view.inputs) for view in views], views[0].module
        if sample is not None:
            solved, inputs = sample.inputs(solved, inputs)
        norm = owner._modules[owner._norms[name]] if name in owner._norms else None
        if name not in owner._structure.repeated:
            if place.call > 0:  # a loop that runs longer than it did for the example
                return
            shift = torch.zeros_like(norm.running_mean) if norm is not None else module.bias
            made = None if rule is None else Made(views[0].weight, rule)
            found = ridge_refit(solved, shift, inputs, targets, owner.damping, relu, self._solving, made)
            _install(module, norm, found.matrix, shift is not None, rule, given)
            self._missed[name] = found.missed
            return
        if name not in self._equations:
            self._equations[name] = _Solved(module, norm, rule, given)
        self._equations[name].add(solved, inputs, targets)
        self._missed[name] = self._equations[name].install(owner.damping, self._solving)

    def _closing_targets(
        self,
        module: Any,
        name: str,
        part: ModuleSlice,
        pairs: Sequence[tuple[Stop, Stop]],
        sample: PositionSample | None,
        outputs: Sequence[Tensor],
    ) -> list[Tensor]:
        """The dense outputs, corrected by what the pruned network's other operand lacks."""
        carried = _at(sample, [_known(stop.other) for stop, _ in pairs])
        wanted = _at(sample, [_known(target.other) for _, target in pairs])
        errors = [wide(_rows(module, dense, part)) - wide(own) for dense, own in zip(wanted, carried, strict=True)]
        norm_name = self._owner._structure.closing[name]
        if norm_name is not None:
            gain = inverse_gain(_gain(self._owner._modules[norm_name]))
            errors = [error * gain.view(1, -1, *[1] * (error.ndim - 2)) for error in errors]
        return [output + error for output, error in zip(outputs, errors, strict=True)]

    def _relu_targets(
        self,
        module: Any,
        name: str,
        part: ModuleSlice,
        pairs: Sequence[tuple[Stop, Stop]],
        sample: PositionSample | None,
        values: Sequence[Tensor],
        wanted: Sequence[Tensor],
    ) -> list[ReluTargets] | None:
        """Targets of the layer's outputs as the ReLU behind it sees them; None where there is none."""
        relu = self._owner._structure.rectifiers.get(name) if self._owner.relu_aware else None
        if relu is None or (relu.summed and any(target.other is None for _, target in pairs)):
            return None
        gain = values[0].new_ones(())
        if relu.norm is not None:
            norm = self._owner._modules[relu.norm]
            gain = _gain(norm).view(1, -1, *[1] * (values[0].ndim - 2))
            values = [wide(norm(value.to(norm.running_mean.dtype))) for value in values]
        if relu.summed:
            rest = _at(sample, [_known(target.other) for _, target in pairs])
            values = [value + wide(_rows(module, added, part)) for value, added in zip(values, rest, strict=True)]
        return [ReluTargets(target, value, gain, relu.ceiling) for target, value in zip(wanted, values, strict=True)]


class _Solved:
    """A layer that runs more than once: its equations, and what it was before the first of them."""

    def __init__(self, module: Any, norm: Any, rule: Standardised | None, given: Tensor) -> None:
        self._module, self._norm, self._rule, self._given = module, norm, rule, given
        self._mean = None if norm is None else norm.running_mean.clone()
        shift = module.bias if norm is None else torch.zeros_like(norm.running_mean)
        self._constant = shift is not None
        weight = module.weight if rule is None else layer_view(module, given).weight
        made = None if rule is None else Made(weight, rule)
        self._equations = NormalEquations(to_matrix(module, weight, shift), constant=self._constant, standardised=made)

    def add(self, solved: Any, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        """Add one call."""
        self._equations.add(solved, inputs, targets)

    def install(self, damping: float, factorisations: Factorisations) -> Tensor:
        """Solve what there is so far; returns the share that is missed."""
        if self._mean is not None:
            self._norm.running_mean.copy_(self._mean)
        found = self._equations.solve(damping, factorisations)
        _install(self._module, self._norm, found.matrix, self._constant, self._rule, self._given)
        return found.missed


def _install(module: Any, norm: Any, matrix: Tensor, constant: bool, rule: Standardised | None, given: Tensor) -> None:
    """Write refitted matrices into a layer; a layer without a bias leaves its constant to the batch norm behind it."""
    weight, shift = from_matrix(module, matrix, bias=constant)
    values = {"weight": weight} if rule is None else rule.parameters(module, given, weight.to(module.weight))
    for name, value in values.items():
        getattr(module, name).copy_(value)
    if norm is not None and shift is not None:
        norm.running_mean.sub_(shift.to(norm.running_mean))
    elif shift is not None:
        module.bias.copy_(shift)


def _known(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def _gain(norm: Any) -> Tensor:
    """Factor of an evaluation-mode batch norm on one unit, [channels]."""
    weight = getattr(norm, "weight", None)
    return wide((1.0 if weight is None else weight) / (norm.running_var + norm.eps).sqrt())


def _at(sample: PositionSample | None, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
    return outputs if sample is None else sample.outputs(outputs)


def _channel_axis(module: nn.Module, output: Tensor) -> int:
    return output.ndim - 1 if isinstance(module, nn.Linear) else 1


def _rows(module: nn.Module, output: Tensor, part: ModuleSlice) -> Tensor:
    if part.rows is None:
        return output
    return output.index_select(_channel_axis(module, output), sent(part.rows, output.device))

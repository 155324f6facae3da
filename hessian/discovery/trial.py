"""One trial: units of some layers are cut, and the smaller network is compared with the dense one without them."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from hessian.channels.group import ChannelGroup
from hessian.channels.layer_types import TRANSPOSED_TYPES
from hessian.channels.slicing import Cut, NetworkSlicer, installed
from hessian.discovery.decisions import Decisions
from hessian.discovery.mixing import DerivedWeights, norms_over
from hessian.provenance.classes import Reason
from hessian.provenance.run import Provenance
from hessian.support.calling import call_model, tensors_in, training_outside_leaves
from hessian.support.layout import in_float64

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest difference, relative to the range of an output."""

NETWORK_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError)
"""Errors a network may raise when its sizes do not fit."""

_DEAD = 1e-2
"""Entries of a tensor that are all smaller hide whatever passes through it (a block's last norm, a layer scale)."""


class Trial:
    """Cuts units of layers and compares.

    Args:
        model: the network; in evaluation mode while it is tried, in which the caller puts it back.
        example_input: what it is run on.
        provenance: what a run of it showed.
    """

    def __init__(self, model: nn.Module, example_input: Any, provenance: Provenance) -> None:
        self._model = model
        self._example_input = example_input
        self._modules: dict[str, Any] = dict(model.named_modules())
        self._values = lively(dict(model.state_dict()))
        self._trains = provenance.trains
        self._derived = provenance.derived
        self._decided = provenance.decided
        self._ranks: dict[str, int] = {}
        self._apart_ranks: dict[str, int] = {}

    def failure(self, groups: Sequence[ChannelGroup], apart: Collection[str] = ()) -> Reason | None:
        """Reason of a failure when layers lose some of their units at random, and then all others; None without one.

        Every other layer is cut first and then those between: code may take a number of channels from another layer's.

        Args:
            groups: the layers.
            apart: names of those whose channels code cuts apart: any two of them are once cut one without the other,
                and each without those it does not.
        """
        if not groups:
            return None
        slicer = NetworkSlicer(self._model, groups)
        parts = {group.name: _halves(group) for group in groups}
        for side, chosen in (*((0, some) for some in self._turns(groups, apart)), (1, groups)):
            plan = {group.name: group.channels(parts[group.name][side]) for group in chosen}
            problem = self._failure(slicer.cut(plan))
            if problem is not None:
                return problem
        return None

    def _turns(self, groups: Sequence[ChannelGroup], apart: Collection[str]) -> list[list[ChannelGroup]]:
        """Choices of layers that are cut while the others stay whole; every layer is in some choice."""
        inside, outside = ([group for group in groups if (group.name in apart) is side] for side in (True, False))
        choices = [*_bitwise(groups, self._ranks, 1)]
        if inside:
            for group in inside:
                self._apart_ranks.setdefault(group.name, len(self._apart_ranks))
            choices += [outside, *_bitwise(inside, self._apart_ranks, (len(self._apart_ranks) - 1).bit_length())]
        turns = {tuple(group.name for group in chosen): chosen for chosen in choices if chosen}
        return list(turns.values())

    def _failure(self, cut: Cut) -> Reason | None:
        self._model.eval()
        decisions = Decisions()
        noted: AbstractContextManager[Any] = decisions.noted() if self._decided else nullcontext()
        followed: AbstractContextManager[Any] = decisions.followed() if self._decided else nullcontext([])
        weights = DerivedWeights(self._model, self._derived & cut.slices.keys(), cut)
        state = cut.state(self._values)
        try:
            with installed(self._model, state, cut.attributes):
                with weights.recorded(), noted:
                    pruned = self._outputs()
                trained = self._trained_shapes()
            with installed(self._model, self._zeroed(cut), {}), norms_over(self._model, cut):
                with weights.replaced(), followed as compared:
                    dense = self._outputs()
                expected = self._trained_shapes() if trained is not None else None
        except NETWORK_ERRORS as error:
            return Reason(f"cannot be cut: {_short(error)}", self._place(state, cut))
        if trained is not None and trained != expected:
            return Reason("cannot be cut: outputs in training mode change their shapes", "")
        for name, wanted, found in compared:
            gap = _gap(wanted, found)
            if gap is not None:
                return Reason(f"cannot be cut: what {name} decides by differs from the dense network's by {gap}", "")
        return _difference(dense, pruned)

    def _outputs(self) -> list[Tensor]:
        return tensors_in(call_model(self._model, self._example_input))

    def _place(self, state: Mapping[str, Tensor], cut: Cut) -> str:
        """Name of the innermost module that was running when the smaller network raised; empty where it was none."""
        self._model.eval()
        with _watched(self._model) as stack, installed(self._model, state, cut.attributes):
            try:
                self._outputs()
                del stack[:]
                self._trained_shapes()
            except NETWORK_ERRORS:
                return stack[-1] if stack else ""
        return ""

    def _trained_shapes(self) -> list[tuple[int, ...]] | None:
        """Shapes of the outputs with containers in training mode; None where that is nothing new."""
        if not self._trains:
            return None
        with training_outside_leaves(self._model):
            return [tuple(output.shape) for output in self._outputs()]

    def _zeroed(self, cut: Cut) -> dict[str, Tensor]:
        """Values of the dense network with zeros in the columns that read removed channels."""
        values = dict(self._values)
        for name, part in cut.slices.items():
            if part.columns is not None:
                module = self._modules[name]
                axis = 0 if isinstance(module, TRANSPOSED_TYPES) else 1
                kept = part.columns if axis == 0 else part.weight_columns(module)
                assert kept is not None
                values[f"{name}.weight"] = _only(values[f"{name}.weight"], axis, kept)
        for name, axes in cut.parameters.items():
            if sum(size > 1 for size in values[name].shape) > 1:  # a weight of the network's own, not a vector
                for axis, kept in axes:
                    values[name] = _only(values[name], axis, kept)
        values.update({alias: values[name] for alias, name in cut.aliases.items() if alias in values})
        return values


def _bitwise(groups: Sequence[ChannelGroup], ranks: dict[str, int], bits: int) -> Iterator[list[ChannelGroup]]:
    """Layers by the last bits of their ranks, for each bit those that have it and those that do not."""
    for group in groups:
        ranks.setdefault(group.name, len(ranks))
    for bit in range(max(1, bits)):
        for value in (0, 1):
            yield [group for group in groups if (ranks[group.name] >> bit) % 2 == value]


def _halves(group: ChannelGroup) -> tuple[list[int], list[int]]:
    """Split a layer's units in two at random, in a ratio of its own; the same split whatever else is tried."""
    generator = torch.Generator().manual_seed(zlib.crc32(group.name.encode()))
    share = 0.3 + 0.4 * float(torch.rand((), generator=generator))
    count = min(max(1, round(share * group.num_units)), group.num_units - 1)
    order = torch.randperm(group.num_units, generator=generator).tolist()
    return order[:count], order[count:]


def _only(tensor: Tensor, axis: int, kept: Tensor) -> Tensor:
    """The tensor with zeros except at some positions of an axis."""
    shape = [1] * tensor.ndim
    shape[axis] = tensor.shape[axis]
    mask = torch.zeros(shape[axis], dtype=tensor.dtype, device=tensor.device)
    mask[kept.to(tensor.device)] = 1
    return tensor * mask.reshape(shape)  # several times as fast as copying what is kept


def lively(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in which no tensor is (nearly) zero, so that a trial sees everything.

    Args:
        state: values; tensors without a tiny range are returned as they are.
    """
    generator = torch.Generator().manual_seed(0)
    values: dict[str, Tensor] = {}
    changed: dict[tuple[int, tuple[int, ...]], Tensor] = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point() or not tensor.numel() or _largest(tensor) >= _DEAD:
            values[name] = tensor
            continue
        key = tensor.data_ptr(), tuple(tensor.shape)
        if key not in changed:
            drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float32)
            bias = name.endswith(("bias", "mean", "beta"))
            changed[key] = ((drawn - 0.5) * 0.2 if bias else drawn * 0.5 + 0.5).to(tensor)
        values[name] = changed[key]
    return values


def _largest(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, torch.inf))


def _difference(dense: Sequence[Tensor], pruned: Sequence[Tensor]) -> Reason | None:
    if [tuple(output.shape) for output in dense] != [tuple(output.shape) for output in pruned]:
        return Reason("cannot be cut: outputs change their shapes", "")
    for wanted, found in zip(dense, pruned, strict=True):
        gap = _gap(wanted, found)
        if gap is not None:
            return Reason(f"cannot be cut: outputs differ from the dense network's by {gap}", "")
    return None


def _gap(wanted: Tensor, found: Tensor) -> str | None:
    """Largest difference of two tensors of a shape in words; None where it is nothing but rounding."""
    if not wanted.is_floating_point() or not wanted.numel():
        return None
    exact, other = in_float64(wanted), in_float64(found)
    finite = exact.isfinite()
    if not torch.equal(finite, other.isfinite()):
        return "what is finite"
    if not finite.any():
        return None
    exact, other = exact[finite], other[finite]
    spread = float((exact.max() - exact.min()).clamp_min(exact.abs().max() * 1e-3))
    gap = float((exact - other).abs().max())
    return f"{gap / spread:.2g} of their range" if gap > TOLERANCE.get(wanted.dtype, 1e-4) * spread + 1e-12 else None


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    """Inside, a list of the names of modules that are running, the innermost last; what an error leaves stays."""
    stack: list[str] = []

    def entering(name: str) -> Any:
        return lambda _module, _args: stack.append(name)

    def leaving(_module: nn.Module, _args: Any, _result: Any) -> None:
        if stack:
            stack.pop()

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(entering(name)))
        handles.append(module.register_forward_hook(leaving))
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()

"""Passes of a network that stop at its layers, so that two networks can be run side by side over a calibration set.

The network is run as it is written, by calling it: branches, loops and modules called twice need no tracer. All passes
stop at a layer before any goes on, so a walk over the layers costs one forward pass of each network whatever its depth,
and memory holds what is alive at one place of the network.

A layer that closes a residual sum (:mod:`hessian.refit.surroundings`) is stopped at when its sum is due: then the other
operand is there, whichever of the two the code computes first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hessian.channels.layer_calls import layer_input
from hessian.patches.layer_view import exact_layer, output_shape
from hessian.refit.passage import Passage
from hessian.refit.surroundings import addends, is_transparent, reads_values, tensors
from hessian.support.batches import Batch, model_device
from hessian.support.layout import preferred_layout


@dataclass(frozen=True)
class Place:
    """A layer's call in a pass.

    Attributes:
        layer: qualified module name.
        call: how often the layer was called before in the pass.
    """

    layer: str
    call: int


@dataclass(frozen=True, eq=False)
class Stop:
    """Values that a stopped pass shows.

    Attributes:
        place: where.
        value: what the layer is called with, or what it gave (:attr:`HaltingNetwork.outputs`).
        other: the other operand of the residual sum the layer closes; None where it closes none.
    """

    place: Place
    value: Tensor
    other: Tensor | None


@dataclass(eq=False)
class _Waiting:
    """A layer's output on its way to the sum it closes."""

    forward: Callable[..., Any]
    place: Place
    value: Tensor
    current: Tensor
    norm: Callable[..., Any] | None = None


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that holds the very parameters of the model, and buffers of its own."""
    memo: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    return copy.deepcopy(model, memo).eval()


def shared_names(model: nn.Module) -> list[list[str]]:
    """Names in the state dict of every parameter that is registered more than once."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [several for several in names.values() if len(several) > 1]


class HaltingNetwork:
    """A network whose passes stop at its layers.

    Args:
        model: the network, for this purpose alone: its modules' ``forward`` is replaced.
        layers: names of the layers to stop at.
        closing: those that close a residual sum -> batch norm in between, or None.
        outputs: stop after a layer and show its output; else before it, showing what it is called with. The layer's
            weights may then be changed while the pass is stopped.

    Attributes:
        active: the pass that runs; None between passes.
    """

    def __init__(
        self, model: nn.Module, layers: Collection[str], closing: Mapping[str, str | None], *, outputs: bool
    ) -> None:
        self.model = model
        self.outputs = outputs
        self._device = model_device(model)
        self.closing = closing
        self.active: NetworkPass | None = None
        norms = {norm for norm in closing.values() if norm is not None}
        for name, module in model.named_modules():
            if name in layers:
                module.__dict__["forward"] = _AtLayer(self, module, module.__dict__.get("forward"), name)
            elif closing and (name in norms or is_transparent(module)):
                transparent = name not in norms
                module.__dict__["forward"] = _AtLink(self, module, module.__dict__.get("forward"), transparent)

    @contextmanager
    def passes(self, batches: Sequence[Batch]) -> Iterator[list[NetworkPass]]:
        """One pass a batch, none of them begun; inside an exit of any kind they are unwound."""
        begun = [NetworkPass(self, batch) for batch in batches]
        try:
            yield begun
        finally:
            for one in begun:
                one.close()


@dataclass(eq=False)
class _Halting:
    """Stand-in for a module's ``forward``; an object and no closure, so that a refit can be sent to a process.

    Attributes:
        network: whose passes halt here.
        module: the module.
        given: a ``forward`` that the module itself was given before; None: its class's.
    """

    network: HaltingNetwork
    module: nn.Module
    given: Callable[..., Any] | None

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        """Output of the module, without halting."""
        if self.given is not None:
            return self.given(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)


@dataclass(eq=False)
class _AtLayer(_Halting):
    """Stops the pass at a layer."""

    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        active = self.network.active
        if active is None:
            return self.plain(*args, **kwargs)
        visit = active.after if self.network.outputs else active.before
        return visit(self.name, self.module, self.plain, args, kwargs, self.name in self.network.closing)


@dataclass(eq=False)
class _AtLink(_Halting):
    """Lets what stands between a layer and the residual sum it closes wait for that sum."""

    transparent: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        active, given = self.network.active, (*args, *kwargs.values())
        waiting = active.waiting_on(given[0]) if active is not None and len(given) == 1 else None
        if active is None or waiting is None:
            return self.plain(*args, **kwargs)
        if not self.network.outputs:  # nothing to compute yet
            waiting.norm = waiting.norm if self.transparent else self.plain
            return given[0]
        waiting.current = active.plainly(self.plain, *args, **kwargs)
        return waiting.current


class NetworkPass:
    """One batch's way through a :class:`HaltingNetwork`.

    Attributes:
        stop: where it stands, or None where it has ended or not begun.
    """

    def __init__(self, network: HaltingNetwork, batch: Batch) -> None:
        self._network = network
        self._batch = batch
        self._calls: dict[str, int] = {}
        self._waiting: list[_Waiting] = []
        self._mode = _Reads(self)
        self._passage = Passage(self._run, network._device)
        self.result: Any = None

    @property
    def stop(self) -> Stop | None:
        """The stop where the pass stands now."""
        return self._passage.stopped_at

    @property
    def finished(self) -> bool:
        """True where the pass has come to its end."""
        return self._passage.finished

    def advance(self) -> None:
        """Go on to the next stop; what the network raises is raised here."""
        self._network.active = self
        try:
            self._passage.advance()
        finally:
            self._network.active = None

    def close(self) -> None:
        """Unwind the pass where it stands."""
        self._passage.close()

    def _run(self, _passage: Passage) -> None:
        if not self._network.closing:
            self.result = self._batch.run(self._network.model)
            return
        with self._mode:
            self.result = self._batch.run(self._network.model)
            for waiting in list(self._waiting):
                self.settle(waiting, None)

    # ------------------------------------------------------------------ called by the network's modules

    def before(
        self, name: str, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any, closing: bool
    ) -> Any:
        """A layer is called, and the pass stops before it is; one that closes a sum is put off until its sum."""
        given = layer_input(args, kwargs)
        place = self._place(name)
        if not closing:
            self._passage.stop(Stop(place, given, None))
            return self.plainly(forward, *args, **kwargs)
        if exact_layer(module) and not torch.is_autocast_enabled(given.device.type):
            promised = given.new_empty(1).expand(output_shape(module, given))
        else:
            promised = self.plainly(forward, *args, **kwargs)
        self._waiting.append(_Waiting(forward, place, given, promised))
        return promised

    def after(
        self, name: str, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any, closing: bool
    ) -> Any:
        """A layer is called, and the pass stops after it, or at the sum it closes."""
        output = self.plainly(forward, *args, **kwargs)
        place = self._place(name)
        if closing:
            self._waiting.append(_Waiting(forward, place, output, output))
        else:
            self._passage.stop(Stop(place, output, None))
        return output

    def plainly(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a module's own code without watching what it reads."""
        self._mode.inside += 1
        try:
            return forward(*args, **kwargs)
        finally:
            self._mode.inside -= 1

    def waiting_on(self, tensor: Any) -> _Waiting | None:
        """The layer whose output a tensor is, if it is on its way to a sum."""
        return next((waiting for waiting in self._waiting if waiting.current is tensor), None)

    def settle(self, waiting: _Waiting, other: Tensor | None) -> None:
        """Stop at a layer that was put off; its output is there afterwards."""
        self._waiting.remove(waiting)
        self._passage.stop(Stop(waiting.place, waiting.value, other))
        if self._network.outputs:
            return
        value = self.plainly(waiting.forward, waiting.value)
        if waiting.norm is not None:
            value = self.plainly(waiting.norm, value)
        waiting.current.data = value

    def _place(self, name: str) -> Place:
        call = self._calls.get(name, 0)
        self._calls[name] = call + 1
        return Place(name, call)


class DenseValues:
    """Values of the dense network at a place: kept, or computed by passes beside those of the pruned network."""

    def __init__(self, store: Mapping[tuple[int, Place], Stop] | None, passes: Sequence[NetworkPass]) -> None:
        self._store = store
        self._passes = passes
        self._passed: dict[tuple[int, Place], Stop] = {}

    def take(self, index: int, place: Place) -> Stop | None:
        """A batch's stop at a place, or None where its pass does not come there; each is taken once."""
        if self._store is not None:
            return self._store.get((index, place))
        if (index, place) in self._passed:
            return self._passed.pop((index, place))
        one = self._passes[index]
        while not one.finished:
            one.advance()
            if one.stop is not None and one.stop.place == place:
                return one.stop
            if one.stop is not None:
                self._passed[index, one.stop.place] = kept(one.stop)
        return None


class _Reads(TorchFunctionMode):
    """Sees what reads a tensor that is on its way to a sum: the sum itself, or something unforeseen."""

    def __init__(self, owner: NetworkPass) -> None:
        super().__init__()
        self._owner = owner
        self.inside = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.inside or not self._owner._waiting:
            return func(*args, **kwargs)
        read = [waiting for tensor in tensors((args, kwargs)) if (waiting := self._owner.waiting_on(tensor))]
        if not read:
            return func(*args, **kwargs)
        if not reads_values(func, None):
            result = func(*args, **kwargs)
            if not reads_values(func, result):
                return result
        added = addends(func, args, kwargs)
        for place, waiting in enumerate(read):
            closes = added is not None and place == len(read) - 1
            other = _other(added, waiting.current) if closes and added is not None else None
            self._owner.settle(waiting, other)
        return func(*args, **kwargs)


def _other(added: tuple[Tensor, Tensor], own: Tensor) -> Tensor | None:
    first, second = added
    if first is second:
        return None
    return second if first is own else first


def kept(stop: Stop) -> Stop:
    """A stop with copies of its tensors, which later in-place operations may overwrite."""
    other = None if stop.other is None else preferred_layout(stop.other.clone())
    return Stop(stop.place, preferred_layout(stop.value.clone()), other)

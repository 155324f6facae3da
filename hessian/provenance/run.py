"""Running a network once so that every tensor is followed, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hessian.provenance.classes import Classes, Reason, Resolved
from hessian.provenance.entries import Entries
from hessian.provenance.facts import Context, Facts, fixed
from hessian.provenance.labels import Labels, varying
from hessian.provenance.sites import Sites
from hessian.provenance.tracker import Tracker
from hessian.support.calling import call_model, state_kept, tensors_in, training_outside_leaves

_BARE_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True, eq=False)
class Provenance:
    """Record of a run of a network: its entries, facts and places.

    Attributes:
        entries: axes of its tensors.
        classes: facts about their ids.
        sites: places that can be read in several ways.
        order: rank of every module's first call, modules with tensors of their own.
        calls: how often each of them is called in evaluation mode.
        trains: whether the network does something else in training mode that it can do on the example.
        derived: names of modules whose weight is computed from their parameters (weight standardisation).
        decided: whether any values decided something (which are the largest, what is above zero).
    """

    entries: Entries
    classes: Classes
    sites: Sites
    order: dict[str, int]
    calls: dict[str, int]
    trains: bool
    derived: frozenset[str]
    decided: bool

    def resolve(self, loose: Tensor | None = None) -> Resolved:
        """Classes and hard units; see `Classes.resolve`."""
        return self.classes.resolve(loose)


def trace(model: nn.Module, example_input: Any) -> Provenance:
    """Run a network in evaluation mode, and once more with its containers in training mode (auxiliary heads).

    Args:
        model: left as it was: weights, statistics, modes, hooks and random numbers.
        example_input: what it accepts; see `hessian.support.calling.call_model`.
    """
    classes, labels, sites, context = Classes(), Labels(), Sites(), Context()
    with torch.inference_mode(False), torch.no_grad(), state_kept(model):
        entries = Entries(model, classes, labels)
        facts = Facts(classes, labels, sites, context, entries.grouped, entries.features)
        order: dict[str, int] = {}
        calls: dict[str, int] = {}
        with _watched(model, facts, order, calls):
            model.eval()
            _run(model, example_input, facts)
            seen = dict(calls)
            trains = _run_for_training(model, example_input, facts, seen)
    for plane in labels.lost:
        classes.pin(plane, Reason("goes through a view of nothing: the example input has no such places", ""))
    sites.finish()
    return Provenance(entries, classes, sites, order, seen, trains, frozenset(facts.derived), facts.decided)


def _run(model: nn.Module, example_input: Any, facts: Facts) -> None:
    for tensor in tensors_in(example_input):
        facts.labels.set(tensor, [fixed(tensor.ndim)], activation=True)
    with Tracker(facts):
        result = call_model(model, example_input)
    for tensor in tensors_in(result):
        facts.pin(facts.map(tensor), "reaches the network's output")


def _run_for_training(model: nn.Module, example_input: Any, facts: Facts, calls: dict[str, int]) -> bool:
    """Follow what runs in training mode only, if anything does."""
    with training_outside_leaves(model):
        if _calls(model, example_input) in (None, calls):
            return False  # nothing else, or it needs more than the example to train (labels, boxes)
        _run(model, example_input, facts)
    return True


def _calls(model: nn.Module, example_input: Any) -> dict[str, int] | None:
    """Number of calls of every module with tensors of its own; None where the network does not run."""
    calls: dict[str, int] = {}

    def counting(name: str) -> Any:
        return lambda _module, _args: calls.update({name: calls.get(name, 0) + 1})

    handles = [
        module.register_forward_pre_hook(counting(name)) for name, module in model.named_modules() if _own(module)
    ]
    try:
        call_model(model, example_input)
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError):
        return None
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _own(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


@contextmanager
def _watched(model: nn.Module, facts: Facts, order: dict[str, int], calls: dict[str, int]) -> Iterator[None]:
    """Inside, modules say when they run."""
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        own = _own(module)

        def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
            facts.context.stack.append((name, module))
            if own:
                order.setdefault(name, len(order))
                calls[name] = calls.get(name, 0) + 1
            if isinstance(module, _BARE_NORMS) and not own:
                _carry(facts, name, module, args[0] if args else next(iter(kwargs.values()), None))

        def leave(_module: nn.Module, _args: Any, _result: Any) -> None:
            facts.context.stack.pop()

        handles.append(module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, always_call=True))

    for name, module in model.named_modules():
        watch(name, module)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        facts.context.stack.clear()


def _carry(facts: Facts, name: str, module: nn.Module, given: Any) -> None:
    """Let a normalisation without tensors share the ids of its channels: its attributes count them."""
    if not isinstance(given, Tensor):
        return
    dim = given.ndim - 1 if isinstance(module, nn.LayerNorm) else 1
    plane = facts.map(given).plane
    if plane is None or varying(plane) != (dim,):
        return
    ids = facts.features(name, given.shape[dim])
    facts.classes.unite(plane.flatten(), ids, facts.reason("meets a normalisation that stays"))

"""Times of a network's modules, taken inside the running network.

A module timed alone finds its data in the caches; inside its network it does not. Hooks mark the instants before and
after every module without children, so that both its own time and what passes between two of them (additions,
concatenations, activations written as functions) are seen where they happen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from prune_gym.support.device import module_device
from prune_gym.support.timing import inference, make_clock


@dataclass(frozen=True, eq=False)
class ModuleCall:
    """One call of a module in one pass.

    Attributes:
        name: Qualified name of the module.
        inputs: Its first input, on the meta device: shape, strides and dtype without data.
        output: Its output, likewise.
        own_ms: Time inside the module, in ms.
        span_ms: Time since the module called before it (or the start of the pass) returned, in ms. Spans of a pass
            add up to the pass; the last one ends with it.
    """

    name: str
    inputs: Tensor
    output: Tensor
    own_ms: float
    span_ms: float


class ModuleTimer:
    """Runs a network and times the calls of its modules that have no children.

    Calls whose first input or whose output is not a tensor are left to the span of the next call.

    Args:
        model: The network; left in the modes it came in and without hooks.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._clock = make_clock(module_device(model))
        self._leaves = {
            name: module for name, module in model.named_modules() if name and next(module.children(), None) is None
        }
        self._seen: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self._starts: dict[str, Any] = {}
        self._marks: list[tuple[str, Any, Any]] = []
        self._counts: dict[str, int] = {}

    def run(self, *inputs: Any) -> list[ModuleCall]:
        """Run once, in eval and inference mode, and return the calls in the order they returned."""
        self._marks, self._counts = [], {}
        with self._hooked(), inference(self._model):
            begin = self._clock.mark()
            self._model(*inputs)
            end = self._clock.mark()
        calls, occurrences, last = [], dict.fromkeys(self._leaves, 0), begin
        for position, (name, start, stop) in enumerate(self._marks):
            seen = self._seen[name, occurrences[name]]
            occurrences[name] += 1
            until = end if position == len(self._marks) - 1 else stop
            own, span = self._clock.elapsed_ms(start, stop), self._clock.elapsed_ms(last, until)
            calls.append(ModuleCall(name, *seen, own, span))
            last = stop
        return calls

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        handles = []
        try:
            for name, module in self._leaves.items():
                handles.append(module.register_forward_pre_hook(self._before(name)))
                handles.append(module.register_forward_hook(self._after(name), with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            self._starts[name] = self._clock.mark()

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            stop = self._clock.mark()
            given = args[0] if args else kwargs.get("input")
            if not (isinstance(given, Tensor) and isinstance(output, Tensor)):
                return
            occurrence = self._counts.get(name, 0)
            self._counts[name] = occurrence + 1
            self._marks.append((name, self._starts[name], stop))
            if (name, occurrence) not in self._seen:
                # Only shapes and strides are asked of them later; storages are not kept alive.
                self._seen[name, occurrence] = (given.detach().to("meta"), output.detach().to("meta"))

        return hook

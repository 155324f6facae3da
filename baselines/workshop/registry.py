"""Methods by name, and the one signature they share.

A method is written as a function of a :class:`~baselines.workshop.workbench.Workbench`; :func:`register` makes it a
public ``method_prune(model, dataloader, pruning_ratio=0.5, **options)``. Checks, cutting, reporting and the options
everyone shares are here, so a method's file holds its algorithm and nothing else.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from torch import nn

from baselines.workshop.removal import TOLERANCE, everything
from baselines.workshop.workbench import Outcome, Workbench, kept_counts
from hessian.support.names import suggest
from hessian.support.progress import Progress

MODULES = ("controls", "dep_graph", "autocompress", "hrank", "taylor", "adaprune", "gnn", "amc")
"""Modules of the package's methods; each registers itself when imported."""

BENCH_OPTIONS = (
    "ratio_of",
    "seed",
    "batch_size",
    "validation",
    "max_pruning_ratio",
    "ignored_layers",
    "augment",
)


class PruneFunction(Protocol):
    """A public pruning function."""

    __name__: str

    def __call__(self, model: nn.Module, dataloader: Any, pruning_ratio: float = 0.5, **options: Any) -> Any:
        """Return the pruned network, or it and a :class:`PruneInfo` with ``return_info=True``."""
        ...


@dataclass(frozen=True)
class Baseline:
    """A method in the registry.

    Attributes:
        name: what users write, such as ``"dep-graph"``.
        summary: one line for listings.
        prune: the public function.
        needs_labels: whether the loader must yield labels.
        options: the method's own keyword arguments.
    """

    name: str
    summary: str
    prune: PruneFunction
    needs_labels: bool
    options: tuple[str, ...]


@dataclass(frozen=True)
class PruneInfo:
    """Decisions of a method and the resources it spent.

    Attributes:
        method: name in the registry.
        plan: layer name -> removed channel indices, in the dense network's numbering. The same channels can be cut
            from the dense network and repaired by other means: ``PhysicalPruner(model, example).prune(info.plan,
            refit=...)``.
        kept: layer name -> units kept.
        pruning_ratio: asked for.
        ratio_of: of the channels or of the FLOPs.
        channel_reduction: share of the prunable layers' channels removed.
        flops_reduction: share of the FLOPs removed.
        on_target: whether what ``ratio_of`` names is within 1 % of the dense network of ``pruning_ratio``.
        images: images run forward through a network.
        backward_passes: backward passes, one a minibatch.
        evaluations: distinct candidate plans whose accuracy was measured.
        seconds: wall-clock time.
        details: what else the method found, JSON-able.
    """

    method: str
    plan: dict[str, list[int]]
    kept: dict[str, int]
    pruning_ratio: float
    ratio_of: str
    channel_reduction: float
    flops_reduction: float
    on_target: bool
    images: int
    backward_passes: int
    evaluations: int
    seconds: float
    details: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        return asdict(self)


_REGISTRY: dict[str, Baseline] = {}


def register(
    name: str, summary: str, *, needs_labels: bool = True, overwrite: bool = False
) -> Callable[[Callable[..., Outcome]], PruneFunction]:
    """Decorator that makes an algorithm a public method.

    The decorated function takes a :class:`~baselines.workshop.workbench.Workbench` and keyword options of its own and
    returns an :class:`~baselines.workshop.workbench.Outcome`. What comes out has the signature ``(model, dataloader,
    pruning_ratio=0.5, **options)`` with the function's own options and these:

    ==================  ====================================================================================
    option              meaning
    ==================  ====================================================================================
    ratio_of            ``"channels"`` (default) or ``"flops"``: what ``pruning_ratio`` is a share of
    seed                decides everything random; 0
    batch_size          images a training step; 32
    validation          loader or split that candidate plans are scored on; the ``dataloader`` by default
    max_pruning_ratio   largest share of a single layer that may go; 0.95
    ignored_layers      names of modules whose channels stay
    augment             :class:`prune_gym.data.augmentation.Augmentation` of training images; None
    progress            True draws a bar, False none, a callable is called with (description, done, total); by default a
                        bar is drawn on a terminal
    return_info         whether to return ``(network, PruneInfo)``
    ==================  ====================================================================================

    Every method raises the same errors: ValueError for a ``pruning_ratio`` outside [0, 1) or out of reach, an unknown
    ``ratio_of``, a loader that is empty or lacks labels the method needs, a network without prunable layers, or
    batches of one image for a network with batch norms; TypeError for an unknown option or a model that is no module.
    A result more than 1 % of the dense network off the target is reported as a UserWarning and in
    ``PruneInfo.on_target``. The model given is never modified; the result is in evaluation mode.

    Args:
        name: what users write.
        summary: one line.
        needs_labels: whether the loader must yield labels.
        overwrite: whether an existing method of that name is replaced.

    Raises:
        ValueError: the name is taken.
    """

    def decorate(algorithm: Callable[..., Outcome]) -> PruneFunction:
        if name in _REGISTRY and not overwrite and _REGISTRY[name].prune.__module__ != algorithm.__module__:
            raise ValueError(f"a method {name!r} is registered already; pass overwrite=True to replace it")
        own = list(inspect.signature(algorithm).parameters.values())[1:]
        options = tuple(parameter.name for parameter in own)

        @functools.wraps(algorithm)
        def prune(model: nn.Module, dataloader: Any, pruning_ratio: float = 0.5, **given: Any) -> Any:
            return _run(_REGISTRY[name], algorithm, model, dataloader, pruning_ratio, given)

        prune.__signature__ = _public_signature(own)  # type: ignore[attr-defined]
        _REGISTRY[name] = Baseline(name, summary, prune, needs_labels, options)
        return prune

    return decorate


def available() -> list[str]:
    """Names of all methods: those of the package, then registered ones."""
    for module in MODULES:
        importlib.import_module(f"baselines.methods.{module}")
    places = {f"baselines.methods.{module}": place for place, module in enumerate(MODULES)}
    return sorted(_REGISTRY, key=lambda name: places.get(_REGISTRY[name].prune.__module__, len(places)))


def get(name: str) -> Baseline:
    """A method by name.

    Raises:
        KeyError: there is none; the message names the nearest.
    """
    known = available()
    if name not in known:
        raise KeyError(f"unknown method {name!r}{suggest(name, known)}")
    return _REGISTRY[name]


def _run(
    baseline: Baseline,
    algorithm: Callable[..., Outcome],
    model: nn.Module,
    dataloader: Any,
    pruning_ratio: float,
    given: Mapping[str, Any],
) -> Any:
    options = dict(given)
    progress, return_info = options.pop("progress", None), options.pop("return_info", False)
    _check_options(baseline, options)
    shared = {key: options.pop(key) for key in BENCH_OPTIONS if key in options}
    started = time.perf_counter()
    with _progress_callback(progress, baseline.name) as callback:
        bench = Workbench(
            model, dataloader, pruning_ratio, needs_labels=baseline.needs_labels, progress=callback, **shared
        )
        # Nothing to remove is nothing to do: methods that train would otherwise return another dense network.
        outcome = algorithm(bench, **options) if bench.target.ratio > 0 else Outcome(everything(bench.groups))
        pruned = outcome.pruned if outcome.pruned is not None else bench.cut(outcome.selection, outcome.model)
    info = _info(baseline.name, bench, outcome, time.perf_counter() - started)
    if not info.on_target and baseline.name != "unpruned":
        reached = info.flops_reduction if info.ratio_of == "flops" else info.channel_reduction
        warnings.warn(
            f"{baseline.name} removed {100 * reached:.1f} % of the {info.ratio_of} instead of "
            f"{100 * info.pruning_ratio:.1f} %, more than 1 % off the target",
            UserWarning,
            stacklevel=3,
        )
    network = pruned.eval().requires_grad_(True)
    return (network, info) if return_info else network


def _check_options(baseline: Baseline, options: Mapping[str, Any]) -> None:
    known = (*baseline.options, *BENCH_OPTIONS, "progress", "return_info")
    unknown = [key for key in options if key not in known]
    if unknown:
        raise TypeError(f"{baseline.name} takes no option {unknown[0]!r}{suggest(unknown[0], known)}")


def _info(name: str, bench: Workbench, outcome: Outcome, seconds: float) -> PruneInfo:
    kept = kept_counts(outcome.selection)
    widths = [group.size // group.num_units for group in bench.groups]
    channels = sum(group.size for group in bench.groups)
    reached = bench.target.reduction(kept)
    return PruneInfo(
        method=name,
        plan=bench.plan(outcome.selection),
        kept=dict(zip((group.name for group in bench.groups), kept, strict=True)),
        pruning_ratio=bench.target.ratio,
        ratio_of=bench.target.ratio_of,
        channel_reduction=1.0 - sum(k * w for k, w in zip(kept, widths, strict=True)) / channels,
        flops_reduction=float(bench.cost.reduction(kept)),  # type: ignore[arg-type]
        on_target=abs(reached - bench.target.ratio) <= TOLERANCE,
        images=bench.spent.images,
        backward_passes=bench.spent.backward_passes,
        evaluations=bench.spent.evaluations,
        seconds=seconds,
        details=dict(outcome.details),
    )


def _public_signature(own: list[inspect.Parameter]) -> inspect.Signature:
    kinds = inspect.Parameter
    shared = inspect.signature(Workbench).parameters
    head = [
        kinds("model", kinds.POSITIONAL_OR_KEYWORD),
        kinds("dataloader", kinds.POSITIONAL_OR_KEYWORD),
        kinds("pruning_ratio", kinds.POSITIONAL_OR_KEYWORD, default=0.5),
    ]
    tail = [shared[name] for name in BENCH_OPTIONS]
    last = [
        kinds(name, kinds.KEYWORD_ONLY, default=value) for name, value in (("progress", None), ("return_info", False))
    ]
    return inspect.Signature([*head, *own, *tail, *last])


@contextmanager
def _progress_callback(progress: bool | Progress | None, name: str) -> Iterator[Progress | None]:
    """The caller's callback, or a bar on standard error, or nothing."""
    if callable(progress) or progress is False:
        yield progress or None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (TextColumn(name), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, transient=True, disable=progress is None and not console.is_terminal) as bars:
        bar = bars.add_task("", total=None)
        yield lambda description, done, total: bars.update(bar, description=description, completed=done, total=total)

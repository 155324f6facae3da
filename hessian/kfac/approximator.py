"""Streaming Kronecker factors of a network's curvature (K-FAC).

Around the trained weights the loss of one layer is modelled by ``dL(dW) = 1/2 tr(G dW A dW^T)`` with

* ``A = E[a a^T]`` over inputs (patches of a convolution, a constant 1 appended for a bias) and
* ``G = E[g g^T]`` over output gradients, which carry the loss Hessian (see :mod:`hessian.kfac.loss_curvature`).

Two approximations of weight sharing (Eschenhagen et al., NeurIPS 2023), S output positions, N samples:

* ``expand`` (default): ``A = 1/(N S) sum_ns a a^T``, ``G = 1/N sum_ns g g^T``. The one whose prices telescope.
* ``reduce``: positions are averaged (a) and summed (g) first, ``A = 1/N sum_n``, ``G = 1/N sum_n``.

Factors are gathered by hooks during ordinary passes; no weight gradients are needed. Grouped and depthwise convolutions
have one exact pair of factors a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hessian.channels.layer_calls import layer_input
from hessian.kfac.checks import check_model, layers_to_watch
from hessian.kfac.fisher_diagonal import LastBatch, fisher_diagonal
from hessian.kfac.loss_curvature import Criterion
from hessian.kfac.passes import CurvaturePasses
from hessian.kfac.statistics import SeenInputs, Statistics, StatisticsSettings
from hessian.obs.algebra import damped, inverse
from hessian.obs.factors import KroneckerFactors
from hessian.patches.layer_view import LayerView, layer_view
from hessian.support.batches import Batch, length, model_device, read_batches
from hessian.support.distributed import Workers, current_workers
from hessian.support.door import plain_model, undisturbed
from hessian.support.modes import frozen_evaluation
from hessian.support.names import unknown
from hessian.support.progress import Progress

__all__ = ["KFACHessianApproximator", "KroneckerFactors", "Progress"]


SEED_STEP = 1_000_003
"""Between the seeds of successive batches."""


class KFACHessianApproximator:
    """Kronecker factors of every convolution and linear layer.

    Two ways to feed it. Either let it run the passes::

        factors = KFACHessianApproximator(model).estimate(loader, num_batches=10)

    or hook it into a training loop of your own (losses averaged over the batch)::

        with KFACHessianApproximator(model, update_freq=10).register_hooks() as kfac:
            for x, y in loader:
                criterion(model(x), y).backward()
                kfac.update_factors()

    Args:
        model: the network; its weights are never changed.
        damping: relative to the mean diagonal of a factor; used by :meth:`damped_inverses`.
        update_freq: with hooks, statistics are gathered on every ``update_freq``-th pass only.
        approximation: ``"expand"`` or ``"reduce"``.
        layers: names of the layers to watch; all convolutions and linear layers by default.
        dtype: type in which products are formed and summed, whatever the network computes in.
        extra_constant: layers without a bias whose A gets the constant 1 all the same (a following normalisation can
            absorb a shift).
        position_stride: use every n-th output position only, along every axis and from a random one on; unbiased
            (:mod:`hessian.patches.subsampling`).
        trace_calibration: scale every G so that ``tr(A) tr(G)`` is the trace of the layer's exact curvature
            (:mod:`hessian.kfac.calibration`); always from all positions.
        workers: processes that share the work; by default those of an initialised ``torch.distributed``.
        seed: seed of the random signs or labels and of the random positions.

    Raises:
        ValueError: unknown layer or approximation, non-positive damping, stride or update frequency, or a model whose
            weights are spread over devices or types.
    """

    def __init__(
        self,
        model: nn.Module,
        damping: float = 1e-3,
        update_freq: int = 10,
        *,
        approximation: str = "expand",
        layers: Sequence[str] | None = None,
        dtype: torch.dtype = torch.float32,
        extra_constant: Iterable[str] = (),
        position_stride: int = 1,
        trace_calibration: bool = False,
        workers: Workers | None = None,
        seed: int = 0,
    ) -> None:
        if approximation not in ("expand", "reduce"):
            raise ValueError(f"approximation must be 'expand' or 'reduce', got {approximation!r}")
        if not damping > 0:
            raise ValueError(f"damping must be positive (it is relative to the mean diagonal), got {damping}")
        if update_freq < 1:
            raise ValueError(f"update_freq must be at least 1, got {update_freq}")
        if position_stride < 1:
            raise ValueError(f"position_stride must be at least 1 (all positions), got {position_stride}")
        if not dtype.is_floating_point:
            raise ValueError(f"factors are accumulated in a floating-point type, got {dtype}")
        model = plain_model(model)
        self.model = model
        self.damping = damping
        self.update_freq = update_freq
        self.dtype = dtype
        self.seed = seed
        self.layers = layers_to_watch(model, layers)
        self.constant = {name for name, module in self.layers.items() if module.bias is not None} | set(extra_constant)
        self.factors: dict[str, KroneckerFactors] = {}
        self._settings = StatisticsSettings(approximation == "reduce", dtype, position_stride, trace_calibration)
        self._workers = workers
        self._names = {id(module): name for name, module in self.layers.items()}
        self._statistics = self._fresh_statistics(1)
        self._last: dict[str, LastBatch] = {}
        self._handles: list[RemovableHandle] = []
        self._calls = 0
        self._gathering = True
        self._loss_scale = "mean"
        self._keep_last = True
        self._inputs_only = False
        self._gradient_scale = 1.0

    # ------------------------------------------------------------------ feeding: your own passes

    def register_hooks(self) -> KFACHessianApproximator:
        """Watch the model's forward and backward passes until :meth:`remove_hooks`; returns itself."""
        if not self._handles:
            self._handles = [
                module.register_forward_hook(self._watch, with_kwargs=True) for module in self.layers.values()
            ]
        return self

    def remove_hooks(self) -> None:
        """Stop watching; factors stay."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> KFACHessianApproximator:
        return self.register_hooks()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove_hooks()

    def update_factors(self) -> bool:
        """Call once a pass, after backward. Every ``update_freq``-th call turns what was seen into :attr:`factors`.

        Returns:
            Whether the factors changed.

        Raises:
            RuntimeError: an update is due but no hooked forward and backward pass was seen.
            ValueError: a layer's statistics are not finite.
        """
        due = self._calls % self.update_freq == 0
        self._calls += 1
        if due:
            with self._all_workers().together():
                if not self._statistics.complete:
                    raise RuntimeError("no pass was seen: call register_hooks() before your forward and backward pass")
                self._statistics.check_finite()
            self._finish()
        self._gathering = self._calls % self.update_freq == 0
        return due

    # ------------------------------------------------------------------ feeding: runs the passes itself

    def estimate(
        self,
        dataloader: Any,
        criterion: Criterion | None = None,
        num_batches: int | None = 10,
        fisher: str = "sketch",
        *,
        progress: Progress | None = None,
    ) -> dict[str, KroneckerFactors]:
        """Run forward and backward passes in evaluation mode and gather the factors.

        Weights are frozen meanwhile (no weight gradients are computed); modes and flags are restored on any exit.

        Args:
            dataloader: calibration data in any form :mod:`hessian.support.batches` knows: images alone, (images,
                labels) pairs, dicts, several inputs.
            criterion: scalar loss of (outputs, labels); None is the outputs' default loss
                (:mod:`hessian.kfac.default_loss`), which needs no labels.
            num_batches: batches to read; None reads all.
            fisher: ``"sketch"``, ``"mc"``, ``"type-2"`` or ``"empirical"`` (:mod:`hessian.kfac.loss_curvature`).
            progress: called with (description, done, total) after every batch.

        Returns:
            :attr:`factors`, by layer name.

        Raises:
            ValueError: empty loader, unknown fisher type, a criterion that is not scalar or lacks labels, or non-finite
                statistics (the layer is named).
        """
        passes = CurvaturePasses(self.model, criterion, fisher)
        check_model(self.model)
        self._gradient_scale = passes.scale
        self._run(dataloader, num_batches, passes, passes.run, progress)
        return self.factors

    def estimate_inputs(
        self, dataloader: Any, num_batches: int | None = 10, *, progress: Progress | None = None
    ) -> dict[str, KroneckerFactors]:
        """Gather A alone, by forward passes: what least-squares repairs need, whatever the network returns.

        Args:
            dataloader: as for :meth:`estimate`; labels are not used.
            num_batches: batches to read; None reads all.
            progress: called with (description, done, total) after every batch.

        Returns:
            :attr:`factors`, by layer name; G is zero (no vectors).

        Raises:
            ValueError: empty loader or non-finite statistics (the layer is named).
        """
        passes = CurvaturePasses(self.model, None, "sketch")
        self._inputs_only = True
        try:
            self._run(dataloader, num_batches, passes, lambda batch, _: passes.run_forward(batch), progress)
        finally:
            self._inputs_only = False
        return self.factors

    def _run(
        self,
        dataloader: Any,
        num_batches: int | None,
        passes: CurvaturePasses,
        run: Callable[[Batch, torch.Generator], None],
        progress: Progress | None,
    ) -> None:
        device = model_device(self.model)
        generator = torch.Generator(device)
        total = length(dataloader) if num_batches is None else min(num_batches, length(dataloader) or num_batches)
        self._statistics, self._last = self._fresh_statistics(max(1, total)), {}
        self._gathering, self._loss_scale, self._keep_last = True, "sum", False
        workers = self._all_workers()
        try:
            with workers.together(), undisturbed(self.model), frozen_evaluation(self.model):
                for done, batch in enumerate(read_batches(dataloader, device, num_batches, model=self.model)):
                    seed = self.seed + SEED_STEP * (done * workers.size + workers.rank)
                    self._statistics.reseed(seed)
                    self._statistics.begin_pass(len(batch))
                    passes.prepare(batch)
                    with self:
                        run(batch, generator.manual_seed(seed))
                    self._statistics.check_finite()
                    if progress is not None:
                        progress("Kronecker factors", done + 1, max(total, done + 1))
            self._finish()
        finally:
            # After an error too: a pass of the user's own starts from nothing.
            self._statistics = self._fresh_statistics(1)
            self._loss_scale, self._keep_last, self._gradient_scale = "mean", True, 1.0

    # ------------------------------------------------------------------ gathering

    def _watch(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
        """Forward hook: add the inputs to A and leave a gradient hook on the output for G."""
        if not self._gathering or not (torch.is_grad_enabled() or self._inputs_only):
            return None
        name = self._names[id(module)]
        view = _view(module, layer_input(args, kwargs).detach())
        if self._inputs_only:
            self._statistics.add_inputs(name, view.module, view.inputs, output)
            return None
        replaced = None
        if not output.requires_grad:
            # Frozen weights and a plain input: start the graph here. A clone, as in-place ops refuse leaves.
            output = replaced = output.detach().requires_grad_().clone()
        seen = self._statistics.add_inputs(name, view.module, view.inputs, output)
        if self._keep_last:
            self._last[name] = LastBatch(view.module, view.inputs)
        output.register_hook(lambda gradient: self._add_gradient(name, view.module, seen, gradient.detach()))
        return replaced

    def _add_gradient(self, name: str, module: nn.Module, seen: SeenInputs, gradient: Tensor) -> None:
        if self._keep_last and name in self._last:
            self._last[name].gradients.append(gradient)
        if self._loss_scale == "mean":
            # A batch-averaged loss: gradients of single samples are batch-size times larger.
            gradient = gradient.to(self.dtype) * len(gradient)
        if self._gradient_scale != 1.0:
            gradient = gradient.to(self.dtype) / self._gradient_scale
        self._statistics.add_gradient(name, module, seen, gradient)

    def _finish(self) -> None:
        workers, device = self._all_workers(), model_device(self.model)
        self.factors = self._statistics.factors(workers, device, gradients=not self._inputs_only)
        self._statistics = self._fresh_statistics(1)

    def _fresh_statistics(self, passes: int) -> Statistics:
        return Statistics(self._settings, self.constant, passes=passes, seed=self.seed)

    def _all_workers(self) -> Workers:
        return self._workers or current_workers(model_device(self.model))

    # ------------------------------------------------------------------ reading

    def damped_inverses(self, layer_name: str) -> tuple[Tensor, Tensor]:
        """Inverses of ``A + damping mean(diag A) I`` and of G likewise, computed afresh in float64.

        Raises:
            ValueError: unknown layer or no factors yet.
        """
        factors = self._require(layer_name)
        return inverse(damped(factors.A, self.damping)), inverse(damped(factors.G, self.damping))

    def compute_fisher_diagonal(self, layer_name: str) -> Tensor:
        """Diagonal of the layer's Fisher, exact per sample on the last hooked batch.

        Not the product of the factors' diagonals: see :func:`hessian.kfac.fisher_diagonal.fisher_diagonal`.

        Args:
            layer_name: a watched layer.

        Returns:
            Tensor of the shape of the layer's weight.

        Raises:
            ValueError: unknown layer, or no hooked pass was seen.
        """
        self._require_known(layer_name)
        last = self._last.get(layer_name)
        if last is None or not last.gradients:
            raise ValueError(
                f"no batch is kept for layer {layer_name!r}: run a forward and backward pass between register_hooks() "
                "and this call"
            )
        gradients = [gradient.to(self.dtype) * len(gradient) for gradient in last.gradients]
        return fisher_diagonal(last.module, last.inputs.to(self.dtype), gradients)

    def _require_known(self, layer_name: str) -> None:
        if layer_name not in self.layers:
            raise ValueError(unknown("layer", layer_name, self.layers))

    def _require(self, layer_name: str) -> KroneckerFactors:
        self._require_known(layer_name)
        if layer_name not in self.factors:
            raise ValueError(f"layer {layer_name!r} has no factors yet; call estimate(...) or update_factors() first")
        return self.factors[layer_name]


def _view(module: Any, inputs: Tensor) -> LayerView:
    """A layer as it is called; one whose forward is more than a convolution or linear map is taken as it declares."""
    try:
        return layer_view(module, inputs)
    except NotImplementedError:
        return LayerView(module, inputs, module.weight)

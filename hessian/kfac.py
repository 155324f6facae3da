"""Streaming Kronecker factors of a network's curvature (K-FAC).

Around the trained weights the loss of one layer is modelled by ``dL(dW) = 1/2 tr(G dW A dW^T)`` with

* ``A = E[a a^T]`` over inputs (patches of a convolution, a constant 1 appended for a bias) and
* ``G = E[g g^T]`` over output gradients, which carry the loss Hessian (see :mod:`hessian.loss_curvature`).

Two approximations of weight sharing (Eschenhagen et al., NeurIPS 2023), S output positions, N samples:

* ``expand`` (default): ``A = 1/(N S) sum_ns a a^T``, ``G = 1/N sum_ns g g^T``. The one whose prices telescope.
* ``reduce``: positions are averaged (a) and summed (g) first, ``A = 1/N sum_n``, ``G = 1/N sum_n``.

Factors are gathered by hooks during ordinary passes; no weight gradients are needed. Grouped and depthwise convolutions
have one exact pair of factors a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hessian.batches import model_device, read_batches
from hessian.channels import MIXING_TYPES, suggest
from hessian.covariance import from_matrix, input_second_moment, output_columns, output_second_moment, patches
from hessian.loss_curvature import FISHER_TYPES, Criterion, backpropagated_vectors, check_criterion
from hessian.modes import modes_restored

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class KroneckerFactors:
    """Curvature of one layer.

    Attributes:
        A: input factor [groups, d_in, d_in]; the last row and column belong to the constant 1 when ``bias``.
        G: output-gradient factor [groups, d_out, d_out].
        bias: whether A carries the constant.
    """

    A: Tensor
    G: Tensor
    bias: bool


@dataclass
class _Sums:
    """Running sums of one layer's statistics."""

    A: Tensor | None = None
    G: Tensor | None = None
    terms: int = 0
    samples: int = 0


@dataclass
class _LastBatch:
    """Inputs and output gradients of the last batch, for per-sample quantities."""

    inputs: Tensor | None = None
    gradients: list[Tensor] = field(default_factory=list)


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
        dtype: accumulation type of the factors.
        extra_constant: layers without a bias whose A gets the constant 1 all the same (a following normalisation can
            absorb a shift).
        seed: seed of the random signs or labels.

    Raises:
        ValueError: unknown layer, approximation or non-positive damping.
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
        seed: int = 0,
    ) -> None:
        if approximation not in ("expand", "reduce"):
            raise ValueError(f"approximation must be 'expand' or 'reduce', got {approximation!r}")
        if not damping > 0:
            raise ValueError(f"damping must be positive (it is relative to the mean diagonal), got {damping}")
        if update_freq < 1:
            raise ValueError(f"update_freq must be at least 1, got {update_freq}")
        self.model = model
        self.damping = damping
        self.update_freq = update_freq
        self.reduce = approximation == "reduce"
        self.dtype = dtype
        self.seed = seed
        self.layers = _layers_to_watch(model, layers)
        self.constant = {name for name, module in self.layers.items() if module.bias is not None} | set(extra_constant)
        self.factors: dict[str, KroneckerFactors] = {}
        self._names = {id(module): name for name, module in self.layers.items()}
        self._sums: dict[str, _Sums] = {}
        self._last: dict[str, _LastBatch] = {}
        self._handles: list[RemovableHandle] = []
        self._calls = 0
        self._gathering = True
        self._loss_scale = "mean"
        self._keep_last = True

    # ------------------------------------------------------------------ feeding: your own passes

    def register_hooks(self) -> KFACHessianApproximator:
        """Watch the model's forward and backward passes until :meth:`remove_hooks`; returns itself."""
        if not self._handles:
            self._handles = [module.register_forward_hook(self._watch) for module in self.layers.values()]
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
            if not any(sums.G is not None for sums in self._sums.values()):
                raise RuntimeError("no pass was seen: call register_hooks() before your forward and backward pass")
            self._finish()
        self._gathering = self._calls % self.update_freq == 0
        return due

    # ------------------------------------------------------------------ feeding: runs the passes itself

    def estimate(
        self,
        dataloader: Iterable[Any],
        criterion: Criterion | None = None,
        num_batches: int | None = 10,
        fisher: str = "sketch",
        *,
        progress: Progress | None = None,
    ) -> dict[str, KroneckerFactors]:
        """Run forward and backward passes in evaluation mode and gather the factors.

        Weights are frozen meanwhile (no weight gradients are computed); modes and flags are restored on any exit.

        Args:
            dataloader: yields (inputs, labels) or dict batches.
            criterion: scalar loss of (outputs, labels); None is cross-entropy.
            num_batches: batches to read; None reads all.
            fisher: ``"sketch"``, ``"mc"``, ``"type-2"`` or ``"empirical"`` (:mod:`hessian.loss_curvature`).
            progress: called with (description, done, total) after every batch.

        Returns:
            :attr:`factors`, by layer name.

        Raises:
            ValueError: empty loader, unknown fisher type, non-scalar criterion, or non-finite statistics (the layer
                is named).
        """
        if fisher not in FISHER_TYPES:
            raise ValueError(f"unknown fisher type {fisher!r}; choose one of {', '.join(FISHER_TYPES)}")
        device = model_device(self.model)
        _check_weights(self.model)
        generator = torch.Generator(device).manual_seed(self.seed)
        total = num_batches if num_batches is not None else _length(dataloader)
        self._sums, self._last = {}, {}
        self._gathering, self._loss_scale, self._keep_last = True, "sum", False
        with _frozen_evaluation(self.model), self:
            for done, (inputs, labels) in enumerate(read_batches(dataloader, device, num_batches), start=1):
                outputs = self._forward(inputs, labels, criterion)
                vectors = list(backpropagated_vectors(outputs, labels, criterion, fisher, generator))
                for index, vector in enumerate(vectors):
                    outputs.backward(vector, retain_graph=index + 1 < len(vectors))
                self._check_finite()
                if progress is not None:
                    progress("Kronecker factors", done, max(total, done))
        self._loss_scale, self._keep_last = "mean", True
        self._finish()
        return self.factors

    def _forward(self, inputs: Tensor, labels: Tensor, criterion: Criterion | None) -> Tensor:
        with torch.enable_grad():
            outputs = self.model(inputs)
        if not isinstance(outputs, Tensor):
            raise ValueError(f"the model must return one tensor, got {type(outputs).__name__}")
        if not outputs.requires_grad:
            raise ValueError("no watched layer reaches the model's output; curvature cannot be measured")
        with torch.no_grad():
            check_criterion(criterion, outputs, labels)
        return outputs

    # ------------------------------------------------------------------ gathering

    def _watch(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Forward hook: add the inputs to A and leave a gradient hook on the output for G."""
        if not self._gathering or not torch.is_grad_enabled():
            return None
        name = self._names[id(module)]
        replaced = None
        if not output.requires_grad:
            # Frozen weights and a plain input: start the graph here. A clone, as in-place ops refuse leaves.
            output = replaced = output.detach().requires_grad_().clone()
        sums = self._sums.setdefault(name, _Sums())
        with torch.no_grad():
            moment, terms = input_second_moment(
                module, inputs[0].detach(), bias=name in self.constant, reduce=self.reduce
            )
            sums.A = moment.to(self.dtype) if sums.A is None else sums.A.add_(moment.to(self.dtype))
            sums.terms += terms
            sums.samples += len(inputs[0])
        if self._keep_last:
            self._last[name] = _LastBatch(inputs[0].detach())
        output.register_hook(lambda gradient: self._add_gradient(name, module, gradient))
        return replaced

    def _add_gradient(self, name: str, module: nn.Module, gradient: Tensor) -> None:
        gradient = gradient.detach()
        if self._keep_last and name in self._last:
            self._last[name].gradients.append(gradient)
        moment = output_second_moment(module, gradient, reduce=self.reduce).to(self.dtype)
        if self._loss_scale == "mean":
            # A batch-averaged loss: gradients of single samples are batch-size times larger.
            moment = moment * len(gradient) ** 2
        sums = self._sums[name]
        sums.G = moment if sums.G is None else sums.G.add_(moment)

    def _check_finite(self) -> None:
        for letter, what in (("A", "activations"), ("G", "output gradients")):
            for name, sums in self._sums.items():
                moment = getattr(sums, letter)
                if moment is not None and not torch.isfinite(moment.diagonal(dim1=1, dim2=2)).all():
                    raise ValueError(f"layer {name!r} has NaN or infinite {what}; check its weights and the images")

    def _finish(self) -> None:
        self._check_finite()
        self.factors = {
            name: KroneckerFactors(sums.A / sums.terms, sums.G / sums.samples, name in self.constant)
            for name, sums in self._sums.items()
            if sums.A is not None and sums.G is not None
        }
        self._sums = {}

    # ------------------------------------------------------------------ reading

    def damped_inverses(self, layer_name: str) -> tuple[Tensor, Tensor]:
        """Inverses of ``A + damping mean(diag A) I`` and of G likewise, computed afresh in float64.

        Raises:
            ValueError: unknown layer or no factors yet.
        """
        factors = self._require(layer_name)
        return damped_inverse(factors.A, self.damping), damped_inverse(factors.G, self.damping)

    def compute_fisher_diagonal(self, layer_name: str) -> Tensor:
        """Diagonal of the layer's Fisher, exact per sample on the last hooked batch.

        ``F_ij = 1/N sum_n (dL_n / dW_ij)^2`` with the full per-sample weight gradient (positions summed before the
        square), not the product of the factors' diagonals.

        Args:
            layer_name: a watched layer.

        Returns:
            Tensor of the shape of the layer's weight.

        Raises:
            ValueError: unknown layer, or no hooked pass was seen.
        """
        if layer_name not in self.layers:
            raise ValueError(f"unknown layer {layer_name!r}" + suggest(layer_name, self.layers))
        last = self._last.get(layer_name)
        if last is None or last.inputs is None or not last.gradients:
            raise ValueError(
                f"no batch is kept for layer {layer_name!r}: run a forward and backward pass between register_hooks() "
                "and this call"
            )
        module: Any = self.layers[layer_name]
        columns = patches(module, last.inputs)
        total = torch.zeros(columns.shape[1], 1, 1, device=columns.device)
        for gradient in last.gradients:
            rows = output_columns(module, gradient) * len(gradient)
            per_sample = torch.einsum("ngos,ngis->ngoi", rows, columns)
            total = total + per_sample.square().mean(dim=0)
        return from_matrix(module, total, bias=False)[0]

    def _require(self, layer_name: str) -> KroneckerFactors:
        if layer_name not in self.layers:
            raise ValueError(f"unknown layer {layer_name!r}" + suggest(layer_name, self.layers))
        if layer_name not in self.factors:
            raise ValueError(f"layer {layer_name!r} has no factors yet; call estimate(...) or update_factors() first")
        return self.factors[layer_name]


def damped_inverse(matrix: Tensor, damping: float) -> Tensor:
    """``(M + damping mean(diag M) I)^-1`` in float64, batched over leading dimensions [..., d, d]."""
    matrix = matrix.double()
    mean = matrix.diagonal(dim1=-2, dim2=-1).mean(dim=-1).clamp_min(torch.finfo(torch.float64).tiny)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.inv(matrix + (damping * mean)[..., None, None] * eye)


def _layers_to_watch(model: nn.Module, layers: Sequence[str] | None) -> dict[str, Any]:
    available = {name: module for name, module in model.named_modules() if isinstance(module, MIXING_TYPES)}
    if layers is None:
        return available
    for name in layers:
        if name not in available:
            raise ValueError(f"unknown layer {name!r}" + suggest(name, available))
    return {name: available[name] for name in layers}


def _check_weights(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"layer {name.rpartition('.')[0]!r} has NaN or infinite values in {name!r}")


def _length(dataloader: Iterable[Any]) -> int:
    return len(dataloader) if isinstance(dataloader, Sized) else 0


@contextmanager
def _frozen_evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without weight gradients; both restored on exit."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with modes_restored(model):
            model.eval().requires_grad_(False)
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)

"""H-OBS: prices, elimination orders and loss curves of every prunable layer.

Removing channels is priced and repaired at their consumers (:mod:`hessian.obs`). One greedy sweep a layer yields its
elimination *order*, so that every budget is a prefix of it, and its *loss curve*: the predicted loss increase of every
prefix. Static prices of single channels are the sweep's first step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hessian.audit.audit import audit_prices
from hessian.audit.report import AuditReport
from hessian.channels.flops import FlopsModel
from hessian.channels.group import ChannelGroup
from hessian.channels.layer_calls import calls_of_one_input
from hessian.channels.norms import shift_absorbing_norms
from hessian.discovery.find import find_channel_groups
from hessian.kfac.approximator import KFACHessianApproximator
from hessian.kfac.checks import check_model
from hessian.kfac.loss_curvature import Criterion
from hessian.obs.factors import KroneckerFactors
from hessian.patches.layer_view import irreplaceable_layers
from hessian.pricing import storage
from hessian.pricing.analysis import Analysis
from hessian.pricing.budgeting import RANKINGS, cheapest_removals, prefix_plan, prices_of_channels
from hessian.pricing.exact import exact_analysis
from hessian.pricing.layer_sweeps import LayerCurves, sweep_layers
from hessian.refit.closed_form import Compensator
from hessian.refit.standardised import StandardisedLayer, standardised_layers
from hessian.support.batches import as_batches, model_device, read_batches
from hessian.support.distributed import Workers, current_workers
from hessian.support.door import plain_model, undisturbed
from hessian.support.progress import Progress


class HOBSSensitivityAnalyzer:
    """Prices every channel of a network and plans which to remove.

    Example::

        hobs = HOBSSensitivityAnalyzer(model)
        prices = hobs.compute_sensitivity(calibration_loader)
        plan = hobs.get_pruning_plan(pruning_ratio=0.5)

    Args:
        model: a trained network; never modified.
        damping: relative damping of the input factor A, at least 1e-5 for float32 statistics.
        use_kfac: Kronecker factors (default), or exact quadratics (:mod:`hessian.pricing.exact`; small networks only).
        example_input: a tensor the model accepts; taken from the first batch when absent.
        ignored_layers: names or modules whose channels stay.
        groups: the prunable layers, where they are known of this very model; else they are found.
        approximation: ``"expand"`` (default) or ``"reduce"``, see :mod:`hessian.kfac`.
        fisher: curvature estimator, see :mod:`hessian.kfac.loss_curvature`.
        absorb_shift: let a BatchNorm behind a bias-free consumer absorb a refitted constant.
        dtype: type in which curvature is summed up.
        position_stride: measure curvature at every n-th position of a feature map only, see
            :mod:`hessian.patches.subsampling`.
        trace_calibration: give every layer the trace of its exact curvature, see :mod:`hessian.kfac.calibration`.
        workers: processes that share the work, each with its own batches; by default those of an initialised
            ``torch.distributed`` (:mod:`hessian.support.distributed`).
        seed: seed of the curvature sketch.

    Attributes:
        groups: the prunable layers, in execution order.
        factors: Kronecker factors by consumer.
        prices: layer -> float64 [num_units], price in nats of removing a single unit.
        orders: layer -> LongTensor [num_units], units in the order of removal.
        curves: layer -> float64 [num_units], predicted loss increase (nats) after removing the first k units.
        obd_curves: the same without repair.
        left_out: consumers that :meth:`compensate` leaves as they are -> why: those that compute their weight from
            parameters, other than by standardising it.
    """

    def __init__(
        self,
        model: nn.Module,
        damping: float = 1e-3,
        use_kfac: bool = True,
        *,
        example_input: Any = None,
        ignored_layers: Sequence[str | nn.Module] = (),
        groups: Sequence[ChannelGroup] | None = None,
        approximation: str = "expand",
        fisher: str = "sketch",
        absorb_shift: bool = True,
        dtype: torch.dtype = torch.float32,
        position_stride: int = 1,
        trace_calibration: bool = False,
        workers: Workers | None = None,
        seed: int = 0,
    ) -> None:
        if not damping >= 1e-8:
            raise ValueError(f"damping must be at least 1e-8 (it is relative to the mean diagonal), got {damping}")
        self.model = plain_model(model)
        self.damping = damping
        self.use_kfac = use_kfac
        self.approximation = approximation
        self.fisher = fisher
        self.absorb_shift = absorb_shift
        self.dtype = dtype
        self.position_stride = position_stride
        self.trace_calibration = trace_calibration
        self.seed = seed
        self._workers = workers
        self._ignored = tuple(ignored_layers)
        self._known = None if groups is None else list(groups)
        self.groups: list[ChannelGroup] = []
        self.norms: dict[str, str] = {}
        self.factors: dict[str, KroneckerFactors] = {}
        self.prices: dict[str, Tensor] = {}
        self.orders: dict[str, Tensor] = {}
        self.curves: dict[str, Tensor] = {}
        self.obd_curves: dict[str, Tensor] = {}
        self.left_out: dict[str, str] = {}
        self._standardised: dict[str, StandardisedLayer] = {}
        self._positions: dict[str, int] = {}
        self._compensator: Compensator | None = None
        if example_input is not None:
            self._find_structure(example_input)

    # ------------------------------------------------------------------ analysis

    def compute_sensitivity(
        self,
        dataloader: Any,
        criterion: Criterion | None = None,
        num_batches: int | None = 10,
        *,
        progress: Progress | None = None,
    ) -> dict[str, Tensor]:
        """Measure curvature on a few batches, sweep every layer, and price its channels.

        Args:
            dataloader: re-iterable calibration data in any form :mod:`hessian.support.batches` knows: images alone,
                (images, labels) pairs, dicts, several inputs.
            criterion: scalar loss of (outputs, labels); None is the outputs' default loss
                (:mod:`hessian.kfac.default_loss`): cross-entropy of logits, else mean squared error; no labels needed.
            num_batches: batches to read; None reads all.
            progress: called with (description, done, total).

        Returns:
            Layer name -> float64 tensor [size]: predicted loss increase (nats) of removing the channel alone, after
            repair. Channels of a larger unit share its price equally.

        Raises:
            ValueError: empty loader, non-scalar criterion, non-finite statistics (the layer is named), or an
                unsupported structure.
        """
        if not self.use_kfac and self._everyone().size > 1:
            raise ValueError("use_kfac=False runs in one process only; use Kronecker factors under torch.distributed")
        self.measure_curvature(dataloader, criterion, num_batches, progress=progress)
        if self.use_kfac:
            self._take(sweep_layers(self.model, self.groups, self.factors, self.damping, self._everyone(), progress))
        else:
            exact = exact_analysis(self.analysis, dataloader, criterion, num_batches, progress=progress)
            self.prices, self.orders, self.curves, self.obd_curves = exact
        return self.channel_prices()

    def measure_curvature(
        self,
        dataloader: Any,
        criterion: Criterion | None = None,
        num_batches: int | None = 10,
        *,
        progress: Progress | None = None,
    ) -> dict[str, KroneckerFactors]:
        """The first half of :meth:`compute_sensitivity`: what :meth:`compensate` needs, without any sweep.

        Arguments and errors are those of :meth:`compute_sensitivity`.

        Returns:
            Consumer -> :class:`hessian.obs.factors.KroneckerFactors`.
        """
        return self._measured(
            dataloader,
            lambda kfac: kfac.estimate(dataloader, criterion, num_batches, self.fisher, progress=progress),
        )

    def measure_inputs(
        self, dataloader: Any, num_batches: int | None = 10, *, progress: Progress | None = None
    ) -> dict[str, KroneckerFactors]:
        """Only what :meth:`compensate` needs: input factors, by forward passes alone, whatever the network returns.

        Args:
            dataloader: as for :meth:`compute_sensitivity`; labels are not used.
            num_batches: batches to read; None reads all.
            progress: called with (description, done, total).

        Returns:
            Consumer -> factors whose G is zero: good for refits, not for prices.
        """
        return self._measured(dataloader, lambda kfac: kfac.estimate_inputs(dataloader, num_batches, progress=progress))

    def _measured(
        self, dataloader: Any, estimate: Callable[[KFACHessianApproximator], dict[str, KroneckerFactors]]
    ) -> dict[str, KroneckerFactors]:
        check_model(self.model)
        if not self.groups:
            if iter(as_batches(dataloader)) is dataloader:
                raise ValueError(
                    "the dataloader can be read only once, and its first batch is needed twice: give a DataLoader or a "
                    "list of batches, or construct the analyzer with example_input=..."
                )
            with self._everyone().together():
                first = next(iter(read_batches(dataloader, model_device(self.model), 1, model=self.model)))
                self._find_structure(first.example)
        consumers = self.consumers
        approximator = KFACHessianApproximator(
            self.model,
            self.damping,
            approximation=self.approximation,
            layers=consumers,
            dtype=self.dtype,
            extra_constant=[name for name in consumers if name in self.norms],
            position_stride=self.position_stride,
            trace_calibration=self.trace_calibration,
            workers=self._everyone(),
            seed=self.seed,
        )
        self.factors = estimate(approximator)
        self._compensator = None
        return self.factors

    def _find_structure(self, example_input: Any) -> None:
        known = self._known
        self.groups = find_channel_groups(self.model, example_input, self._ignored) if known is None else known
        with undisturbed(self.model):
            self.norms = shift_absorbing_norms(self.model, example_input) if self.absorb_shift else {}
            self._positions = calls_of_one_input(self.model, example_input).positions
            self._standardised = standardised_layers(self.model, example_input)
            left_out = irreplaceable_layers(self.model, example_input)
            self.left_out = {name: why for name, why in left_out.items() if name not in self._standardised}

    def _everyone(self) -> Workers:
        return self._workers or current_workers(model_device(self.model))

    def _take(self, curves: Mapping[str, LayerCurves]) -> None:
        self.prices = {name: layer.prices for name, layer in curves.items()}
        self.orders = {name: layer.order for name, layer in curves.items()}
        self.curves = {name: layer.repaired for name, layer in curves.items()}
        self.obd_curves = {name: layer.zeroed for name, layer in curves.items()}

    # ------------------------------------------------------------------ reading

    @property
    def consumers(self) -> list[str]:
        """Names of all modules that consume a prunable layer."""
        return self.analysis.consumers

    def channel_prices(self) -> dict[str, Tensor]:
        """Layer name -> [size] price in nats of removing a channel alone; units share theirs equally."""
        self._require_analysis()
        return prices_of_channels(self.groups, self.prices)

    def get_pruning_plan(self, pruning_ratio: float = 0.5, of: str = "channels") -> dict[str, list[int]]:
        """Remove a fraction of the network, cheapest units first across layers (prefixes of the elimination orders).

        Args:
            pruning_ratio: fraction to remove, in [0, 1). At least one unit of every layer stays.
            of: ``"channels"``: of all prunable channels, by the price of a unit. ``"flops"``: of the FLOPs of all
                convolutions and linear layers, by the price for each FLOP saved.

        Returns:
            Layer name -> removed channel indices; layers that lose nothing are absent.

        Raises:
            ValueError: ratio outside [0, 1) or (of FLOPs) out of reach, unknown ``of``, or no analysis yet.
        """
        if not 0 <= pruning_ratio < 1:
            raise ValueError(f"pruning_ratio must lie in [0, 1), got {pruning_ratio}")
        if of not in RANKINGS:
            raise ValueError(f"pruning_ratio is a fraction of {' or '.join(map(repr, RANKINGS))}, got of={of!r}")
        self._require_analysis()
        flops = FlopsModel(self.model, self.groups, self._positions) if of == "flops" else None
        return self.plan(cheapest_removals(self.groups, self.orders, self.curves, pruning_ratio, flops))

    def plan(self, kept: Sequence[int]) -> dict[str, list[int]]:
        """The pruning plan of a kept vector: every layer loses a prefix of its elimination order.

        Args:
            kept: kept units a layer, in the order of :attr:`groups`, each in [1, num_units].

        Returns:
            Layer name -> removed channel indices; layers that lose nothing are absent.

        Raises:
            ValueError: another number of entries than layers, an entry out of range, or no analysis yet.
        """
        self._require_analysis()
        return prefix_plan(self.groups, self.orders, kept)

    @property
    def compensator(self) -> Compensator:
        """Repairs any plan with the measured factors."""
        if self._compensator is None:
            self._compensator = self.analysis.compensator
        return self._compensator

    def compensate(self, plan: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """State dict of the pruned network with every consumer refitted in closed form.

        Args:
            plan: layer name -> removed channel indices (any legal plan, not only prefixes of the orders).

        Returns:
            Every key of the model's state dict, at the pruned shapes.
        """
        return self.compensator.state(self.compensator.slicer.cut(plan))

    @property
    def analysis(self) -> Analysis:
        """The analysis so far, as a read-only view."""
        return Analysis(
            self.model,
            self.groups,
            self.norms,
            self.factors,
            self.prices,
            self.orders,
            self.curves,
            self.obd_curves,
            self.damping,
            self.approximation,
            self.fisher,
            self.seed,
            self.left_out,
            self._standardised,
        )

    def audit(self, dataloader: Iterable[Any], criterion: Criterion | None = None, **options: Any) -> AuditReport:
        """Hold the prices against what removing channels really does; see :func:`hessian.audit.audit_prices`."""
        return audit_prices(self.analysis, dataloader, criterion, **options)

    def _require_analysis(self) -> None:
        if not self.curves:
            raise ValueError("nothing is analysed yet; call compute_sensitivity(dataloader) or load(path) first")

    # ------------------------------------------------------------------ keeping

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Everything computed, as named tensors and string metadata for a safetensors file."""
        self._require_analysis()
        return storage.to_tensors(self.analysis)

    def restore(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Take back what :meth:`tensors` gave; the structure must be known (``example_input``).

        Raises:
            ValueError: another format version, other layers or sizes than this network's, missing tensors, or some of
                another shape or with NaN; nothing is changed.
        """
        found = storage.from_tensors(self.analysis, tensors, metadata)
        self.damping, self.norms, self.factors = found.damping, dict(found.norms), dict(found.factors)
        self.prices, self.orders = dict(found.prices), dict(found.orders)
        self.curves, self.obd_curves = dict(found.curves), dict(found.obd_curves)
        self._compensator = None

    def save(self, path: str | Path) -> None:
        """Write everything computed to a safetensors file, atomically and with a checksum over all of it."""
        storage.write(path, *self.tensors())

    def load(self, path: str | Path) -> HOBSSensitivityAnalyzer:
        """Read an analysis written by :meth:`save`; returns itself.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is truncated, was changed since it was written, carries no checksum (files of versions
                before there was one: analyse again), or is of another network.
        """
        tensors, metadata = storage.read(path)
        try:
            self.restore(tensors, metadata)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return self

"""H-OBS: prices, elimination orders and loss curves of every prunable layer.

Removing channels is priced and repaired at their consumers (:mod:`hessian.obs`). One greedy sweep a layer yields its
elimination *order*, so that every budget is a prefix of it, and its *loss curve*: the predicted loss increase of every
prefix. Static prices of single channels are the sweep's first step.
"""

from __future__ import annotations

import heapq
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from hessian.batches import model_device, read_batches
from hessian.channels import ChannelGroup, Member, find_channel_groups
from hessian.compensation import Compensator, damped_inputs
from hessian.covariance import matrix_columns, num_groups, weight_matrix
from hessian.exact import exact_analysis
from hessian.kfac import KFACHessianApproximator, KroneckerFactors, Progress
from hessian.loss_curvature import Criterion
from hessian.norms import shift_absorbing_norms
from hessian.obs import inverse, obs_column_prices, output_gram
from hessian.sweep import ConsumerQuadratic, greedy_sweep

FORMAT = 1


class HOBSSensitivityAnalyzer:
    """Prices every channel of a network and plans which to remove.

    Example::

        hobs = HOBSSensitivityAnalyzer(model)
        prices = hobs.compute_sensitivity(calibration_loader)
        plan = hobs.get_pruning_plan(pruning_ratio=0.5)

    Args:
        model: a trained network; never modified.
        damping: relative damping of the input factor A, at least 1e-5 for float32 statistics.
        use_kfac: Kronecker factors (default), or exact quadratics (:mod:`hessian.exact`; small networks only).
        example_input: a tensor the model accepts; taken from the first batch when absent.
        ignored_layers: names or modules whose channels stay.
        approximation: ``"expand"`` (default) or ``"reduce"``, see :mod:`hessian.kfac`.
        fisher: curvature estimator, see :mod:`hessian.loss_curvature`.
        absorb_shift: let a BatchNorm behind a bias-free consumer absorb a refitted constant.
        seed: seed of the curvature sketch.

    Attributes:
        groups: the prunable layers, in execution order.
        factors: Kronecker factors by consumer.
        prices: layer -> float64 [num_units], price in nats of removing a single unit.
        orders: layer -> LongTensor [num_units], units in the order of removal.
        curves: layer -> float64 [num_units], predicted loss increase (nats) after removing the first k units.
        obd_curves: the same without repair.
    """

    def __init__(
        self,
        model: nn.Module,
        damping: float = 1e-3,
        use_kfac: bool = True,
        *,
        example_input: Any = None,
        ignored_layers: Sequence[str | nn.Module] = (),
        approximation: str = "expand",
        fisher: str = "sketch",
        absorb_shift: bool = True,
        seed: int = 0,
    ) -> None:
        if not damping >= 1e-8:
            raise ValueError(f"damping must be at least 1e-8 (it is relative to the mean diagonal), got {damping}")
        self.model = model
        self.damping = damping
        self.use_kfac = use_kfac
        self.approximation = approximation
        self.fisher = fisher
        self.absorb_shift = absorb_shift
        self.seed = seed
        self._ignored = tuple(ignored_layers)
        self.groups: list[ChannelGroup] = []
        self.norms: dict[str, str] = {}
        self.factors: dict[str, KroneckerFactors] = {}
        self.prices: dict[str, Tensor] = {}
        self.orders: dict[str, Tensor] = {}
        self.curves: dict[str, Tensor] = {}
        self.obd_curves: dict[str, Tensor] = {}
        self._compensator: Compensator | None = None
        if example_input is not None:
            self._find_structure(example_input)

    # ------------------------------------------------------------------ analysis

    def compute_sensitivity(
        self,
        dataloader: Iterable[Any],
        criterion: Criterion | None = None,
        num_batches: int | None = 10,
        *,
        progress: Progress | None = None,
    ) -> dict[str, Tensor]:
        """Measure curvature on a few batches, sweep every layer, and price its channels.

        Args:
            dataloader: re-iterable, yields (inputs, labels) or dict batches.
            criterion: scalar loss of (outputs, labels); None is cross-entropy.
            num_batches: batches to read; None reads all.
            progress: called with (description, done, total).

        Returns:
            Layer name -> float64 tensor [size]: predicted loss increase (nats) of removing the channel alone, after
            repair. Channels of a larger unit share its price equally.

        Raises:
            ValueError: empty loader, non-scalar criterion, non-finite statistics (the layer is named), or an
                unsupported structure.
        """
        if not self.groups:
            inputs, _ = next(iter(read_batches(dataloader, model_device(self.model), 1)))
            self._find_structure(inputs[:1])
        self._measure(dataloader, criterion, num_batches, progress)
        if self.use_kfac:
            self._sweep(progress)
        else:
            exact = exact_analysis(self, dataloader, criterion, num_batches, progress=progress)
            self.prices, self.orders, self.curves, self.obd_curves = exact
        return self.channel_prices()

    def _find_structure(self, example_input: Any) -> None:
        self.groups = find_channel_groups(self.model, example_input, self._ignored)
        self.norms = shift_absorbing_norms(self.model, example_input) if self.absorb_shift else {}

    def _measure(
        self, dataloader: Iterable[Any], criterion: Criterion | None, num_batches: int | None, progress: Progress | None
    ) -> None:
        consumers = self.consumers
        approximator = KFACHessianApproximator(
            self.model,
            self.damping,
            approximation=self.approximation,
            layers=consumers,
            extra_constant=[name for name in consumers if name in self.norms],
            seed=self.seed,
        )
        self.factors = approximator.estimate(dataloader, criterion, num_batches, self.fisher, progress=progress)
        self._compensator = None

    def _sweep(self, progress: Progress | None) -> None:
        inverses: dict[str, Tensor] = {}
        for done, group in enumerate(self.groups, start=1):
            quadratics = [self._quadratic(group, member, inverses) for member in group.consumers]
            sweep = greedy_sweep([quadratic for quadratic, _ in quadratics])
            obd = sum((zeroing for _, zeroing in quadratics), torch.zeros(group.num_units, group.num_units))
            prices = torch.stack([_single_prices(quadratic) for quadratic, _ in quadratics]).sum(dim=0)
            self.prices[group.name] = prices.cpu()
            self.orders[group.name] = sweep.order
            self.curves[group.name] = torch.cat([torch.zeros(1), sweep.increments.cumsum(0)[:-1]]).double()
            self.obd_curves[group.name] = _zeroing_curve(obd.cpu(), sweep.order)
            if progress is not None:
                progress("elimination sweeps", done, len(self.groups))

    def _quadratic(
        self, group: ChannelGroup, member: Member, inverses: dict[str, Tensor]
    ) -> tuple[ConsumerQuadratic, Tensor]:
        """One consumer's part of a layer's price, and its unit-by-unit zeroing quadratic [n, n]."""
        module: Any = dict(self.model.named_modules())[member.module]
        factors = self.factors[member.module]
        A = damped_inputs(factors, self.damping)
        if member.module not in inverses:
            inverses[member.module] = inverse(A)
        columns = unit_columns(group, member, module).to(factors.A.device)
        flat = columns.reshape(-1)
        gram = output_gram(weight_matrix(module, bias=False), factors.G)
        gram = gram[:, flat[:, None], flat]
        quadratic = ConsumerQuadratic(inverses[member.module][:, flat[:, None], flat], gram, group.num_units)
        zeroing = 0.5 * (A[:, flat[:, None], flat] * gram).sum(dim=0)
        n, c = columns.shape
        return quadratic, zeroing.view(n, c, n, c).sum(dim=(1, 3))

    # ------------------------------------------------------------------ reading

    @property
    def consumers(self) -> list[str]:
        """Names of all modules that consume a prunable layer."""
        return list(dict.fromkeys(member.module for group in self.groups for member in group.consumers))

    def channel_prices(self) -> dict[str, Tensor]:
        """Layer name -> [size] price in nats of removing a channel alone; units share theirs equally."""
        self._require_analysis()
        result = {}
        for group in self.groups:
            prices = torch.zeros(group.size, dtype=torch.float64)
            for unit, price in zip(group.units, self.prices[group.name], strict=True):
                prices[list(unit)] = price / len(unit)
            result[group.name] = prices
        return result

    def get_pruning_plan(self, pruning_ratio: float = 0.5) -> dict[str, list[int]]:
        """Remove a fraction of all channels, cheapest first across layers (prefixes of the elimination orders).

        Args:
            pruning_ratio: fraction of the network's prunable channels to remove, in [0, 1). At least one unit of
                every layer stays.

        Returns:
            Layer name -> removed channel indices; layers that lose nothing are absent.

        Raises:
            ValueError: ratio outside [0, 1), or no analysis yet.
        """
        if not 0 <= pruning_ratio < 1:
            raise ValueError(f"pruning_ratio must lie in [0, 1), got {pruning_ratio}")
        self._require_analysis()
        goal = pruning_ratio * sum(group.size for group in self.groups)
        removed = dict.fromkeys((group.name for group in self.groups), 0)
        steps = {group.name: self.curves[group.name].diff().cummax(0).values.tolist() for group in self.groups}
        by_name = {group.name: group for group in self.groups}
        heap = [(prices[0], name) for name, prices in steps.items() if prices]
        heapq.heapify(heap)
        gone = 0
        while heap and gone < goal:
            _, name = heapq.heappop(heap)
            gone += len(by_name[name].units[int(self.orders[name][removed[name]])])
            removed[name] += 1
            if removed[name] < len(steps[name]):
                heapq.heappush(heap, (steps[name][removed[name]], name))
        return self.plan([group.num_units - removed[group.name] for group in self.groups])

    def plan(self, kept: Sequence[int]) -> dict[str, list[int]]:
        """The pruning plan of a kept vector: every layer loses a prefix of its elimination order.

        Args:
            kept: kept units a layer, in the order of :attr:`groups`, each in [1, num_units].

        Returns:
            Layer name -> removed channel indices; layers that lose nothing are absent.
        """
        self._require_analysis()
        if len(kept) != len(self.groups):
            raise ValueError(f"kept must have one entry for each of the {len(self.groups)} layers, got {len(kept)}")
        plan = {}
        for group, count in zip(self.groups, kept, strict=True):
            if not 1 <= int(count) <= group.num_units:
                raise ValueError(f"layer {group.name!r} keeps {int(count)} units; it has 1 to {group.num_units}")
            if int(count) < group.num_units:
                plan[group.name] = group.channels(self.orders[group.name][: group.num_units - int(count)].tolist())
        return plan

    @property
    def compensator(self) -> Compensator:
        """Repairs any plan with the measured factors."""
        if not self.factors:
            raise ValueError("no factors yet; call compute_sensitivity(dataloader) or load(path) first")
        if self._compensator is None:
            self._compensator = Compensator(self.model, self.groups, self.factors, self.damping, self.norms)
        return self._compensator

    def compensate(self, plan: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """State dict of the pruned network with every consumer refitted in closed form.

        Args:
            plan: layer name -> removed channel indices (any legal plan, not only prefixes of the orders).

        Returns:
            Every key of the model's state dict, at the pruned shapes.
        """
        return self.compensator.state(plan)

    def _require_analysis(self) -> None:
        if not self.curves:
            raise ValueError("nothing is analysed yet; call compute_sensitivity(dataloader) or load(path) first")

    # ------------------------------------------------------------------ keeping

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Everything computed, as named tensors and string metadata for a safetensors file."""
        self._require_analysis()
        tensors = {}
        for kind in ("prices", "orders", "curves", "obd_curves"):
            tensors.update({f"{kind}/{name}": value for name, value in getattr(self, kind).items()})
        for name, factors in self.factors.items():
            tensors[f"A/{name}"], tensors[f"G/{name}"] = factors.A, factors.G
        settings = {
            "format": FORMAT,
            "damping": self.damping,
            "approximation": self.approximation,
            "layers": {group.name: group.num_units for group in self.groups},
            "constants": [name for name, factors in self.factors.items() if factors.bias],
            "norms": self.norms,
        }
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, {
            "hobs": json.dumps(settings, sort_keys=True)
        }

    def restore(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Take back what :meth:`tensors` gave; the structure must be known (``example_input``).

        Raises:
            ValueError: another format version, other layers or sizes than this network's, or missing tensors.
        """
        if not self.groups:
            raise ValueError("the structure is unknown: construct the analyzer with example_input=... before loading")
        settings = json.loads(metadata.get("hobs", "{}"))
        if settings.get("format") != FORMAT:
            raise ValueError(f"not an H-OBS analysis of format {FORMAT} (found {settings.get('format')!r})")
        layers = {group.name: group.num_units for group in self.groups}
        if settings["layers"] != layers:
            raise ValueError(
                f"the analysis is of another network: its layers are {settings['layers']}, expected {layers}"
            )
        device = model_device(self.model)
        try:
            for kind in ("prices", "orders", "curves", "obd_curves"):
                setattr(self, kind, {name: tensors[f"{kind}/{name}"] for name in layers})
            self.factors = {
                name: KroneckerFactors(
                    tensors[f"A/{name}"].to(device), tensors[f"G/{name}"].to(device), name in settings["constants"]
                )
                for name in self.consumers
            }
        except KeyError as error:
            raise ValueError(f"the analysis is incomplete: {error} is missing") from error
        self.damping, self.norms = settings["damping"], settings["norms"]
        self._compensator = None

    def save(self, path: str | Path) -> None:
        """Write everything computed to a safetensors file, atomically."""
        tensors, metadata = self.tensors()
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(save(tensors, metadata))
        os.replace(file.name, path)

    def load(self, path: str | Path) -> HOBSSensitivityAnalyzer:
        """Read an analysis written by :meth:`save`; returns itself.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is truncated or of another network.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no analysis at {path}; compute_sensitivity(...) and save(...) make one")
        try:
            with safe_open(str(path), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} is not a readable safetensors file ({error})") from error
        self.restore(tensors, metadata)
        return self


def unit_columns(group: ChannelGroup, member: Member, module: Any) -> Tensor:
    """Columns of a consumer's weight matrix that belong to each unit, LongTensor [num_units, c] inside one group."""
    positions = group.columns(member)
    groups = num_groups(module)
    if groups > 1:
        period = module.in_channels // groups
        positions = positions[positions < period].view(group.num_units, -1)
    return matrix_columns(module, positions)


def _single_prices(quadratic: ConsumerQuadratic) -> Tensor:
    n = quadratic.num_units
    blocks = torch.arange(quadratic.inverse.shape[-1], device=quadratic.inverse.device).view(n, -1)
    return obs_column_prices(quadratic.inverse, quadratic.gram, blocks)


def _zeroing_curve(quadratic: Tensor, order: Tensor) -> Tensor:
    """Price without repair of every prefix: sums of the leading principal submatrices, float64 [n]."""
    ordered = quadratic[order][:, order]
    totals = ordered.cumsum(0).cumsum(1).diagonal()
    return torch.cat([torch.zeros(1, dtype=torch.float64), totals[:-1].clamp_min(0)])

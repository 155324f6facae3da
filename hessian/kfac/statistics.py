"""The statistics of all watched layers: what hooks hand in becomes Kronecker factors."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hessian.kfac.accumulation import InputVectors, MomentSum, OutputGradients, input_width, output_width, row_limit
from hessian.kfac.calibration import TraceSum
from hessian.kfac.checks import all_finite
from hessian.obs.factors import KroneckerFactors
from hessian.obs.moments import RowMoment
from hessian.patches.subsampling import Lattice, draw_lattice, position_extents
from hessian.support.distributed import Workers


@dataclass(frozen=True)
class StatisticsSettings:
    """Settings of what is gathered, and how.

    Attributes:
        reduce: KFAC-reduce instead of KFAC-expand.
        dtype: type in which products are formed and summed.
        position_stride: distance between the output positions used, 1 for all.
        trace_calibration: scale G to the exact trace.
    """

    reduce: bool
    dtype: torch.dtype
    position_stride: int
    trace_calibration: bool


@dataclass(frozen=True, eq=False)
class SeenInputs:
    """The part of a layer's forward pass to remember until its gradient arrives.

    Attributes:
        lattice: output positions in use; None for all.
        inputs: a copy of the inputs where they are needed again, for the trace.
    """

    lattice: Lattice | None
    inputs: Tensor | None


class _LayerSums:
    """Running sums of one layer."""

    def __init__(self, module: nn.Module, *, bias: bool, passes: int) -> None:
        self.A = MomentSum(row_limit(input_width(module) + bias), passes)
        self.G = MomentSum(row_limit(output_width(module)), passes)
        self.trace = TraceSum()
        self.samples = 0
        self.d_out = output_width(module)


class Statistics:
    """Running sums of every layer seen so far.

    Args:
        settings: what is gathered.
        constant: names of the layers whose inputs get a constant 1.
        passes: how many passes are to be expected.
        seed: of the random positions.
    """

    def __init__(self, settings: StatisticsSettings, constant: Collection[str], *, passes: int, seed: int) -> None:
        self._settings = settings
        self._constant = constant
        self._passes = passes
        self._positions = torch.Generator().manual_seed(seed)
        self._sums: dict[str, _LayerSums] = {}
        self._samples: int | None = None

    def begin_pass(self, samples: int) -> None:
        """Say that the network is about to run on so many samples.

        Without it a layer's own batch dimension is taken for them; a layer that runs twice a pass, or on samples and
        positions in one dimension, would count them more than once.
        """
        self._samples = samples + (self._samples or 0)

    @property
    def complete(self) -> bool:
        """True where any layer has seen both inputs and gradients."""
        return any(sums.G.count for sums in self._sums.values())

    def reseed(self, seed: int) -> None:
        """Start the random positions anew."""
        self._positions.manual_seed(seed)

    @torch.no_grad()
    def add_inputs(self, name: str, module: nn.Module, inputs: Tensor, output: Tensor) -> SeenInputs:
        """Add a forward pass of a layer; hand the result to :meth:`add_gradient`."""
        bias, reduce = name in self._constant, self._settings.reduce
        if name not in self._sums:
            self._sums[name] = _LayerSums(module, bias=bias, passes=self._passes)
        sums = self._sums[name]
        sums.samples += len(inputs)
        lattice = draw_lattice(module, output, self._settings.position_stride, self._positions)
        # A copy: the network may overwrite the tensor before the gradient arrives.
        seen = SeenInputs(lattice, inputs.clone() if self._settings.trace_calibration else None)
        count = len(inputs) * self._vectors(module, output, lattice)
        if lattice is not None:
            module, inputs = lattice.inputs(module, inputs)
        sums.A.add(InputVectors(module, inputs.to(self._settings.dtype), count, bias, reduce))
        return seen

    @torch.no_grad()
    def add_gradient(self, name: str, module: nn.Module, seen: SeenInputs, gradient: Tensor) -> None:
        """Add the gradient of a layer's output, of a loss summed over samples."""
        sums, gradient = self._sums[name], gradient.to(self._settings.dtype)
        if seen.inputs is not None:
            sums.trace.add(module, seen.inputs.to(self._settings.dtype), gradient)
        count = len(gradient) * self._vectors(module, gradient, seen.lattice)
        if seen.lattice is not None:
            gradient = seen.lattice.gradients(module, gradient)
        sums.G.add(OutputGradients(module, gradient, count, self._settings.reduce))

    def check_finite(self) -> None:
        """Check that no NaN or infinity was seen.

        Raises:
            ValueError: one was; the message names the layer.
        """
        for letter, what in (("A", "activations"), ("G", "output gradients")):
            seen = [(name, tensor) for name, sums in self._sums.items() for tensor in getattr(sums, letter).shown()]
            for (name, _), finite in zip(seen, all_finite([tensor for _, tensor in seen]), strict=True):
                if not finite:
                    raise ValueError(f"layer {name!r} has NaN or infinite {what}; check its weights and the images")

    def factors(self, workers: Workers, device: torch.device, *, gradients: bool = True) -> dict[str, KroneckerFactors]:
        """Kronecker factors by layer name, over what all processes have seen.

        Args:
            workers: the processes; each has seen the same layers.
            device: where the processes exchange numbers.
            gradients: layers that no gradient reached are left out; else passes were forward only, and G is zero.
        """
        seen = {name: sums for name, sums in self._sums.items() if sums.G.count or not gradients}
        own = [sums.samples if self._samples is None else self._samples for sums in seen.values()]
        samples = workers.sum(torch.tensor(own, device=device)).tolist()
        return {
            name: self._layer_factors(name, sums, workers, count)
            for (name, sums), count in zip(seen.items(), samples, strict=True)
        }

    def _layer_factors(self, name: str, sums: _LayerSums, workers: Workers, samples: int) -> KroneckerFactors:
        sums.A.merge(workers)
        inputs = sums.A.moment(sums.A.count)
        if not sums.G.count:
            diagonal = inputs.diagonal()
            nothing = RowMoment(diagonal.new_zeros(len(diagonal), 0, sums.d_out))
            return KroneckerFactors(inputs, nothing, name in self._constant)
        for part in (sums.G, sums.trace):
            part.merge(workers)
        outputs = sums.G.moment(samples)
        if self._settings.trace_calibration:
            outputs = outputs.scaled(sums.trace.ratio(samples, inputs, outputs, bias=name in self._constant))
        return KroneckerFactors(inputs, outputs, name in self._constant)

    def _vectors(self, module: nn.Module, output: Tensor, lattice: Lattice | None) -> int:
        """Vectors an image contributes, given its layer's output or the gradient of it."""
        if self._settings.reduce:
            return 1
        extents = position_extents(module, output)
        return math.prod(extents) if lattice is None else lattice.count(extents)

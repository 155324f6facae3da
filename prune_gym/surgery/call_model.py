"""A latency model of one network on one machine, fitted to module times of a few of its pruned variants.

A call's time is taken as a product of a factor of its input's size and one of its output's, fitted by least squares on
logarithms. Factors are free numbers where a size takes few values, so that counts a machine likes or dislikes show;
where it takes many (behind a concatenation) they are a power of it. The network's latency is the sum over its calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.cost.model import CostModel
from prune_gym.surgery.module_times import ModuleTimer

_FEW = 8
"""Sizes a call's input or output may take to get a factor each."""
_SHORTEST_MS = 1e-4
_BACKFITS = 20


@dataclass(frozen=True, eq=False)
class MeasuredCalls:
    """Module calls of several variants of a network; a call is a module call and what passes before it.

    Attributes:
        kept: int64 [N, L], the variants.
        milliseconds: float64 [N, C], shortest time of every call.
        inputs: float64 [N, C], entries of every call's input.
        outputs: float64 [N, C], entries of its output.
    """

    kept: IntArray
    milliseconds: FloatArray
    inputs: FloatArray
    outputs: FloatArray


def measure_calls(
    variant: Callable[[IntArray], nn.Module], kept: IntArray, inputs: Sequence[Any], *, rounds: int = 2, passes: int = 2
) -> MeasuredCalls | None:
    """Time the calls of variants of a network.

    Args:
        variant: Makes the network of kept counts [L]; one at a time is alive.
        kept: int64 [N, L], the variants.
        inputs: The networks' inputs.
        rounds: Turns over all variants, so that no variant has the machine's bad moment to itself.
        passes: Timed passes a turn, after an untimed one.

    Returns:
        The shortest times, or None if the variants do not make the same calls.
    """
    seen: dict[int, list[tuple[Any, ...]]] = {}
    shortest: dict[int, FloatArray] = {}
    for _ in range(rounds):
        for index, counts in enumerate(kept):
            timer = ModuleTimer(variant(counts))
            timer.run(*inputs)
            for _ in range(passes):
                calls = timer.run(*inputs)
                spans = np.array([call.span_ms for call in calls])
                seen[index] = [(call.name, call.inputs.numel(), call.output.numel()) for call in calls]
                if len(spans) != len(shortest.get(index, spans)):
                    return None
                shortest[index] = np.minimum(shortest.get(index, spans), spans)
    if len({tuple(name for name, _, _ in calls) for calls in seen.values()}) > 1 or not seen[0]:
        return None
    sizes = np.array([[call[1:] for call in seen[index]] for index in range(len(kept))], dtype=np.float64)
    return MeasuredCalls(kept, np.stack([shortest[i] for i in range(len(kept))]), sizes[..., 0], sizes[..., 1])


@dataclass(frozen=True, eq=False)
class _Factor:
    """Log factor of a size: by value where it takes few values, else a slope over its logarithm."""

    size: int
    coefficients: FloatArray


class CallModel:
    """Latency of plans near the measured ones.

    Args:
        cost: The network's cost model, which knows the sizes of its convolutions and linear layers.
        measured: Times of variants.
    """

    def __init__(self, cost: CostModel, measured: MeasuredCalls) -> None:
        self._cost = cost
        self._base = measured.kept[0]
        self._sizes: list[Callable[[IntArray], FloatArray]] = []
        self._values: list[FloatArray | None] = []
        known = self._known_sizes(measured.kept)
        self._constants: list[float] = []
        self._factors: list[list[_Factor]] = []
        logarithms = np.log(np.maximum(measured.milliseconds, _SHORTEST_MS))
        sizes = [
            sorted({known[key] for key in map(_key, series) if key in known})
            for series in zip(measured.inputs.T, measured.outputs.T, strict=True)
        ]
        designs = [self._design(measured.kept, own) for own in sizes]
        logarithms = logarithms - _moods(designs, logarithms)[:, None]
        for column, (own, design) in enumerate(zip(sizes, designs, strict=True)):
            self._fit(own, design, logarithms[:, column])

    def __call__(self, kept: IntArray) -> FloatArray:
        """Milliseconds of a pass: kept int64 [P, L] -> float64 [P]."""
        places = [self._place(size, kept) for size in range(len(self._sizes))]
        total = np.zeros(len(kept))
        for constant, factors in zip(self._constants, self._factors, strict=True):
            logarithm = np.full(len(kept), constant)
            for factor in factors:
                place = places[factor.size]
                few = self._values[factor.size] is not None
                logarithm += factor.coefficients[place.astype(np.int64)] if few else factor.coefficients[0] * place
            total += np.exp(logarithm)
        return total

    def _known_sizes(self, kept: IntArray) -> dict[bytes, int]:
        """Size series over the variants -> the size it is: of a layer, or of a weighted module's inputs or outputs."""
        candidates: list[Callable[[IntArray], FloatArray]] = [_count(layer) for layer in range(kept.shape[1])]
        for name in self._cost.positions:
            candidates += [_extent(self._cost, name, side) for side in (0, 1)]
        known: dict[bytes, int] = {}
        for candidate in candidates:
            series = candidate(kept)
            if (series == series[0]).all() or _key(series) in known:
                continue
            known[_key(series)] = len(self._sizes)
            relative = np.unique(_relative(series))
            self._sizes.append(candidate)
            self._values.append(relative if len(relative) <= _FEW else None)
        return known

    def _place(self, size: int, kept: IntArray) -> FloatArray:
        """Index of the nearest known value of a size, or the logarithm of the size, [P]."""
        relative = np.round(self._sizes[size](kept) / self._sizes[size](self._base[None])[0], 9)
        values = self._values[size]
        if values is None:
            return np.log(relative)
        return np.abs(relative[:, None] - values).argmin(axis=1).astype(np.float64)

    def _design(self, kept: IntArray, sizes: list[int]) -> FloatArray:
        """Regressors of a call over the variants, [N, 1 + ...]."""
        blocks = [np.ones((len(kept), 1))]
        for size in sizes:
            place, values = self._place(size, kept), self._values[size]
            blocks.append(place[:, None] if values is None else np.eye(len(values))[place.astype(np.int64)][:, 1:])
        return np.hstack(blocks)

    def _fit(self, sizes: list[int], design: FloatArray, logarithms: FloatArray) -> None:
        constant, *rest = np.linalg.lstsq(design, logarithms, rcond=None)[0]
        self._constants.append(float(constant))
        factors = []
        for size in sizes:
            values = self._values[size]
            width = 1 if values is None else len(values) - 1
            own, rest = np.array(rest[:width]), rest[width:]
            factors.append(_Factor(size, own if values is None else np.concatenate([[0.0], own])))
        self._factors.append(factors)


def _moods(designs: Sequence[FloatArray], logarithms: FloatArray) -> FloatArray:
    """Slow-down of the machine, as a logarithm, while each variant ran, [N].

    It is what all calls of a variant have in common beyond their sizes, weighted by their times.
    """
    weights = np.exp(logarithms.mean(axis=0))
    weights = weights / weights.sum()
    hats = [design @ np.linalg.pinv(design) for design in designs]
    moods = np.zeros(len(logarithms))
    for _ in range(_BACKFITS):
        cleaned = logarithms - moods[:, None]
        rests = np.stack([cleaned[:, call] - hat @ cleaned[:, call] for call, hat in enumerate(hats)], axis=1)
        moods += rests @ weights
    return moods


def _relative(series: FloatArray) -> FloatArray:
    return np.asarray(np.round(series / series[0], 9), dtype=np.float64)


def _key(series: FloatArray) -> bytes:
    return _relative(series).tobytes()


def _count(layer: int) -> Callable[[IntArray], FloatArray]:
    return lambda kept: kept[:, layer].astype(np.float64)


def _extent(cost: CostModel, name: str, side: int) -> Callable[[IntArray], FloatArray]:
    return lambda kept: cost.module_sizes(name, kept)[side].astype(np.float64)

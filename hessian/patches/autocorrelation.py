"""Second moments of convolution patches without forming the patches: exact, from shared shifted products.

Every sum of :mod:`hessian.patches.tap_geometry` is one call of :func:`hessian.patches.products.shifted_products`; the
blocks of the second moment are then put together from them. Where images are small or channels few there is nothing to
share, and :class:`SharedMoment` says so by its costs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from torch import Tensor

from hessian.patches.products import shifted_products
from hessian.patches.tap_geometry import Geometry, Indices, Phase, PhasePair, SharedSum, Term, axis_phases, phase_pair

Block = Callable[[Indices, Indices], Tensor]

CALL_MACS = 1 << 22
"""Cost of starting one more product, in multiply-adds (measured, as the next two)."""

BLOCK_MACS = 1 << 20
"""Cost of putting together one more block, in multiply-adds."""

PATCH_MACS = 16
"""Cost of writing and reading one element of a patch, in multiply-adds."""


@dataclass(frozen=True)
class SharedMoment:
    """Second moments of patches by shared sums, for images of one size.

    Attributes:
        geometry: the convolution.
        extents: size of the images, an entry an axis.
    """

    geometry: Geometry
    extents: tuple[int, ...]

    @cached_property
    def pairs(self) -> tuple[PhasePair, ...]:
        """All pairs of phases, a phase with itself included."""
        axes = [
            axis_phases(extent, kernel, stride, dilation, before, outputs)
            for extent, kernel, stride, dilation, (before, _), outputs in zip(
                self.extents,
                self.geometry.kernel,
                self.geometry.stride,
                self.geometry.dilation,
                self.geometry.padding,
                self.geometry.outputs(self.extents),
                strict=True,
            )
        ]
        phases = list(itertools.product(*axes))
        return tuple(phase_pair(a, b) for a, b in itertools.combinations_with_replacement(phases, 2))

    def macs(self, images: int, channels: int, groups: int) -> int:
        """Cost of a batch in multiply-adds, that of products and blocks whatever their size included."""
        sums = [shared for pair in self.pairs for shared in pair.sums]
        products = sum(images * groups * channels**2 * shared.macs for shared in sums)
        return products + CALL_MACS * len(sums) + BLOCK_MACS * math.prod(self.geometry.kernel) ** 2

    def patch_macs(self, images: int, channels: int, groups: int) -> int:
        """Cost of the same by forming patches."""
        width = channels * math.prod(self.geometry.kernel)
        return images * groups * math.prod(self.geometry.outputs(self.extents)) * width * (width + PATCH_MACS)

    def write(self, inputs: Tensor, groups: int, out: Tensor) -> None:
        """Sum ``a a^T`` over images and output positions.

        Args:
            inputs: [N, groups * channels, *extents].
            groups: groups of the convolution.
            out: where to write the sum: [groups, d, d] with d = channels x taps, in that order.
        """
        channels, kernel = inputs.shape[1] // groups, self.geometry.kernel
        moment = out.view(groups, channels, *kernel, channels, *kernel)
        maps: dict[tuple[Phase, ...], Tensor] = {}
        for pair in self.pairs:
            for phases in (pair.left, pair.right):
                if phases not in maps:
                    maps[phases] = _phase_map(inputs, phases)
            products = [_product(shared, maps[pair.left], maps[pair.right], groups) for shared in pair.sums]
            _fill(moment, pair, products)


@lru_cache(maxsize=256)
def shared_moment(geometry: Geometry, extents: tuple[int, ...]) -> SharedMoment:
    """The :class:`SharedMoment` of a convolution and image size, planned once."""
    return SharedMoment(geometry, extents)


def _phase_map(inputs: Tensor, phases: tuple[Phase, ...]) -> Tensor:
    window = (slice(None), slice(None), *(phase.window for phase in phases))
    part = inputs[window]
    # Convolution kernels want dense memory; a sub-lattice is copied once and serves all its sums.
    return part if part.shape == inputs.shape else part.contiguous()


def _product(shared: SharedSum, left: Tensor, right: Tensor, groups: int) -> Tensor:
    """One sum, lags first so that every lag is a matrix of its own: [*lags, groups, c, c]."""
    window = (slice(None), slice(None), *(slice(part.start, part.stop) for part in shared.rows))
    rows = left[window]
    lags = [
        range(lag.start + part.start, lag.stop + part.start, lag.step)
        for lag, part in zip(shared.lags, shared.rows, strict=True)
    ]
    return shifted_products(rows, right, lags, groups).movedim((0, 1, 2), (-3, -2, -1)).contiguous()


def _fill(moment: Tensor, pair: PhasePair, products: Sequence[Tensor]) -> None:
    """Write the blocks of a pair of phases and their transposes.

    Args:
        moment: [groups, c, *kernel, c, *kernel].
        pair: the phases.
        products: of every sum, [*lags, groups, c, c].
    """
    # Taps whose windows never meet inside the image share a zero that takes no memory.
    zero = moment.new_zeros(()).expand(moment.shape[0], moment.shape[1], moment.shape[1])

    def block(t: Indices, u: Indices) -> Tensor:
        return _total(pair.terms[t, u], products, zero)

    if pair.left == pair.right:
        # A[u, t] = A[t, u]^T, so within one phase only half of the blocks have sums of their own.
        _write(moment, pair.left, pair.left, lambda t, u: block(t, u) if t <= u else block(u, t).mT)
    else:
        _write(moment, pair.left, pair.right, block)
        _write(moment, pair.right, pair.left, lambda u, t: block(t, u).mT)


def _write(moment: Tensor, rows: tuple[Phase, ...], columns: tuple[Phase, ...], block: Block) -> None:
    """Write blocks row after row, as every row of blocks is spread over its own part of the memory."""
    for t in itertools.product(*(range(len(phase.taps)) for phase in rows)):
        for u in itertools.product(*(range(len(phase.taps)) for phase in columns)):
            row = (phase.taps[index] for phase, index in zip(rows, t, strict=True))
            column = (phase.taps[index] for phase, index in zip(columns, u, strict=True))
            place: tuple[slice | int, ...] = (slice(None), slice(None), *row, slice(None), *column)
            moment[place] = block(t, u)


def _total(terms: Sequence[Term], products: Sequence[Tensor], zero: Tensor) -> Tensor:
    """The sum of some products, [groups, c, c], ``zero`` without any."""
    if not terms:
        return zero
    signed = [(products[term.sum][term.place], term.sign) for term in terms]
    (total, sign), *rest = signed
    total = total if sign > 0 else -total
    for product, sign in rest:
        total = total.add(product, alpha=sign)
    return total

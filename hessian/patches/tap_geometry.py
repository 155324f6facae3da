r"""Shifted products of an image that make up the second moment of a convolution's patches.

The block of taps (t, u) in that second moment is a sum over output positions p,

    ``A[t, u] = sum_p x[s p + t] x[s p + u]^T``

and most products of pixels in it recur in the blocks of other tap pairs: with stride 1 all pairs of the same difference
``u - t`` sum the same autocorrelation of the image, over windows that differ by a thin border only. Each shared sum is
needed once, without its borders (3 x 3, padding 1: 15 products and a few strips where patches need 81).

A stride s splits the image into s sub-lattices an axis (*phases*) and every tap reads one of them. Inside a pair of
phases everything is as with stride 1, so the general form is: tap t sees the positions ``[start_t, start_t + O)`` of
its phase X, with ``A[t, u] = sum_q X_t[q] X_u[q + start_u - start_t]^T`` over the q of that window, zero outside the
image.

Integers only; :mod:`hessian.patches.autocorrelation` forms the products.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

Indices = tuple[int, ...]


@dataclass(frozen=True)
class Geometry:
    """Walk of a convolution over its input, an entry an axis.

    Attributes:
        kernel: taps.
        stride: step between output positions.
        dilation: step between taps.
        padding: zeros before and after.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    def outputs(self, extents: Sequence[int]) -> tuple[int, ...]:
        """Output positions along every axis of an input of the given extents."""
        return tuple(
            max(0, (extent + before + after - step * (taps - 1) - 1) // stride + 1)
            for extent, (before, after), step, taps, stride in zip(
                extents, self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )

    def reads(self, extents: Sequence[int]) -> list[list[range]]:
        """Positions inside an image of the given extents that every tap reads: an entry an axis, an entry a tap."""
        reads = []
        for axis, (extent, outputs) in enumerate(zip(extents, self.outputs(extents), strict=True)):
            step, (before, _) = self.stride[axis], self.padding[axis]
            firsts = [self.dilation[axis] * tap - before for tap in range(self.kernel[axis])]
            reads.append([_clipped(range(first, first + step * outputs, step), 0, extent - 1) for first in firsts])
        return reads


@dataclass(frozen=True)
class Phase:
    """A sub-lattice of one axis and the taps that read it.

    Attributes:
        first: its first position inside the image.
        step: distance between its positions.
        size: how many there are.
        taps: the taps, ascending.
        starts: first position (on the sub-lattice, possibly outside) that each tap reads.
        outputs: length of the window of every tap.
    """

    first: int
    step: int
    size: int
    taps: range
    starts: range
    outputs: int

    @property
    def window(self) -> slice:
        """The sub-lattice as a slice of the image."""
        return slice(self.first, None, self.step)

    def outside(self, index: int) -> Iterator[range]:
        """Positions that the tap at an index does not read, as at most two ranges."""
        start = self.starts[index]
        for missing in (range(min(start, self.size)), range(max(0, start + self.outputs), self.size)):
            if len(missing):
                yield missing


def axis_phases(extent: int, kernel: int, stride: int, dilation: int, before: int, outputs: int) -> list[Phase]:
    """The phases of one axis.

    Args:
        extent: size of the image.
        kernel: number of taps.
        stride: step between output positions.
        dilation: step between taps.
        before: zeros before the image.
        outputs: output positions.
    """
    # Two taps read the same sub-lattice where their distance times the dilation is a multiple of the stride.
    period = stride // math.gcd(stride, dilation)
    phases = []
    for taps in (range(first, kernel, period) for first in range(min(period, kernel))):
        offset = dilation * taps[0] % stride
        # Rounded so that `first` is the smallest position of the sub-lattice inside the image.
        skipped = -((offset - before) // stride)
        first = stride * skipped + offset - before
        start = (dilation * taps[0] - offset) // stride - skipped
        spacing = dilation * period // stride
        starts = range(start, start + spacing * len(taps), spacing)
        phases.append(Phase(first, stride, len(range(first, extent, stride)), taps, starts, outputs))
    return phases


@dataclass(frozen=True)
class SharedSum:
    """One sum of shifted products, and the tap pairs it is a part of.

    Attributes:
        indices: an entry an axis: the index (in its phase) of the only left tap it concerns, or None for all.
        rows: left positions summed over, a range an axis.
        lags: shifts of the right positions, a range an axis.
        sign: +1 adds the sum to the blocks, -1 takes it away.
    """

    indices: tuple[int | None, ...]
    rows: tuple[range, ...]
    lags: tuple[range, ...]
    sign: int

    @property
    def macs(self) -> int:
        """Multiply-adds for one pair of channels."""
        return math.prod(map(len, self.rows)) * math.prod(map(len, self.lags))

    def place(self, indices: Indices, lag: Sequence[int]) -> tuple[int, ...] | None:
        """Index among the lags of the product that belongs to a left tap and a lag, or None if there is none."""
        if any(own is not None and own != index for own, index in zip(self.indices, indices, strict=True)):
            return None
        if any(shift not in lags for shift, lags in zip(lag, self.lags, strict=True)):
            return None
        return tuple(lags.index(shift) for shift, lags in zip(lag, self.lags, strict=True))


@dataclass(frozen=True)
class Term:
    """One product in a block.

    Attributes:
        sum: index of the :class:`SharedSum` among those of its pair of phases.
        place: index of the product among the sum's lags.
        sign: +1 or -1.
    """

    sum: int
    place: tuple[int, ...]
    sign: int


@dataclass(frozen=True)
class PhasePair:
    """All blocks between the taps of two phases.

    Attributes:
        left: phase of the left taps, an entry an axis.
        right: phase of the right taps.
        sums: what the blocks are made of. Where left is right only the taps (t, u) with u not before t count.
    """

    left: tuple[Phase, ...]
    right: tuple[Phase, ...]
    sums: tuple[SharedSum, ...]

    @cached_property
    def terms(self) -> dict[tuple[Indices, Indices], tuple[Term, ...]]:
        """Terms that the block of a left and a right tap is made of; taps are counted inside their phases."""
        taps = [
            list(itertools.product(*(range(len(phase.taps)) for phase in side))) for side in (self.left, self.right)
        ]
        return {(t, u): tuple(self._terms(t, u)) for t, u in itertools.product(*taps)}

    def _terms(self, t: Indices, u: Indices) -> Iterator[Term]:
        lag = [b.starts[j] - a.starts[i] for a, b, i, j in zip(self.left, self.right, t, u, strict=True)]
        for index, shared in enumerate(self.sums):
            place = shared.place(t, lag)
            if place is not None:
                yield Term(index, place, shared.sign)


def phase_pair(left: tuple[Phase, ...], right: tuple[Phase, ...]) -> PhasePair:
    """The sums behind the blocks of two phases, by inclusion and exclusion of the borders."""
    # Along an axis a window is everything less the borders outside it; the product over axes expands into one signed
    # sum for every choice of "everything" or a border.
    options: list[list[tuple[int | None, range]]] = []
    for phase in left:
        borders = [(index, rows) for index in range(len(phase.taps)) for rows in phase.outside(index)]
        options.append([(None, range(phase.size)), *borders])
    sums = []
    for choice in itertools.product(*options):
        indices, rows = tuple(index for index, _ in choice), tuple(rows for _, rows in choice)
        lags = _lags(left, right, indices, rows)
        if all(map(len, (*rows, *lags))):
            sums.append(SharedSum(indices, rows, lags, (-1) ** sum(index is not None for index in indices)))
    return PhasePair(left, right, tuple(sums))


def _lags(
    left: tuple[Phase, ...], right: tuple[Phase, ...], indices: tuple[int | None, ...], rows: tuple[range, ...]
) -> tuple[range, ...]:
    """Shifts between a sum's left taps and all right ones that meet the image; half of them inside one phase."""
    lags = []
    # Within one phase the sum of a lag is the transpose of the sum of its negative.
    halved = left == right
    for a, b, index, reach in zip(left, right, indices, rows, strict=True):
        first = b.starts[0] - (a.starts[-1] if index is None else a.starts[index])
        last = b.starts[-1] - (a.starts[0] if index is None else a.starts[index])
        lowest = 0 if halved else 1 - reach.stop
        lags.append(_clipped(range(first, last + 1, b.starts.step), lowest, b.size - 1 - reach.start))
        # Once a leading shift can be positive, the others can have any sign.
        halved = halved and lags[-1] == range(0, 1, b.starts.step)
    return tuple(lags)


def _clipped(values: range, lowest: int, highest: int) -> range:
    """The values in [lowest, highest]."""
    skipped = max(0, -((values.start - lowest) // values.step))
    start = values.start + skipped * values.step
    return range(start, max(start, min(values.stop, highest + 1)), values.step)

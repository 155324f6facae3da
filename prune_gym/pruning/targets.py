"""Targets of a pruned network: less FLOPs, fewer parameters, less latency, at most so much of its accuracy lost.

Imports nothing heavy, so that a command line can read its options at once.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"


class TargetError(ValueError):
    """A target that cannot be read.

    Attributes:
        name: its name: ``"flops"``, ``"params"``, ``"latency"`` or ``"max_drop"``.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name, self.message = name, message


class TargetsNotMetError(ValueError):
    """No network meets all targets; the message says what is reachable."""


@dataclass(frozen=True)
class LatencyLimit:
    """A latency that may not be exceeded: as a share of the dense network's, or in milliseconds.

    Attributes:
        share: of the dense network's latency, in (0, 1); None where milliseconds are given.
        milliseconds: of one batch; None where a share is given.
    """

    share: float | None = None
    milliseconds: float | None = None

    def __str__(self) -> str:
        return f"{self.share:g}x" if self.milliseconds is None else f"{self.milliseconds:g} ms"


@dataclass(frozen=True)
class Targets:
    """All targets together; a network has to meet every one that is given.

    Attributes:
        flops: FLOPs reduction, a fraction in (0, 1).
        params: reduction of parameters, a fraction in (0, 1).
        latency: largest latency.
        max_drop: largest loss of accuracy (or of the task's metric, or of agreement with the dense network) in
            percentage points; the network is then made as small as that allows.
    """

    flops: float | None = None
    params: float | None = None
    latency: LatencyLimit | None = None
    max_drop: float | None = None

    @classmethod
    def of(cls, flops: Any = None, params: Any = None, latency: Any = None, max_drop: Any = None) -> Targets:
        """Read targets as people write them.

        Args:
            flops: share to remove (``0.5``, ``"50%"``), or what may be left of the dense network's (``"0.5x"``).
            params: the same for parameters.
            latency: ``"4.2ms"``, or ``"0.5x"`` of the dense network's.
            max_drop: percentage points.

        Raises:
            TargetError: one cannot be read or is out of its range, or none is given.
        """
        given = (flops, params, latency, max_drop)
        if all(value is None for value in given):
            raise TargetError("flops", "no target is given: name one of flops, params, latency and max_drop")
        return cls(
            None if flops is None else _reduction("flops", flops),
            None if params is None else _reduction("params", params),
            None if latency is None else _latency(latency),
            None if max_drop is None else _drop(max_drop),
        )

    @property
    def has_costs(self) -> bool:
        """True where FLOPs, parameters or latency are limited."""
        return not (self.flops is None and self.params is None and self.latency is None)

    def described(self) -> str:
        """In words: ``"50 % of the FLOPs removed, at most 0.6x the latency"``."""
        words = []
        if self.flops is not None:
            words.append(f"{100 * self.flops:g} % of the FLOPs removed")
        if self.params is not None:
            words.append(f"{100 * self.params:g} % of the parameters removed")
        if self.latency is not None:
            limit = self.latency
            words.append(f"at most {limit.share:g}x the latency" if limit.share else f"at most {limit} a batch")
        if self.max_drop is not None:
            lead = "at most" if self.has_costs else "as small as possible, at most"
            words.append(f"{lead} {self.max_drop:g} points lost")
        return ", ".join(words)


def _reduction(name: str, given: Any) -> float:
    """A fraction to remove.

    Raises:
        TargetError: no share, or one outside (0, 1).
    """
    match = re.fullmatch(rf"\s*{_NUMBER}\s*(x|%|)\s*", str(given).lower())
    example = "a share to remove such as 0.5 or 50%, or what may be left, such as 0.5x"
    if match is None or isinstance(given, bool):
        raise TargetError(name, f"is {example}; got {given!r}")
    number = float(match[1])
    value = 1.0 - number if match[2] == "x" else number / 100 if match[2] == "%" else number
    if not 0.0 < value < 1.0:
        hint = f" (did you mean {number:g}%?)" if not match[2] and 1.0 < number < 100.0 else ""
        raise TargetError(name, f"is {example}; got {given!r}{hint}")
    return value


def _latency(given: Any) -> LatencyLimit:
    if isinstance(given, LatencyLimit):
        return given
    match = re.fullmatch(rf"\s*{_NUMBER}\s*(ms|us|s|x)\s*", str(given).lower())
    if match is None:
        raise TargetError(
            "latency", f"is a time such as 4.2ms, or a share of the dense network's such as 0.5x; got {given!r}"
        )
    number, unit = float(match[1]), match[2]
    if unit == "x":
        if not 0.0 < number < 1.0:
            raise TargetError("latency", f"as a share of the dense network's is between 0x and 1x; got {given!r}")
        return LatencyLimit(share=number)
    if number <= 0.0:
        raise TargetError("latency", f"is a positive time; got {given!r}")
    return LatencyLimit(milliseconds=number * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit])


def _drop(given: Any) -> float:
    try:
        value = float(given)
    except (TypeError, ValueError):
        raise TargetError("max_drop", f"is a number of percentage points, such as 1.0; got {given!r}") from None
    if not (math.isfinite(value) and 0.0 <= value < 100.0) or isinstance(given, bool):
        raise TargetError("max_drop", f"is a number of percentage points in [0, 100); got {given!r}")
    return value

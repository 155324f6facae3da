"""Results of runs as samples: checked for what no statistic can repair, and paired by seed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

MIN_SEEDS = 5
"""Below this many runs a warning says that intervals and p-values say little."""

Results: TypeAlias = Sequence[float] | Mapping[Any, float]
"""Results of one method: a value a seed, in order or by seed."""


def paired_samples(results: Mapping[str, Results], baseline_name: str) -> dict[str, NDArray[np.float64]]:
    """Return method -> [num_seeds] values with the seeds of all methods in the order of the baseline's.

    Raises:
        ValueError: methods ran with different seeds or numbers of seeds, or see :func:`as_sample`.
    """
    reference = results[baseline_name]
    samples = {name: as_sample(_in_order_of(reference, values, name), name) for name, values in results.items()}
    for name, sample in samples.items():
        if sample.size != len(reference):
            raise ValueError(
                f"{name!r} has {sample.size} results and {baseline_name!r} {len(reference)}; "
                "a paired comparison needs the same seeds for both"
            )
    return samples


def _in_order_of(reference: Results, values: Results, name: str) -> Sequence[float]:
    """Return a method's results in the order of the baseline's seeds.

    Raises:
        ValueError: one has seeds and the other has not, or the seeds differ.
    """
    if not isinstance(values, Mapping) and not isinstance(reference, Mapping):
        return values
    if not isinstance(values, Mapping) or not isinstance(reference, Mapping):
        raise ValueError(f"{name!r} and the baseline must both be sequences or both map seeds to results")
    if set(values) != set(reference):
        extra, missing = set(values) - set(reference), set(reference) - set(values)
        raise ValueError(
            f"runs of {name!r} cannot be paired with the baseline's: "
            f"extra seeds {sorted(extra, key=str)}, missing seeds {sorted(missing, key=str)}"
        )
    return [values[seed] for seed in reference]


def as_sample(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return results as float64 [num_seeds].

    Args:
        values: one number a seed.
        name: whose they are, for messages.

    Raises:
        ValueError: they are not numbers, not one-dimensional, NaN, missing or infinite, or fewer than two.
    """
    try:
        sample = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name!r} must hold one number a seed, got {values!r}") from error
    if sample.ndim != 1:
        raise ValueError(f"{name!r} must be one-dimensional, one value a seed, got shape {sample.shape}")
    bad = np.flatnonzero(~np.isfinite(sample))
    if bad.size:
        raise ValueError(
            f"{name!r} holds NaN or infinite values at positions {bad.tolist()}; drop or repeat those runs"
        )
    if sample.size < 2:
        raise ValueError(f"{name!r} has {sample.size} value(s); at least 2 seeds are needed to see any spread")
    return sample


def check_level(alpha: float) -> None:
    """Check a significance level.

    Raises:
        ValueError: it does not lie in (0, 1).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha}")


def check_bootstrap(confidence: float, n_bootstrap: int) -> None:
    """Check a confidence level and a number of resamples.

    Raises:
        ValueError: either cannot be used.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}; for 95 % write 0.95")
    if n_bootstrap < 1:
        raise ValueError(f"n_bootstrap must be at least 1, got {n_bootstrap}")


def warn_if_few(count: int) -> None:
    """Warn below MIN_SEEDS runs, in the name of the caller of the caller."""
    if count < MIN_SEEDS:
        warnings.warn(
            f"{count} seeds say little: run at least {MIN_SEEDS} before you quote an interval or a p-value",
            UserWarning,
            stacklevel=3,
        )


@contextmanager
def few_seeds_are_stated() -> Iterator[None]:
    """Keep the warning quiet inside: whoever shows the results shows the number of seeds beside them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* seeds say little", UserWarning)
        yield

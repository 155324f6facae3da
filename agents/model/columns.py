"""A kernel of scikit-learn that sees some columns of the inputs only."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.gaussian_process.kernels import Kernel


class Columns(Kernel):
    """A kernel on the columns [first, last) of the inputs.

    Args:
        kernel: that sees them.
        first: column it begins at.
        last: column it ends before.
    """

    def __init__(self, kernel: Any, first: int, last: int) -> None:
        self.kernel, self.first, self.last = kernel, first, last

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"kernel": self.kernel, "first": self.first, "last": self.last}

    @property
    def hyperparameters(self) -> list[Any]:
        """Those of the kernel."""
        return list(self.kernel.hyperparameters)

    @property
    def theta(self) -> np.ndarray:
        """Logarithms of the hyper-parameters that are not fixed."""
        return np.asarray(self.kernel.theta)

    @theta.setter
    def theta(self, theta: np.ndarray) -> None:
        self.kernel.theta = theta

    @property
    def bounds(self) -> np.ndarray:
        """Bounds of :attr:`theta`."""
        return np.asarray(self.kernel.bounds)

    def __call__(self, X: np.ndarray, Y: np.ndarray | None = None, eval_gradient: bool = False) -> Any:
        """Covariances [N, M] of rows, and their gradient."""
        return self.kernel(self._seen(X), None if Y is None else self._seen(Y), eval_gradient=eval_gradient)

    def diag(self, X: np.ndarray) -> np.ndarray:
        """Variances [N] of rows."""
        return np.asarray(self.kernel.diag(self._seen(X)))

    def is_stationary(self) -> bool:
        """Return whether the kernel is."""
        return bool(self.kernel.is_stationary())

    def _seen(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(rows)[:, self.first : self.last]

"""Bound on the kernels that are kept for a process which runs network after network.

Every shape of a convolution has a kernel of its own, made at its first run. A search runs new shapes at every plan and
comes back to few of them, but PyTorch keeps 1,024 of what it prepared, and oneDNN below it 1,024 kernels: about 100 KiB
of a process for every shape, until there are so many.
"""

from __future__ import annotations

import os

VARIABLES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
"""Of the environment; PyTorch and oneDNN read them at a process's first convolution, and never again."""

FEWEST = 512
MOST = 1024
"""Kept where nobody says anything."""

PER_LAYER = 8
"""Kernels of a layer in one plan: its convolution and the reordering of its weights, for batches of two sizes in the
repair and in the score. They have to be there at the plan's next batch."""


def bound_kernels(layers: int) -> None:
    """Have as many kernels kept as a plan of a network needs, where the user has not set a number.

    Args:
        layers: convolutions and linear layers of the network.
    """
    for variable in VARIABLES:
        os.environ.setdefault(variable, str(min(MOST, max(FEWEST, PER_LAYER * layers))))

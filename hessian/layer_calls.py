"""What a hooked layer was called with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def layer_input(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The input of a call of one of PyTorch's layers, given by position or as ``input=``; for hooks with keywords.

    Raises:
        KeyError: neither is there.
    """
    return args[0] if args else kwargs["input"]

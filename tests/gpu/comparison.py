"""Comparison of what two devices found."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    """Check that results agree.

    Args:
        found: name -> tensor.
        expected: the CPU's.
        tolerance: largest difference, relative to a tensor's largest entry.
    """
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape, name
        if tensor.numel():
            scale = float(tensor.abs().max())
            gap = float((found[name] - tensor).abs().max())
            assert gap <= tolerance * scale + 1e-9, f"{name}: {gap:.2e} of {scale:.2e}"

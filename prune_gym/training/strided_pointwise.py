"""Strided 1x1 convolutions of few channels, kept from a kernel of oneDNN that writes past its workspace.

Where inputs lie channels last in memory, oneDNN (up to 3.12 at least, uxlfoundation/oneDNN#6035) computes the weight
gradient of a 1x1 convolution with a stride wrongly, hangs or corrupts the heap, if it has fewer input channels than a
vector register has lanes. The shortcuts of a pruned residual network are such convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

LANES = 16
"""Floats of the widest register (AVX-512); with as many input channels the kernel is right."""


@contextmanager
def strided_pointwise_avoided(model: nn.Module) -> Iterator[None]:
    """Inside, such convolutions take every s-th pixel of their input first, and convolve that with stride 1.

    The result is the same. Only convolutions on a CPU with fewer than :data:`LANES` inputs are touched.

    Args:
        model: as it was on any exit.
    """
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    found = [(module, module.stride) for module in convolutions if _endangered(module)]
    hooks = [(module, _every_pixel_used(stride)) for module, stride in found]
    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module, hook in hooks]
    try:
        for module, _ in found:
            module.stride = (1, 1)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, stride in found:
            module.stride = stride


def _endangered(module: nn.Conv2d) -> bool:
    return (
        type(module).forward is nn.Conv2d.forward  # another may read the stride for reasons of its own
        and module.weight.device.type == "cpu"
        and module.weight.shape[1] < LANES
        and tuple(module.weight.shape[2:]) == (1, 1)
        and tuple(module.stride) != (1, 1)
        and module.padding in (0, (0, 0), "valid")
    )


def _every_pixel_used(stride: tuple[int, ...]) -> Any:
    pixels = (..., slice(None, None, stride[0]), slice(None, None, stride[1]))

    def take(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Any:
        return tuple(x[pixels] for x in args), {name: x[pixels] for name, x in kwargs.items()}

    return take

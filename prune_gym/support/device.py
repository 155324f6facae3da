"""Devices of tensors: the one place that asks which devices exist."""

from __future__ import annotations

import torch
from torch import nn


def available_devices() -> list[torch.device]:
    """All devices this process can compute on, the CPU first.

    Returns:
        ``[cpu]``, followed by every CUDA device and by MPS where present.
    """
    devices = [torch.device("cpu")]
    devices += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps", 0))
    return devices


def resolve_device(spec: str | int | torch.device | None = None) -> torch.device:
    """Turn what a user wrote into a device that exists.

    Args:
        spec: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, a GPU index (``1`` or ``"1"``), a device, or
            None: the GPU when there is exactly one, else the CPU.

    Returns:
        A device with its index spelled out (``"cuda"`` becomes ``cuda:0``); the CPU has none.

    Raises:
        TypeError: If ``spec`` is of another type.
        ValueError: If the device is unknown or not present here.
    """
    present = available_devices()
    if spec is None:
        gpus = [device for device in present if device.type == "cuda"]
        return gpus[0] if len(gpus) == 1 else torch.device("cpu")
    device = _parse(spec)
    if device not in present:
        names = ", ".join(str(candidate) for candidate in present)
        raise ValueError(f"device {spec!r} is not present; available here: {names}")
    return device


def _parse(spec: str | int | torch.device) -> torch.device:
    if isinstance(spec, bool) or not isinstance(spec, (str, int, torch.device)):
        raise TypeError(
            f"a device is a name, a GPU index or a torch.device; got {spec!r} of type {type(spec).__name__}"
        )
    if isinstance(spec, str) and spec.strip().isdecimal():
        spec = int(spec)
    if isinstance(spec, int) and spec < 0:
        raise ValueError(f"a GPU index is 0 or more; got {spec} (for the CPU say 'cpu')")
    try:
        device = torch.device("cuda", spec) if isinstance(spec, int) else torch.device(spec)
        # An index that PyTorch's 8 bits cannot hold is refused only here.
        return torch.device("cpu") if device.type == "cpu" else torch.device(device.type, device.index or 0)
    except RuntimeError as error:
        raise ValueError(f"unknown device {spec!r}; say 'cpu', 'cuda:0' or a GPU index") from error


def device_name(device: torch.device) -> str:
    """Name a device has from its maker, such as ``"NVIDIA A100-SXM4-40GB"``; its type where nobody says."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def synchronize(device: torch.device) -> None:
    """Wait until everything queued on ``device`` has run; returns at once on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The 16-bit type mixed precision computes in on a device; None where it is not supported.

    bfloat16 on the CPU and on GPUs that have it, float16 (whose gradients need scaling) on older GPUs.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if device.type == "cpu" else None


def module_device(model: nn.Module) -> torch.device:
    """The device all parameters and buffers of ``model`` share; the CPU for a model without any.

    Raises:
        ValueError: If the model is spread over several devices.
    """
    tensors = [*model.parameters(), *model.buffers()]
    devices = {tensor.device for tensor in tensors}
    if len(devices) > 1:
        names = ", ".join(sorted(str(device) for device in devices))
        raise ValueError(f"the model is spread over {names}; move it to one device first")
    return devices.pop() if devices else torch.device("cpu")

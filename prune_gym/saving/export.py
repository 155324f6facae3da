"""A pruned network for other runtimes: ``torch.export`` programs, ONNX files, plain state dicts.

Nothing is written on trust: the exported network first runs on inputs it was not traced with, at several batch sizes,
and has to agree with the model.
"""

from __future__ import annotations

import importlib.util
import io
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from hessian.support.door import plain_model
from hessian.support.files import write_atomic
from hessian.support.modes import modes_restored
from prune_gym.support.device import module_device
from prune_gym.support.files import save_safetensors_atomic
from prune_gym.surgery.state_dict import signed_archive

TOLERANCE = 1e-4
"""Largest accepted difference of an exported network's outputs, relative to the largest output."""

DYNAMIC_BATCHES = (1, 2, 5)
"""Batch sizes at which an export with a dynamic batch is held against the model."""

_ONNX_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")

Runner = Callable[[tuple[Tensor, ...]], Sequence[Tensor]]


@dataclass(frozen=True)
class Parity:
    """Agreement of an exported network with the model it came from.

    Attributes:
        path: The file written.
        max_error: Largest difference of outputs over all batches, relative to the largest output.
        batch_sizes: Batch sizes that were compared.
        runtime: What ran the exported network.
    """

    path: Path
    max_error: float
    batch_sizes: tuple[int, ...]
    runtime: str


def export_program(
    model: nn.Module,
    example_input: Any,
    path: str | os.PathLike[str],
    *,
    dynamic_batch: bool = True,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Write a ``torch.export`` program (``.pt2``); read it with ``torch.export.load(path).module()``.

    Args:
        model: Any network; exported in evaluation mode, left in the mode it is in.
        example_input: A tensor (or tuple of tensors) [batch, ...] it accepts, on the model's device.
        path: File to write, by convention ``*.pt2``; missing folders are created.
        dynamic_batch: Whether the program takes any batch size; False fixes the example's.
        tolerance: Largest accepted difference of outputs, relative to the largest output.

    Returns:
        What was compared, and the largest difference.

    Raises:
        ValueError: If the model does not run on the example or cannot be exported, the example is on another device, or
            the outputs differ by more than the tolerance; nothing is written.
        OSError: If the file cannot be written.
    """
    model = plain_model(model)
    inputs = _checked_inputs(model, example_input)
    with modes_restored(model), torch.no_grad():
        program = _program(model.eval(), inputs, dynamic_batch)
        exported = program.module()
        parity = _compare(model, _as_runner(exported), inputs, Path(path), dynamic_batch, tolerance, "torch.export")
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_atomic(path, buffer.getvalue())
    return parity


def export_onnx(
    model: nn.Module,
    example_input: Any,
    path: str | os.PathLike[str],
    *,
    dynamic_batch: bool = True,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Write an ONNX file, checked with onnxruntime on the CPU. Needs the extra ``prune-gym[onnx]``.

    Args:
        model: Any network; exported in evaluation mode, left in the mode it is in.
        example_input: A tensor (or tuple of tensors) [batch, ...] it accepts, on the model's device.
        path: File to write, by convention ``*.onnx``; missing folders are created.
        dynamic_batch: Whether the file takes any batch size; False fixes the example's.
        tolerance: Largest accepted difference of outputs, relative to the largest output.

    Returns:
        What was compared, and the largest difference.

    Raises:
        ImportError: If the ONNX libraries are not installed.
        ValueError: If the model does not run on the example or cannot be exported, the example is on another device, or
            the outputs differ by more than the tolerance; nothing is written.
        OSError: If the file cannot be written.
    """
    require_onnx()
    model = plain_model(model)
    inputs = _checked_inputs(model, example_input)
    with modes_restored(model), torch.no_grad():
        content = _onnx_bytes(_program(model.eval(), inputs, dynamic_batch))
        parity = _compare(model, _onnx_runner(content), inputs, Path(path), dynamic_batch, tolerance, "onnxruntime")
    write_atomic(path, content)
    return parity


def export_state_dict(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write the plain weights, for people who rebuild the network by hand.

    Args:
        model: Any network.
        path: ``*.safetensors`` for safetensors, ``*.pt`` or ``*.pth`` for PyTorch's own format (tensors only: it loads
            with ``torch.load(path, weights_only=True)``). Both carry a checksum, which
            :func:`prune_gym.read_state_dict` checks and other readers pass over.

    Returns:
        The path written.

    Raises:
        ValueError: If the suffix is another.
        OSError: If the file cannot be written.
    """
    path = Path(path)
    state = {name: tensor.detach().cpu() for name, tensor in plain_model(model).state_dict().items()}
    if path.suffix == ".safetensors":
        return save_safetensors_atomic(path, state)
    if path.suffix not in (".pt", ".pth"):
        raise ValueError(f"a state dict is written as .safetensors, .pt or .pth; got {path.name!r}")
    return write_atomic(path, signed_archive(state))


def _checked_inputs(model: nn.Module, example_input: Any) -> tuple[Tensor, ...]:
    inputs = tuple(example_input) if isinstance(example_input, (tuple, list)) else (example_input,)
    device = module_device(model)
    for item in inputs:
        if not isinstance(item, Tensor) or item.ndim < 1:
            raise ValueError(f"example_input is a tensor [batch, ...] or a tuple of such, got {type(item).__name__}")
        if item.device != device:
            raise ValueError(
                f"example_input is on {item.device} but the model on {device}; pass example_input.to({str(device)!r})"
            )
    try:
        with modes_restored(model), torch.no_grad():
            model.eval()(*inputs)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        shapes = [list(item.shape) for item in inputs]
        raise ValueError(
            f"{type(model).__name__} does not run on an example input of shape {shapes}: {error}"
        ) from error
    return inputs


def _program(model: nn.Module, inputs: tuple[Tensor, ...], dynamic_batch: bool) -> torch.export.ExportedProgram:
    batch = inputs[0].shape[0]
    if dynamic_batch and batch == 1:
        # A traced size of 1 is always taken for a constant.
        inputs = tuple(item.repeat_interleave(2, dim=0) for item in inputs)
    dynamic = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs) if dynamic_batch else None
    try:
        return torch.export.export(model, inputs, dynamic_shapes=dynamic)
    except Exception as error:  # torch.export has no common base class for what it refuses
        hint = "; pass dynamic_batch=False if its code fixes the batch size" if dynamic_batch else ""
        raise ValueError(f"{type(model).__name__} cannot be exported: {_first_line(error)}{hint}") from error


def _as_runner(module: Callable[..., Any]) -> Runner:
    return lambda inputs: _tensors(module(*inputs))


def _tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _compare(
    model: nn.Module,
    run: Runner,
    inputs: tuple[Tensor, ...],
    path: Path,
    dynamic_batch: bool,
    tolerance: float,
    runtime: str,
) -> Parity:
    """Run both on fresh inputs and compare.

    Raises:
        ValueError: they differ by more than the tolerance.
    """
    sizes = DYNAMIC_BATCHES if dynamic_batch else (inputs[0].shape[0],)
    errors: list[float] = []
    for size in sizes:
        fresh = tuple(_like(item, size) for item in inputs)
        expected, actual = _tensors(model(*fresh)), run(fresh)
        for reference, output in zip(expected, actual, strict=True):
            scale = float(reference.abs().max().clamp_min(torch.finfo(torch.float32).tiny))
            errors.append(float((output.to(reference.device) - reference).abs().max()) / scale)
    worst = float(torch.tensor(errors, dtype=torch.float64).max()) if errors else 0.0  # NaN, where there is one
    if not worst <= tolerance:
        raise ValueError(
            f"the network exported to {path.name} differs from the model by {worst:.1e} of its largest output "
            f"({runtime}, batches of {', '.join(map(str, sizes))}), more than the tolerance {tolerance:.1e}; "
            "nothing was written"
        )
    return Parity(path, worst, tuple(sizes), runtime)


def _like(example: Tensor, batch: int) -> Tensor:
    """Inputs of the example's kind: noise around it, or its own rows where it holds no real numbers."""
    rows = example[torch.arange(batch, device=example.device) % example.shape[0]]
    if not rows.is_floating_point():
        return rows
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(batch))
    return rows + noise.to(rows)


def require_onnx() -> None:
    """Raise unless the ONNX libraries are installed.

    Raises:
        ImportError: those that are missing are named.
    """
    missing = [name for name in _ONNX_LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX export needs {', '.join(missing)}: pip install 'prune-gym[onnx]'")


def _onnx_bytes(program: torch.export.ExportedProgram) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        try:
            converted = torch.onnx.export(program, (), dynamo=True, verbose=False)
        except torch.onnx.errors.OnnxExporterError as error:
            raise ValueError(f"the network cannot be written as ONNX: {_first_line(error)}") from error
    assert converted is not None
    content: bytes = converted.model_proto.SerializeToString()
    return content


def _onnx_runner(content: bytes) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        feed = {name: item.cpu().numpy() for name, item in zip(names, inputs, strict=True)}
        return [torch.as_tensor(output) for output in session.run(None, feed)]

    return run


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

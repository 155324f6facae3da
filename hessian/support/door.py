"""The door: what a user hands in as a network becomes the plain module the work is done on, or is named.

Wrappers that only forward calls are taken off: the result is a network of the plain kind. What runs where Python hooks
and weights cannot be reached is refused before any work is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from hessian.support.calling import state_kept

_WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}
"""Class name of a wrapper -> where it keeps the network. By name: some live in modules that are slow to import."""

_SHARDED = ("FullyShardedDataParallel", "FSDPModule")


def plain_model(model: Any) -> Any:
    """The network inside wrappers (DataParallel, DistributedDataParallel, torch.compile); itself where there are none.

    Args:
        model: what a user gave.

    Raises:
        TypeError: it is no module, a scripted or exported program, or one whose weights are spread over processes.
    """
    while isinstance(model, nn.Module):
        kinds = {kind.__name__ for kind in type(model).__mro__}
        inside = next((attribute for name, attribute in _WRAPPERS.items() if name in kinds), None)
        if inside is None:
            break
        model = getattr(model, inside)
    _refuse(model)
    return model


def _refuse(model: Any) -> None:
    if not isinstance(model, nn.Module):
        hint = "; use the nn.Module it was exported from" if hasattr(model, "graph_module") else ""
        raise TypeError(f"model must be a torch.nn.Module, got a {type(model).__name__}{hint}")
    if isinstance(model, torch.fx.GraphModule) and type(model).__module__.startswith("torch.export"):
        raise TypeError("an exported program has its sizes fixed in its graph; give the nn.Module it was exported from")
    for name, module in model.named_modules():
        where = f"its part {name!r}" if name else "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(
                f"{where} is a TorchScript module ({type(module).__name__}), whose layers cannot be reached; give the "
                "nn.Module it was scripted from"
            )
        if any(kind.__name__ in _SHARDED for kind in type(module).__mro__):
            raise TypeError(
                f"{where} is sharded over processes ({type(module).__name__}); gather its weights into a plain module "
                "first (torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True)"
            )
        if name and any(kind.__name__ in _WRAPPERS for kind in type(module).__mro__):
            raise TypeError(
                f"{where} is wrapped ({type(module).__name__}), which would give its layers other names; replace it by "
                f"the module inside it, .{_WRAPPERS[_wrapper_of(module)]}"
            )


def _wrapper_of(module: nn.Module) -> str:
    return next(kind.__name__ for kind in type(module).__mro__ if kind.__name__ in _WRAPPERS)


@contextmanager
def plain_execution() -> Iterator[None]:
    """Inside, nothing of the caller's contexts is in force: no inference mode, no autocast, and gradients are on."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Inside, the network may be run in any mode; afterwards it and the random streams are as they were.

    Modes, ``requires_grad`` flags, buffers that a forward pass counts up, and the states of PyTorch's random generators
    come back on any exit. The caller's contexts are shut out (:func:`plain_execution`).
    """
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with plain_execution(), state_kept(model):
            yield
    finally:
        for parameter, flag in flags:
            if parameter.requires_grad != flag:
                parameter.requires_grad_(flag)

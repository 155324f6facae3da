"""An accelerator that is not there: tensors of the CPU that say they are elsewhere, and operators that believe them.

What a GPU would refuse is refused, and what would make the host wait for a GPU is counted:

* the device belongs to a tensor's memory, so views, ``.data`` and saved activations have it too;
* an operator with tensors of two devices raises :class:`MixedDevices`, but for what PyTorch lets through (a number on
  the CPU, copies, indices on the CPU);
* reading values (``item``, ``tolist``, ``bool``, ``.cpu()``, ``nonzero``, masks as indices, checks of solvers) is a
  *synchronisation*, and so is bringing a tensor there, but for copies with ``non_blocking=True``; they are counted by
  the line of this project they come from;
* a type the device lacks (float64 on MPS) raises.

Numbers are the CPU's, so results can be compared with it. Speed, memory and kernels are not imitated.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")

_MOVES = ("_to_copy", "copy_", "_copy_from", "set_", "copy")
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put")
_READS = (
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "_linalg_check_errors",
    "_linalg_eigh",
    "bincount",
)


class MixedDevices(RuntimeError):
    """An operator was given tensors of several devices."""


class FakeAccelerator:
    """The accelerator; a context manager inside which it is present.

    Args:
        name: device it stands for, such as ``"cuda:0"`` or ``"mps:0"``; the latter has no float64.

    Attributes:
        device: that device.
        synchronisations: line of this project -> how often the host waited there.
        uploads: line of this project -> how often a tensor went there without waiting.
        operations: operators that ran there.
        capability: compute capability of the GPU it stands for.
    """

    def __init__(self, name: str = "cuda:0") -> None:
        self.device = torch.device(name)
        self.synchronisations: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.operations = 0
        self.capability = (9, 0)
        self._storages: dict[int, StorageWeakRef] = {}
        self._zeros: dict[int, StorageWeakRef] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> FakeAccelerator:
        for patch in self._patches():
            self._stack.enter_context(patch)
        self._stack.enter_context(self.modes())
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def forget(self) -> None:
        """Start counting anew."""
        self.synchronisations.clear()
        self.uploads.clear()
        self.operations = 0

    @contextlib.contextmanager
    def modes(self) -> Iterator[None]:
        """The accelerator as seen by one thread."""
        with _Dispatched(self), _Called(self):
            yield

    # ------------------------------------------------------------------ where tensors are

    def holds(self, tensor: Tensor) -> bool:
        """Return whether a tensor lies on the accelerator."""
        key = _storage(tensor)
        return key is not None and key in self._storages

    def device_of(self, tensor: Tensor) -> torch.device:
        """The device a tensor says it is on."""
        return self.device if self.holds(tensor) else tensor.device

    def take(self, tensors: Any) -> Any:
        """Declare that tensors (in any containers) lie on the accelerator.

        Raises:
            TypeError: it has no such type.
        """
        for tensor in _tensors(tensors):
            key = _storage(tensor)
            if key is not None:
                if self.device.type == "mps" and tensor.dtype == torch.float64:
                    raise TypeError("Cannot convert a MPS Tensor to float64 dtype as MPS doesn't support float64")
                # A weak reference keeps the address from being given to another tensor.
                self._storages[key] = StorageWeakRef(_unwrapped(tensor).untyped_storage())
        if len(self._storages) > 20_000:
            self._storages, self._zeros = (
                {key: weak for key, weak in table.items() if not weak.expired()}
                for table in (self._storages, self._zeros)
            )
        return tensors

    def release(self, tensors: Any) -> Any:
        """Declare that tensors (of memory of their own) lie on the CPU."""
        for tensor in _tensors(tensors):
            self._storages.pop(_storage(tensor), None)  # type: ignore[arg-type]
        return tensors

    def follows(self, tensor: Tensor) -> bool:
        """Return whether a tensor is a derivative that is zero everywhere, which PyTorch makes without being asked."""
        return _storage(tensor) in self._zeros

    def take_zeros(self, tensor: Tensor) -> Tensor:
        """Remember such a derivative."""
        key = _storage(tensor)
        if key is not None:
            self._zeros[key] = StorageWeakRef(_unwrapped(tensor).untyped_storage())
        return tensor

    def moved(self, device: torch.device, copy: Callable[[], Tensor], *, waits: bool = True) -> Tensor:
        """A tensor brought to another device.

        Args:
            device: where it goes.
            copy: makes the copy, in memory of its own.
            waits: whether the host waits for a copy to the accelerator; it always does for one back.
        """
        back = device.type != self.device.type
        (self.synchronisations if back or waits else self.uploads)[_line()] += 1
        return self.release(copy()) if back else self.take(copy())

    # ------------------------------------------------------------------ what PyTorch says of it

    def _patches(self) -> list[Any]:
        begun, run = threading.Thread.run, torch.autocast
        engine = torch.autograd.graph._engine_run_backward

        def in_thread(thread: threading.Thread) -> None:
            with self.modes():
                begun(thread)

        def backward(*args: Any, **kwargs: Any) -> Any:
            # Hooks on gradients are this project's code: they see the accelerator too.
            with _Called(self):
                return engine(*args, **kwargs)

        def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
            return run("cpu" if device_type == self.device.type else device_type, *args, **kwargs)

        clipping: Any = sys.modules["torch.nn.utils.clip_grad"]
        group = clipping._group_tensors_by_device_and_dtype

        def by_device(lists: Any, *args: Any, **kwargs: Any) -> Any:
            # Below the operators, where gradients lie on the CPU: clipping would bring its factor there.
            found = group(lists, *args, **kwargs)
            return {(self.device_of(each[0][0]), dtype): (each, where) for (_, dtype), (each, where) in found.items()}

        patches = [
            mock.patch.object(clipping, "_group_tensors_by_device_and_dtype", by_device),
            mock.patch.object(threading.Thread, "run", in_thread),
            mock.patch.object(torch, "Generator", _generator(self)),
            mock.patch.object(torch, "autocast", autocast),
            mock.patch.object(torch.autograd, "_engine_run_backward", backward),
            mock.patch.object(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", mock.Mock()),
        ]
        if self.device.type == "mps":
            patches += [mock.patch.object(torch.backends.mps, "is_available", return_value=True)]
            return [*patches, mock.patch.object(torch.mps, "synchronize", self._wait)]
        state = torch.get_rng_state()
        said = {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "get_device_name": lambda device=None: "no GPU (tests)",
            "get_device_capability": lambda device=None: self.capability,
            "is_bf16_supported": lambda *args, **kwargs: True,
            "synchronize": self._wait,
            "current_stream": lambda device=None: None,
            "Event": _Event,
            "device": lambda device: contextlib.nullcontext(),
            "get_rng_state": lambda device=None: state.clone(),
            "set_rng_state": lambda new, device=None: None,
            "reset_peak_memory_stats": lambda device=None: None,
            "max_memory_allocated": lambda device=None: 1 << 20,
            "memory_allocated": lambda device=None: 1 << 19,
            "empty_cache": lambda: None,
        }
        return [*patches, *(mock.patch.object(torch.cuda, name, value) for name, value in said.items())]

    def _wait(self, device: Any = None) -> None:
        self.synchronisations[_line()] += 1


class _Event:
    """A CUDA event, by the wall clock."""

    def __init__(self, enable_timing: bool = False) -> None:
        self._at = 0.0

    def record(self, stream: Any = None) -> None:
        self._at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: _Event) -> float:
        return 1000.0 * (end._at - self._at)


def _generator(accelerator: FakeAccelerator) -> type:
    class Generator(torch._C.Generator):
        """A generator that says it is on the accelerator."""

        def __new__(cls, device: Any = "cpu") -> Generator:
            made = super().__new__(cls, "cpu")
            made.where = torch.device(device)
            return made

        def __init__(self, device: Any = "cpu") -> None:
            pass

        @property
        def device(self) -> torch.device:
            return accelerator.device if self.where.type == accelerator.device.type else self.where

    return Generator


class _Called(TorchFunctionMode):
    """Python's side: what devices are asked for and read off."""

    def __init__(self, accelerator: FakeAccelerator) -> None:
        super().__init__()
        self._there = accelerator

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name, there = getattr(func, "__name__", ""), self._there
        own = args[0] if args and isinstance(args[0], Tensor) else None
        held = own is not None and there.holds(own)
        if name == "__get__":
            return self._attribute(func, args, kwargs, held)
        if name == "_parse_to" and own is not None:
            return there.device_of(own), own.dtype, False, None
        if name in ("to", "cpu", "cuda", "mps") and own is not None:
            return self._to(name, func, own, args[1:], kwargs)
        if held and name in ("numpy", "__array__", "__array_interface__"):
            raise TypeError(f"can't convert {there.device} device type tensor to numpy. Use Tensor.cpu() first")
        if held and name in ("tolist",):
            there.synchronisations[_line()] += 1
        if held and name == "get_device":
            return there.device.index or 0
        self._check_generator(args, kwargs, own)
        if kwargs.get("device") is None:
            inside = name != "backward" and any(map(there.holds, _tensors((args, kwargs))))
            result = func(*args, **kwargs)
            del inside  # read by _made_beside()
            # Made of Python's numbers or by copying memory, below the operators that are seen.
            return there.take(result) if held and name in ("new_tensor", "__deepcopy__") else result
        device = torch.device(kwargs["device"])
        kwargs["device"] = CPU if device.type == there.device.type else device
        result = func(*args, **kwargs)
        if name in ("tensor", "as_tensor", "asarray"):
            source = args[0] if args else None
            elsewhere = isinstance(source, Tensor) and there.device_of(source).type != device.type
            if device.type == there.device.type and not (isinstance(source, Tensor) and there.holds(source)):
                return there.moved(device, result.clone)
            return there.moved(device, result.clone) if elsewhere else result
        return there.take(result) if device.type == there.device.type else there.release(result)

    def _attribute(self, func: Any, args: Any, kwargs: Any, held: bool) -> Any:
        descriptor, kind = func.__self__, self._there.device.type
        if held and descriptor is torch.Tensor.device:
            return self._there.device
        if held and descriptor in (torch.Tensor.is_cuda, torch.Tensor.is_mps, torch.Tensor.is_cpu):
            return descriptor is getattr(torch.Tensor, f"is_{kind}")
        return func(*args, **kwargs)

    def _to(self, name: str, func: Any, own: Tensor, args: Any, kwargs: dict[str, Any]) -> Tensor:
        there, here = self._there, self._there.device_of(own)
        copy = bool(kwargs.pop("copy", False))
        waits = not kwargs.pop("non_blocking", False)
        if name == "to":
            dtypes = [arg.dtype for arg in args if isinstance(arg, Tensor)]
            args = tuple(there.device_of(arg) if isinstance(arg, Tensor) else arg for arg in args)
            device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
            dtype = dtypes[0] if dtypes else dtype
        else:
            device, dtype, layout = CPU if name == "cpu" else torch.device(name), None, kwargs.get("memory_format")
        options = {"dtype": dtype or own.dtype}
        if layout is not None:
            options["memory_format"] = layout
        if device is None or device.type == here.type:
            return torch.Tensor.to(own, copy=copy, **options)
        return there.moved(device, lambda: _unlabelled(own, options), waits=waits)

    def _check_generator(self, args: Any, kwargs: dict[str, Any], own: Tensor | None) -> None:
        generator = kwargs.get("generator")
        if generator is None:
            return
        wanted = CPU if own is None else self._there.device_of(own)
        if kwargs.get("device") is not None:
            wanted = torch.device(kwargs["device"])
        if generator.device.type != wanted.type:
            raise MixedDevices(f"Expected a '{wanted.type}' device type for generator but found '{generator.device}'")


def _unlabelled(own: Tensor, options: dict[str, Any]) -> Tensor:
    with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
        return torch.Tensor.to(own, copy=True, **options)


class _Dispatched(TorchDispatchMode):
    """The operators' side: one device an operator."""

    def __init__(self, accelerator: FakeAccelerator) -> None:
        super().__init__()
        self._there = accelerator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, there = kwargs or {}, self._there
        name = func.overloadpacket.__name__
        given = _tensors((args, kwargs))
        held = [tensor for tensor in given if there.holds(tensor)]
        if name == "_efficientzerotensor":
            return there.take_zeros(func(*args, **kwargs))
        if not held:
            result = func(*args, **kwargs)
            if any(map(there.follows, given)) and all(there.follows(tensor) or not tensor.ndim for tensor in given):
                return _pytree.tree_map_only(Tensor, there.take_zeros, result)
            # PyTorch's own functions make what they need beside the tensors they are given.
            return there.take(result) if (not given or name == "lift_fresh") and _made_beside() else result
        if name in ("copy_", "set_"):
            source = args[1]
            if isinstance(source, Tensor) and there.holds(args[0]) != there.holds(source):
                waits = not (there.holds(args[0]) and (kwargs.get("non_blocking") or args[2:] == (True,)))
                (there.synchronisations if waits else there.uploads)[_line()] += 1
            return func(*args, **kwargs)
        there.operations += 1
        self._check(func, name, args, given)
        if name in _READS or self._reads_a_mask(name, args):
            there.synchronisations[_line()] += 1
        result = func(*args, **kwargs)
        return there.take(result)

    def _check(self, func: Any, name: str, args: Any, given: list[Tensor]) -> None:
        there = self._there
        strangers = [
            tensor for tensor in given if not there.holds(tensor) and tensor.ndim and not there.follows(tensor)
        ]
        if func.namespace == "prims":  # inside a decomposition, numbers on the CPU have been expanded
            strangers = [tensor for tensor in strangers if _unwrapped(tensor).untyped_storage().nbytes() > 8]
        if func._schema.is_mutable and isinstance(args[0], Tensor) and not there.holds(args[0]):
            strangers = [args[0]]
        if not strangers:
            return
        if name in _INDEXING and there.holds(args[0]):
            indices = {id(index) for index in args[1] if index is not None}
            if all(id(tensor) in indices for tensor in strangers):
                there.synchronisations[_line()] += 1
                return
        shapes = [tuple(tensor.shape) for tensor in strangers]
        raise MixedDevices(
            f"Expected all tensors to be on the same device, but found at least two, {there.device} and cpu! "
            f"({func}; on the cpu: {shapes})"
        )

    def _reads_a_mask(self, name: str, args: Any) -> bool:
        if name not in _INDEXING:
            return False
        masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
        # Filling a mask with one number needs no positions.
        return bool(masks) and not (len(args) > 2 and args[2].numel() == 1)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def _unwrapped(tensor: Tensor) -> Tensor:
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def _storage(tensor: Tensor) -> int | None:
    try:
        return int(_unwrapped(tensor).untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse and the like
        return None


def _made_beside() -> bool:
    """Return whether PyTorch itself, and no code of this project, runs inside a function called with tensors there."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == __file__:
            if frame.f_code.co_name == "__torch_function__":
                return bool(frame.f_locals.get("inside"))
        elif Path(frame.f_code.co_filename).is_relative_to(ROOT):
            return False
        frame = frame.f_back
    return False


def _line() -> str:
    """The innermost line of this project's packages that runs now; of a test where there is none."""
    frame: Any = sys._getframe(1)
    lines = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and path != Path(__file__):
            relative = path.relative_to(ROOT)
            lines.append(f"{relative}:{frame.f_lineno}")
            if relative.parts[0] != "tests":
                return lines[-1]
        frame = frame.f_back
    return lines[0] if lines else "?"

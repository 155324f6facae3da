"""Requests of users to discovery, checked before any work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree

from hessian.support.names import suggest


def ignored_names(model: nn.Module, ignored_layers: Sequence[str | nn.Module]) -> set[str]:
    """Names of all modules inside the ignored layers.

    Raises:
        ValueError: a layer the model does not have.
        TypeError: neither a name nor a module.
    """
    modules = dict(model.named_modules())
    names = {id(module): name for name, module in modules.items()}
    ignored: set[str] = set()
    for layer in ignored_layers:
        if isinstance(layer, nn.Module):
            if id(layer) not in names:
                raise ValueError(f"ignored layer {type(layer).__name__} is not a module of the model")
            layer = names[id(layer)]
        if not isinstance(layer, str):
            raise TypeError(f"ignored_layers holds {layer!r}; give module names or module instances, not types")
        if layer not in modules:
            raise ValueError(f"unknown ignored layer {layer!r}" + suggest(layer, modules))
        ignored.update(name for name in modules if name == layer or name.startswith(layer + "."))
    return ignored


@contextmanager
def runnable(model: nn.Module, example_input: Any) -> Iterator[None]:
    """Inside, an error of the network's own becomes one that says what was given.

    Raises:
        ValueError: the network does not run.
    """
    try:
        yield
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        shapes = [list(leaf.shape) for leaf in _pytree.tree_leaves(example_input) if isinstance(leaf, Tensor)]
        raise ValueError(
            f"{type(model).__name__} does not run on an example input of shape {shapes}: {error}; "
            "pass example_input=<a batch the model accepts>"
        ) from error

"""The network that ``--model`` names, with its weights, and the lines that build it again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.common.errors import OptionError
from benchmarks.common.modules import look_up
from benchmarks.prune.loaded import LoadedModel, Preprocessing
from benchmarks.prune.options import PruneOptions
from benchmarks.settings.yaml_door import ConfigError, read_yaml
from hessian.support.names import unknown
from prune_gym.saving.weights import Checkpoint, ClassCountError, WeightsError, load_weights, read_checkpoint


@dataclass(frozen=True)
class _Source:
    """Origin of a network."""

    make: Callable[..., nn.Module]
    import_line: str
    function: str
    positional: tuple[str, ...]
    preprocessing: Callable[[nn.Module], Preprocessing | None]

    def expression(self, arguments: Mapping[str, Any]) -> str:
        """Python for a function without arguments that builds the network."""
        written = [*map(repr, self.positional), *(f"{key}={value!r}" for key, value in arguments.items())]
        return f"lambda: {self.function}({', '.join(written)})" if written else self.function


def load_model(options: PruneOptions) -> LoadedModel:
    """Build the network and fill in its weights.

    Raises:
        OptionError: there is no such network, or the weights do not fit.
    """
    if options.model.endswith(".pt2"):
        from benchmarks.prune.exported import load_exported

        return load_exported(options)
    source = _source(options)
    arguments = dict(_arguments(options.model_args))
    if options.num_classes is not None:
        arguments["num_classes"] = options.num_classes
    checkpoint = _checkpoint(options)
    notes: tuple[str, ...] = ()
    if checkpoint is None:
        model = _built(options, source, arguments, options.pretrained)
        if not options.pretrained:
            notes = ("no --weights: the factory is taken to return a trained network",)
    else:
        model = _built(options, source, arguments, False)
        try:
            notes = load_weights(model, checkpoint)
        except ClassCountError as error:
            model, arguments = _of_as_many_classes(options, source, arguments, error)
            notes = (*load_weights(model, checkpoint), f"{error.classes} classes, as the weights have")
        except WeightsError as error:
            raise OptionError(f"--weights {error}") from None
    return LoadedModel(
        model=model.eval(),
        name=_name(options.model),
        build=lambda: _built(options, source, arguments, False),
        import_line=source.import_line,
        factory=source.expression(arguments),
        preprocessing=source.preprocessing(model),
        notes=notes,
    )


def _source(options: PruneOptions) -> _Source:
    kind, _, name = options.model.partition(":")
    if kind == "torchvision":
        return _torchvision(name)
    if kind == "timm":
        return _timm(name)
    factory = look_up("--model", options.model)
    if isinstance(factory, nn.Module):
        return _of_instance(options.model, factory)
    if not callable(factory):
        raise OptionError(
            f"--model {options.model} is a {type(factory).__name__}, not a function that builds a network"
        )
    module, _, attribute = options.model.partition(":")
    top = attribute.partition(".")[0]
    return _Source(factory, f"from {module} import {top}", attribute, (), lambda model: None)


def _of_instance(spec: str, network: nn.Module) -> _Source:
    """A module attribute that is a network already."""
    module, _, attribute = spec.partition(":")
    return _Source(
        lambda: copy.deepcopy(network),
        f"from {module} import {attribute}",
        f"lambda: {attribute}",
        (),
        lambda model: None,
    )


def _torchvision(name: str) -> _Source:
    from torchvision import models

    if name not in models.list_models():
        raise OptionError(f"--model torchvision:{name}: {unknown('network', name, models.list_models())}")

    def make(pretrained: bool = False, **arguments: Any) -> nn.Module:
        network: nn.Module = models.get_model(name, weights="DEFAULT" if pretrained else None, **arguments)
        return network

    def preprocessing(_model: nn.Module) -> Preprocessing | None:
        weights = getattr(models.get_model_weights(name), "DEFAULT", None)
        transforms = None if weights is None else weights.transforms()
        if transforms is None or not hasattr(transforms, "crop_size"):
            return None
        size, resize = transforms.crop_size[0], transforms.resize_size[0]
        return Preprocessing(size, resize, tuple(transforms.mean), tuple(transforms.std))

    return _Source(make, "from torchvision.models import get_model", "get_model", (name,), preprocessing)


def _timm(name: str) -> _Source:
    try:
        import timm
    except ImportError:
        raise OptionError(f"--model timm:{name} needs timm: pip install 'prune-gym[timm]'") from None
    if not timm.is_model(name):
        raise OptionError(f"--model timm:{name}: {unknown('network', name, timm.list_models())}")

    def make(pretrained: bool = False, **arguments: Any) -> nn.Module:
        network: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
        return network

    def preprocessing(model: nn.Module) -> Preprocessing | None:
        data = timm.data.resolve_model_data_config(model)
        size = data["input_size"][-1]
        return Preprocessing(size, round(size / data["crop_pct"]), tuple(data["mean"]), tuple(data["std"]))

    return _Source(make, "import timm", "timm.create_model", (name,), preprocessing)


def _arguments(given: tuple[str, ...]) -> dict[str, Any]:
    arguments = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise OptionError(f"--model-arg {text}: write it as KEY=VALUE")
        try:
            arguments[key] = read_yaml(value, f"--model-arg {text}")
        except ConfigError as error:
            raise OptionError(f"--model-arg {text}: the value cannot be read ({error})") from None
    return arguments


def _checkpoint(options: PruneOptions) -> Checkpoint | None:
    if options.weights is None:
        return None
    try:
        return read_checkpoint(options.weights)
    except WeightsError as error:
        raise OptionError(f"--weights {error}") from None


def _built(options: PruneOptions, source: _Source, arguments: Mapping[str, Any], pretrained: bool) -> nn.Module:
    extra = {"pretrained": True} if pretrained else {}
    try:
        with torch.random.fork_rng(devices=[]):
            model = source.make(**arguments, **extra)
    except TypeError as error:
        raise OptionError(f"--model {options.model} cannot be built with {dict(arguments)}: {error}") from error
    if not isinstance(model, nn.Module):
        raise OptionError(f"--model {options.model} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def _of_as_many_classes(
    options: PruneOptions, source: _Source, arguments: Mapping[str, Any], error: ClassCountError
) -> tuple[nn.Module, dict[str, Any]]:
    """The network with as many classes as its weights have, unless somebody said otherwise.

    Raises:
        OptionError: the number was said, or the factory takes none.
    """
    if options.num_classes is not None:
        raise OptionError(
            f"--weights {error}, as --num-classes says; leave that out to take the weights' number"
        ) from None
    wanted = {**arguments, "num_classes": error.classes}
    try:
        return _built(options, source, wanted, False), wanted
    except OptionError:
        raise OptionError(
            f"--weights {error}; the factory takes no num_classes, so name one that builds {error.classes} outputs"
        ) from None


def _name(spec: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in spec.rpartition(":")[2])

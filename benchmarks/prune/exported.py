"""``--model model.pt2``: a network out of a ``torch.export`` archive."""

from __future__ import annotations

from pathlib import Path

from benchmarks.common.errors import OptionError
from benchmarks.prune.loaded import LoadedModel
from benchmarks.prune.options import PruneOptions
from prune_gym.saving.exported import ExportedError, exported_network


def load_exported(options: PruneOptions) -> LoadedModel:
    """Read the archive; its weights are inside.

    Raises:
        OptionError: it is not trusted, not there, or no network can be made of it.
    """
    path = Path(options.model).expanduser()
    if not path.is_file():
        raise OptionError(f"--model {options.model}: no such file")
    if options.weights is not None:
        raise OptionError(f"--weights: {options.model} holds its weights already")
    if not options.trust:
        raise OptionError(
            f"--model {options.model}: PyTorch unpickles parts of a .pt2 file, which can run code in it; say --trust "
            "if you trust it, or name the function that builds the network, and --weights"
        )
    try:
        model = exported_network(path)
    except ExportedError as error:
        raise OptionError(f"--model {error}") from None
    return LoadedModel(
        model=model,
        name=path.stem,
        build=lambda: exported_network(path),
        import_line="from prune_gym.saving.exported import exported_network",
        factory=f"lambda: exported_network({str(path)!r})",
    )

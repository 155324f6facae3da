"""Prune a network of your own.

    prune-gym prune --model SPEC --weights FILE --images DIR --flops 0.5 [--onnx FILE] [--out DIR] [...]

The network is a function of yours, or one of timm's or torchvision's; the images need no labels. Results go to one
folder: the smaller network, a page about it, and its numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from benchmarks.common.command import reports_errors
from benchmarks.common.errors import OptionError
from benchmarks.prune.options import PruneOptions, read_options
from prune_gym.pruning.targets import TargetsNotMetError

if TYPE_CHECKING:
    import torch

    from benchmarks.prune.images import Listing
    from benchmarks.prune.loaded import LoadedModel
    from prune_gym.pruning.data import Pictures
    from prune_gym.pruning.job import Searcher
    from prune_gym.pruning.result import PruneResult
    from prune_gym.support.stage_progress import StageProgress


@reports_errors(OptionError, TargetsNotMetError, OSError)
def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments; absent means those of the process.
        prog: name of the command in the help text.

    Returns:
        Exit code: 0 done, 2 bad input or targets that cannot be met, 130 interrupted.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = read_options(arguments, prog)
    console = Console(emoji=False)  # colons are part of names
    console.print(f"{options.model}: {options.targets.described()}", highlight=False, markup=False)
    console.print("loading PyTorch ...", style="dim")
    _run(options, console)
    return 0


def _run(options: PruneOptions, console: Console) -> None:
    """Load, prune, write: nothing is written before the network is there."""
    # Here, not above, so that a wrong option is told at once, and a right one answered.
    import torch

    from benchmarks.common.arguments import chosen_device, default_threads
    from benchmarks.common.modules import import_modules
    from benchmarks.prune.models import load_model
    from benchmarks.prune.show import conclude
    from prune_gym.pruning.shown import StageProgress

    torch.set_num_threads(options.threads or default_threads())
    device = chosen_device(options.gpu)
    import_modules(options.imports)
    if options.onnx is not None:
        _require_onnx()
    loaded = load_model(options)
    for note in loaded.notes:
        console.print(f"  {note}", style="dim", markup=False, highlight=False)
    with StageProgress(console) as shown:
        pictures = _pictures(options, loaded, console, shown)
        result = _prune(options, loaded, pictures, device, shown)
        conclude(result, options, loaded, device, console, shown)


def _require_onnx() -> None:
    from prune_gym.saving.export import require_onnx

    try:
        require_onnx()
    except ImportError as error:
        raise OptionError(f"--onnx: {error}") from None


def _pictures(
    options: PruneOptions, loaded: LoadedModel, console: Console, shown: StageProgress
) -> dict[str, Pictures | None]:
    """The images of ``--images``, ``--val`` and ``--test``."""
    from benchmarks.prune.images import check_classes, list_images, preprocessing_of, read_images

    folders = {name: getattr(options, name) for name in ("images", "val", "test")}
    listed = {"images": list_images("--images", options.images, options.labels, options.class_order)}
    for name in ("val", "test"):
        if folders[name] is not None:
            listed[name] = list_images(f"--{name}", folders[name], options.labels, listed["images"].classes or None)
    preprocessing, channels, notes = preprocessing_of(options, listed["images"], loaded.model, loaded.preprocessing)
    scoring = listed.get("val", listed["images"])
    check_classes(loaded.model, scoring, preprocessing, channels)
    for note in (*notes, _said_labels(scoring)):
        console.print(f"  {note}", style="dim", markup=False, highlight=False)
    with shown.stage("read images") as report:
        return {
            name: read_images(f"--{name}", listed[name], preprocessing, channels, options.max_images, report)
            if name in listed
            else None
            for name in folders
        }


def _said_labels(listing: Listing) -> str:
    count = f"{len(listing.files):,} images"
    if listing.labels is None:
        return f"{count} without labels: scored by agreement with the dense network"
    return f"{count} of {len(listing.classes)} classes: scored by accuracy"


def _prune(
    options: PruneOptions,
    loaded: LoadedModel,
    pictures: dict[str, Any],
    device: torch.device,
    shown: StageProgress,
) -> PruneResult:
    from prune_gym.pruning.job import Effort
    from prune_gym.pruning.prune import prune_within

    try:
        return prune_within(
            options.targets,
            loaded.model.to(device),
            pictures["images"],
            val=pictures["val"],
            test=pictures["test"],
            ignored_layers=options.ignore,
            batch_size=options.batch,
            effort=Effort(options.minutes, _searcher(options), options.reconstruct),
            seed=options.seed,
            name=loaded.name,
            shown=shown,
        )
    except TargetsNotMetError:
        raise
    except ValueError as error:
        raise OptionError(str(error)) from error


def _searcher(options: PruneOptions) -> Searcher | None:
    """R-SPAR with the plans asked for; None where neither plans nor minutes are."""
    if options.search is None and options.minutes is None:
        return None
    from agents.rspar.plan_search import search_plans

    def search(*given: Any, evaluations: int | None, **named: Any) -> Any:
        return search_plans(*given, evaluations=options.search, **named)

    return search

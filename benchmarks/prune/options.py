"""The options of ``prune-gym prune``. Imports nothing heavy, so that a mistake is told at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.errors import OptionError
from prune_gym.pruning.targets import TargetError, Targets

LABELS = ("auto", "folders", "csv", "none")
RESULT = "result.json"


@dataclass(frozen=True)
class PruneOptions:
    """Options as given on the command line.

    Attributes:
        model: ``package.module:factory``, ``timm:NAME``, ``torchvision:NAME`` or a ``.pt2`` file.
        model_args: keyword arguments of the factory, ``KEY=VALUE``.
        num_classes: of the network; None: as its weights say, else the factory's default.
        weights: file of a state dict, or None.
        pretrained: take the weights that timm or torchvision have.
        trust: whether files that may run code are read.
        images: folder of images for repair.
        labels: where labels are: one of :data:`LABELS`.
        class_order: names of the classes in the order of the network's outputs, or None.
        val: held-out folder, or None.
        test: folder for the report, or None.
        image_size: height and width the network takes; None: as timm or torchvision say, else the images' own.
        mean: of every channel; None: as above.
        std: of every channel.
        max_images: read of every folder at most.
        targets: what to reach.
        minutes: for all of it, or None.
        search: plans R-SPAR measures; None for no search.
        batch: images of the batch whose latency counts.
        ignore: layers to leave alone.
        reconstruct: whether the pruned network is matched to the dense one by gradient steps.
        onnx: file to write, or None.
        out: folder of results.
        overwrite: whether results there may be replaced.
        gpu: device, or None.
        threads: CPU threads, or None.
        seed: of what is random.
        imports: modules to import first.
        command: the command line, to repeat it.
    """

    model: str
    model_args: tuple[str, ...]
    num_classes: int | None
    weights: Path | None
    pretrained: bool
    trust: bool
    images: Path
    labels: str
    class_order: tuple[str, ...] | None
    val: Path | None
    test: Path | None
    image_size: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    max_images: int
    targets: Targets
    minutes: float | None
    search: int | None
    batch: int
    ignore: tuple[str, ...]
    reconstruct: bool
    onnx: Path | None
    out: Path
    overwrite: bool
    gpu: str | None
    threads: int | None
    seed: int
    imports: tuple[str, ...]
    command: tuple[str, ...]


def read_options(argv: Sequence[str], prog: str | None) -> PruneOptions:
    """Read and check a command line; nothing is loaded or written.

    Raises:
        OptionError: options that do not fit together, or paths that are not there.
    """
    given = vars(parser(prog).parse_args(list(argv)))
    targets = _targets(given)
    options = PruneOptions(
        targets=targets,
        model_args=tuple(given.pop("model_arg")),
        imports=tuple(given.pop("imports")),
        ignore=tuple(given.pop("ignore")),
        class_order=_names(given.pop("class_order")),
        mean=_numbers(given.pop("mean")),
        std=_numbers(given.pop("std")),
        command=tuple(argv),
        **given,
    )
    _check(options)
    return options


def _targets(given: dict[str, object]) -> Targets:
    names = ("flops", "params", "latency", "max_drop")
    try:
        return Targets.of(**{name: given.pop(name) for name in names})
    except TargetError as error:
        if error.message.startswith("no target"):
            raise OptionError("say how small: --flops 0.5, --params 0.5, --latency 0.5x or --max-drop 1.0") from None
        raise OptionError(f"--{error.name.replace('_', '-')} {error.message}") from None


def _numbers(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(","))


def _check(options: PruneOptions) -> None:
    for name in ("images", "val", "test"):
        folder: Path | None = getattr(options, name)
        if folder is not None and not folder.is_dir():
            what = "is a file, not a folder of images" if folder.is_file() else "does not exist"
            raise OptionError(f"--{name} {folder}: {what}")
    if options.weights is not None and not options.weights.is_file():
        raise OptionError(f"--weights {options.weights}: no such file")
    if options.weights is not None and options.pretrained:
        raise OptionError("--weights and --pretrained exclude each other: the network has one set of weights")
    if (options.mean is None) != (options.std is None):
        raise OptionError("--mean and --std belong together: give both, one number a channel each")
    if options.std is not None and min(options.std) <= 0:
        raise OptionError(f"--std: standard deviations are positive; got {min(options.std):g}")
    if (options.out / RESULT).exists() and not options.overwrite:
        raise OptionError(f"--out {options.out} holds results already; name another folder, or say --overwrite")
    if options.out.exists() and not options.out.is_dir():
        raise OptionError(f"--out {options.out} is a file, not a folder")
    if options.onnx is not None and options.onnx.is_dir():
        raise OptionError(f"--onnx {options.onnx} is a folder; name a file")
    kinds = ("timm:", "torchvision:")
    if options.pretrained and not options.model.startswith(kinds):
        raise OptionError("--pretrained goes with timm:NAME and torchvision:NAME; of your own network name --weights")


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Make a trained network of your own smaller. Labels are not needed.",
        epilog="example: prune-gym prune --model torchvision:resnet18 --weights model.pth --images photos --flops 0.5 "
        "--onnx small.onnx",
    )
    _add_network(parser.add_argument_group("the network"))
    _add_images(parser.add_argument_group("its images"))
    _add_targets(parser.add_argument_group("how small (one at least; all that are given are met)"))
    _add_work(parser.add_argument_group("how"))
    _add_results(parser.add_argument_group("results"))
    return parser


def _add_network(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--model",
        required=True,
        metavar="SPEC",
        help="package.module:factory (a function or class that builds the network), timm:NAME, torchvision:NAME, or a "
        "file model.pt2",
    )
    add("--model-arg", action="append", default=[], metavar="KEY=VALUE", help="keyword argument of the factory")
    add("--num-classes", type=_positive, metavar="N", help="outputs of the network (default: as its weights say)")
    add("--weights", type=_path, metavar="FILE", help="state dict: .safetensors, .pth or .pt; nothing in it is run")
    add("--pretrained", action="store_true", help="the weights that timm or torchvision have (downloaded)")
    add("--trust", action="store_true", help="read a .pt2 file although such files can run code when they are read")
    add("--ignore", action="append", default=[], metavar="LAYER", help="layer to leave alone; may be repeated")


def _add_images(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--images", required=True, type=_path, metavar="DIR", help="images to repair the network on; labels optional")
    add(
        "--labels",
        choices=LABELS,
        default="auto",
        help="folders: DIR/<class>/image; csv: DIR/labels.csv with columns file,label; none; auto: folders if all "
        "images are in class folders (default)",
    )
    add("--class-order", metavar="A,B,...", help="names of the classes in the order of the outputs (default: a to z)")
    add("--val", type=_path, metavar="DIR", help="images the network was not trained on (default: a fifth of --images)")
    add("--test", type=_path, metavar="DIR", help="images for the report alone (default: the held-out ones)")
    add(
        "--image-size",
        type=_positive,
        metavar="N",
        help="pixels (default: as timm or torchvision say, else the images')",
    )
    add("--mean", type=float, nargs="+", metavar="X", help="mean of every channel, images in [0, 1]")
    add("--std", type=float, nargs="+", metavar="X", help="standard deviation of every channel")
    add("--max-images", type=_positive, default=10_000, metavar="N", help="of every folder at most (default: 10,000)")


def _add_targets(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--flops", metavar="X", help="share of the FLOPs to remove (0.5, 50%%), or what may be left (0.5x)")
    add("--params", metavar="X", help="the same for parameters")
    add("--latency", metavar="X", help="latency of a batch here: 4.2ms, or 0.5x of the dense network's")
    add("--max-drop", metavar="X", help="percentage points of accuracy (or of agreement, without labels) lost at most")


def _add_work(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--minutes",
        type=_positive_number,
        metavar="M",
        help="time for all of it; more of it goes into search and repair",
    )
    add("--search", type=_positive, metavar="N", help="measure N plans with R-SPAR (default: none, the predicted best)")
    add(
        "--batch",
        type=_positive,
        default=32,
        metavar="N",
        help="images of the batch whose latency counts (default: 32)",
    )
    add(
        "--no-reconstruct",
        dest="reconstruct",
        action="store_false",
        help="refit only: do not match the dense network by gradient steps",
    )
    add("--gpu", metavar="ID", help="GPU index, or cpu (default: the only GPU if there is one, else the CPU)")
    add("--threads", type=_positive, metavar="N", help="CPU threads")
    add("--seed", type=int, default=0, metavar="N", help="of what is random (default: 0)")
    add("--import", dest="imports", action="append", default=[], metavar="MODULE", help="module to import first")


def _add_results(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--out", type=_path, default=Path("pruned"), metavar="DIR", help="folder for results (default: pruned)")
    add("--onnx", type=_path, metavar="FILE", help="write the pruned network as ONNX, compared with the original")
    add("--overwrite", action="store_true", help="replace results that are there")


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _positive_number(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value

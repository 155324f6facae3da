"""Options of the sub-commands of the speed benchmark, apart from what they measure, so that help is printed at once."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Collection

from benchmarks.common.arguments import one_of, positive

Parser = argparse.ArgumentParser


def _rows(module: str) -> Callable[[str], str]:
    """Reads a name of a sub-command's rows."""

    def known() -> Collection[str]:
        rows: Collection[str] = importlib.import_module(f"benchmarks.studies.speed.{module}").ROWS
        return rows

    return one_of("row", known)


def hessian(parser: Parser) -> None:
    """Options of ``python -m benchmarks.studies.speed hessian``."""
    parser.add_argument("--rows", nargs="+", type=_rows("hessian"), metavar="NAME", help="only these")
    parser.add_argument("--network", default="resnet50", help="torchvision network (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=224, help="pixels a side (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="images a batch (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=4, help="batches of the analysis (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each side (default: %(default)s)")
    parser.add_argument("--digits", type=int, default=500, help="images of the digits rows (default: %(default)s)")
    parser.add_argument("--stride", type=int, default=2, help="of position subsampling (default: %(default)s)")


def env(parser: Parser) -> None:
    """Options of ``python -m benchmarks.studies.speed env``."""
    parser.add_argument("--rows", nargs="+", type=_rows("env"), metavar="NAME", help="only these")
    parser.add_argument("--task", default="fashion-resnet20", help="what is pruned (default: %(default)s)")
    parser.add_argument("--images", type=int, default=1000, help="reward images (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each side (default: %(default)s)")


def prune(parser: Parser) -> None:
    """Options of ``python -m benchmarks.studies.speed prune``."""
    parser.add_argument("--network", default="resnet50", help="torchvision network (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=224, help="pixels a side (default: %(default)s)")
    parser.add_argument("--reduction", type=float, default=0.76, help="FLOPs to remove (default: %(default)s)")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[1, 16], metavar="N", help="images a batch (default: 1 16)"
    )
    parser.add_argument("--repeats", type=int, default=30, help="timed passes of each side (default: %(default)s)")
    parser.add_argument(
        "--surgery-repeats", type=int, default=3, help="timed runs of the surgery (default: %(default)s)"
    )


def scale(parser: Parser) -> None:
    """Options of ``python -m benchmarks.studies.speed scale``."""
    kinds = ("plain", "residual")
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds, metavar="KIND", help=", ".join(kinds))
    parser.add_argument(
        "--layers", type=positive, nargs="+", default=[10, 20, 40, 80, 160, 320], metavar="N", help="at --width"
    )
    parser.add_argument("--width", type=positive, default=32, help="of the networks of many layers (default: 32)")
    parser.add_argument(
        "--widths", type=positive, nargs="*", default=[32, 64, 128, 256, 512], metavar="N", help="at --depth layers"
    )
    parser.add_argument("--depth", type=positive, default=10, help="layers of the wide networks (default: 10)")
    parser.add_argument(
        "--coarse", type=positive, nargs="*", default=[128, 256, 512], metavar="N", help="widths analysed coarsely, too"
    )
    parser.add_argument("--images", type=positive, default=64, help="calibration and reward images (default: 64)")

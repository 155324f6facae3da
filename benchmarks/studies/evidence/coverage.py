"""Does pruning work on this architecture? Everything the project promises of a network, checked on torchvision's.

``python -m benchmarks.studies.evidence.coverage`` analyses every network of :data:`NETWORKS` (random weights, lively
BatchNorm statistics), removes half the units of every layer, and compares the candidate that the evaluator scores with
the network that surgery makes, under both repairs. It prints a table and writes ``benchmarks/results/coverage.json``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.common.arguments import chosen_device, command_parser, positive
from benchmarks.common.command import reports_errors
from benchmarks.common.provenance import write_result

NETWORKS = (
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "vgg16_bn",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "densenet121",
    "regnet_y_400mf",
    "convnext_tiny",
    "googlenet",
)
RESULTS = Path(__file__).parents[2] / "results" / "coverage.json"
"""Where the numbers go when all networks are checked."""


@reports_errors(ValueError)
def main(argv: Sequence[str] | None = None) -> int:
    """Check networks and report; the exit code is 1 if one fails, 2 on bad input.

    Args:
        argv: arguments; absent means those of the process.
    """
    module, what = "benchmarks.studies.evidence.coverage", (__doc__ or "").splitlines()[0]
    parser = command_parser(module, what, "gpu", "json")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="torchvision names; all twelve by default")
    parser.add_argument("--images", type=positive, default=4, help="calibration images (default: %(default)s)")
    parser.add_argument("--image-size", type=positive, default=64, help="pixels a side (default: %(default)s)")
    arguments = parser.parse_args(argv)
    names = arguments.networks or list(NETWORKS)
    unknown = [name for name in names if name not in NETWORKS]
    if unknown:
        parser.error(f"unknown network {unknown[0]!r}; choose among {', '.join(NETWORKS)}")
    path = arguments.json or (None if arguments.networks else RESULTS)
    from benchmarks.studies.evidence.architectures import check_network, coverage_table, rows_of
    from benchmarks.studies.speed.random_networks import random_images, random_network

    device, console, found = chosen_device(arguments.gpu), Console(), {}
    for name in names:
        images, labels = random_images(arguments.images, arguments.image_size, classes=1000)
        found[name] = check_network(random_network(name).to(device), images.to(device), labels.to(device))
        console.print(f"{name}: {'passed' if found[name].passed else 'FAILED'}", highlight=False)
        content = {"images": arguments.images, "image_size": arguments.image_size, "networks": rows_of(found)}
        if path is not None:
            write_result(path, content)
    console.print(coverage_table(found))
    return 0 if all(coverage.passed for coverage in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Train the dense network of a named task from scratch: `python -m benchmarks.train_dense --task digits-resnet20`.

Reproduces the weights that come with the package, and makes those that do not. The test split is looked at once, after
training. A training that was interrupted goes on after its last finished epoch when the command is given again, and
ends with the same weights. On several GPUs or processes:
`torchrun --nproc_per_node 2 -m benchmarks.train_dense --task ...`.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.common.arguments import command_parser
from benchmarks.common.command import reports_errors
from benchmarks.common.modules import import_modules

if TYPE_CHECKING:
    from hessian.support.progress import Progress
    from prune_gym.data.splits import DatasetSplits
    from prune_gym.tasks.named import NamedTask
    from prune_gym.training.fitting import Loop
    from prune_gym.training.training import EvaluationResult


def train_named_task(
    task: NamedTask,
    splits: DatasetSplits,
    out: Path,
    *,
    seed: int = 0,
    device: str | int | None = None,
    progress: Progress | None = None,
    loop: Loop | None = None,
) -> EvaluationResult:
    """Train a task's network on dense-train by its recipe and save the weights.

    Args:
        task: What to train and how.
        splits: The task's data; only ``train`` is trained on.
        out: File to write.
        seed: Of the initial weights, the order of the images and the augmentation; the splits stay the task's.
        device: Where to train; see :func:`prune_gym.support.device.resolve_device`.
        progress: Called after every step.
        loop: Mixed precision, gradient accumulation, and the checkpoint; by default ``<out>.training.safetensors``
            beside the weights, until these are written.

    Returns:
        How the trained network does on the test split.
    """
    import torch

    from hessian.support.distributed import current_workers
    from prune_gym.data.augmentation import Augmentation
    from prune_gym.support.device import resolve_device
    from prune_gym.training.fitting import Loop
    from prune_gym.training.training import evaluate_model, train_dense

    recipe = task.recipe
    model, _ = task.structure(seed)
    model.to(resolve_device(device))
    loop = loop or Loop(checkpoint=checkpoint_path(out))
    train_dense(
        model,
        splits.train,
        epochs=recipe.epochs,
        lr=recipe.lr,
        batch_size=recipe.batch_size,
        weight_decay=recipe.weight_decay,
        label_smoothing=recipe.label_smoothing,
        augment=Augmentation(recipe.max_shift, recipe.max_rotation, recipe.flip),
        seed=seed,
        progress=progress,
        loop=loop,
    )
    result = evaluate_model(model, splits.test)
    if current_workers(torch.device("cpu")).rank == 0:
        task.save_weights(out, model, splits.train, seed, result.accuracy)
        if loop.checkpoint is not None:
            Path(loop.checkpoint).unlink(missing_ok=True)
    return result


def checkpoint_path(out: Path) -> Path:
    """Return the path of the state of a training, which is there until its weights are."""
    return out.with_suffix(".training.safetensors")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; ``arguments`` is ``sys.argv[1:]`` if None."""
    what = "Train the dense network of a named task from scratch."
    parser = command_parser("benchmarks.train_dense", what, "gpu", "overwrite", "import")
    parser.add_argument("--task", default="digits-resnet20", metavar="NAME", help="a named task with a recipe")
    parser.add_argument("--out", type=Path, help="file to write (default: the user's cache)")
    parser.add_argument("--seed", type=int, default=0, help="initial weights, order and augmentation")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--data-dir", help="folder of the data, for tasks that read it from disk")
    parser.add_argument("--download", action="store_true", help="fetch the data if it is not there")
    parser.add_argument("--mixed-precision", action="store_true", help="forward passes in 16 bits where supported")
    parser.add_argument("--accumulation", type=int, default=1, metavar="N", help="parts a batch passes through in")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="state of the training (default: beside --out)")
    return parser.parse_args(arguments)


@reports_errors(
    *(ValueError, TypeError, KeyError, FloatingPointError),
    interrupted="interrupted; the same command goes on after the last finished epoch",
)
def main(arguments: Sequence[str] | None = None) -> int:
    """Train, save, and report the test accuracy.

    Returns:
        The exit status: 0, 2 with a message when data, device or an argument is not as needed, or 130 when interrupted.
    """
    options = parse_arguments(arguments)
    import_modules(options.imports)
    import torch

    from hessian.support.distributed import torchrun_group

    with torchrun_group() as workers:
        gpu = options.gpu
        if gpu is None and workers.size > 1 and torch.cuda.device_count():
            gpu = torch.cuda.current_device()
        return _train(options, gpu, Console(quiet=workers.rank > 0))


def _train(options: argparse.Namespace, device: str | int | None, console: Console) -> int:
    from rich.logging import RichHandler

    from prune_gym.tasks.named import named_task

    logging.basicConfig(level="INFO", format="%(message)s", handlers=[RichHandler(console=console, show_path=False)])
    task = named_task(options.task)
    if options.epochs is not None:
        task = dataclasses.replace(task, recipe=dataclasses.replace(task.recipe, epochs=options.epochs))
    out = options.out or task.cached_weights_path
    if out.is_file() and not options.overwrite:
        console.print(f"{out} is there already; --overwrite trains it again", markup=False, soft_wrap=True)
        return 0
    result = _train_with_bar(task, options, device, out, console)
    report = f"test accuracy {result.accuracy:.2%}, loss {result.loss:.4f} nats; weights in {out}"
    console.print(report, markup=False, soft_wrap=True)
    return 0


def _train_with_bar(
    task: NamedTask, options: argparse.Namespace, device: str | int | None, out: Path, console: Console
) -> EvaluationResult:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    from prune_gym.training.fitting import Loop

    loop = Loop(options.mixed_precision, options.accumulation, options.checkpoint or checkpoint_path(out))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console) as bar:
        row = bar.add_task(task.name, total=None)
        return train_named_task(
            task,
            task.load_splits(**_data_options(options)),
            out,
            seed=options.seed,
            device=device,
            progress=lambda _, done, total: bar.update(row, completed=done, total=total),
            loop=loop,
        )


def _data_options(options: argparse.Namespace) -> dict[str, object]:
    given = {"data_dir": options.data_dir, "download": options.download}
    return {name: value for name, value in given.items() if value}


if __name__ == "__main__":
    sys.exit(main())

"""Train the dense network of a named task from scratch: `python -m benchmarks.train_dense --task digits-resnet20`.

Reproduces the weights that come with the package, and makes those that do not. The test split is looked at once, after
training. A training that was interrupted goes on after its last finished epoch when the command is given again, and
ends with the same weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prune_gym.augmentation import Augmentation
from prune_gym.datasets import DatasetSplits
from prune_gym.device import resolve_device
from prune_gym.files import sha256_of
from prune_gym.named_tasks import NAMED_TASKS, NamedTask, named_task
from prune_gym.training import EvaluationResult, TrainingCheckpoint, evaluate_model, train_dense
from prune_gym.training import Progress as ProgressCallback


def train_named_task(
    task: NamedTask,
    splits: DatasetSplits,
    out: Path,
    *,
    seed: int = 0,
    device: str | None = None,
    progress: ProgressCallback | None = None,
) -> EvaluationResult:
    """Train a task's network on dense-train by its recipe and save the weights.

    Args:
        task: What to train and how.
        splits: The task's data; only ``train`` is trained on.
        out: File to write; ``<out>.training.safetensors`` beside it keeps the state after every epoch until then.
        seed: Of the initial weights, the order of the images and the augmentation; the splits stay the task's.
        device: Where to train; see :func:`prune_gym.device.resolve_device`.
        progress: Called after every step.

    Returns:
        How the trained network does on the test split.
    """
    recipe = task.recipe
    model, _ = task.structure(seed)
    model.to(resolve_device(device))
    checkpoint = _checkpoint(task, splits, out, seed)
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
        checkpoint=checkpoint,
    )
    result = evaluate_model(model, splits.test)
    task.save_weights(out, model, splits.train, seed, result.accuracy)
    checkpoint.remove()
    return result


def _checkpoint(task: NamedTask, splits: DatasetSplits, out: Path, seed: int) -> TrainingCheckpoint:
    key = sha256_of(
        task.name,
        dataclasses.asdict(task.recipe),
        repr(task.structure()[0]),
        seed,
        splits.train.images,
        splits.train.labels,
        torch.__version__,
    )
    return TrainingCheckpoint(out.with_suffix(".training.safetensors"), key)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; ``arguments`` is ``sys.argv[1:]`` if None."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_dense", description=__doc__)
    names = ", ".join(task.name for task in NAMED_TASKS)
    parser.add_argument("--task", default=NAMED_TASKS[0].name, metavar="NAME", help=names)
    parser.add_argument("--out", type=Path, help="file to write (default: the user's cache)")
    parser.add_argument("--seed", type=int, default=0, help="initial weights, order and augmentation")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--data-dir", help="folder of the data, for tasks that read it from disk")
    parser.add_argument("--download", action="store_true", help="fetch the data if it is not there")
    parser.add_argument("--gpu", help="GPU index or device name (default: the only GPU, else the CPU)")
    parser.add_argument("--overwrite", action="store_true", help="train again where the weights are there already")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, save, and report the test accuracy.

    Returns:
        The exit status: 0, 1 with a message when data, device or an argument is not as needed, or 130 when interrupted.
    """
    options = parse_arguments(arguments)
    console = Console()
    logging.basicConfig(level="INFO", format="%(message)s", handlers=[RichHandler(console=console, show_path=False)])
    try:
        task = named_task(options.task)
    except KeyError as error:
        console.print(f"error: {error.args[0]}", style="red", markup=False)
        return 1
    if options.epochs is not None:
        task = dataclasses.replace(task, recipe=dataclasses.replace(task.recipe, epochs=options.epochs))
    out = options.out or task.cached_weights_path
    if out.is_file() and not options.overwrite:
        console.print(f"{out} is there already; --overwrite trains it again", markup=False, soft_wrap=True)
        return 0
    try:
        result = _train_with_bar(task, options, out, console)
    except (OSError, ValueError, TypeError, FloatingPointError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on after the last finished epoch", style="yellow")
        return 130
    report = f"test accuracy {result.accuracy:.2%}, loss {result.loss:.4f} nats; weights in {out}"
    console.print(report, markup=False, soft_wrap=True)
    return 0


def _train_with_bar(task: NamedTask, options: argparse.Namespace, out: Path, console: Console) -> EvaluationResult:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        row = bar.add_task(task.name, total=None)
        return train_named_task(
            task,
            task.load_splits(**_data_options(options)),
            out,
            seed=options.seed,
            device=options.gpu,
            progress=lambda _, done, total: bar.update(row, completed=done, total=total),
        )


def _data_options(options: argparse.Namespace) -> dict[str, object]:
    given = {"data_dir": options.data_dir, "download": options.download}
    return {name: value for name, value in given.items() if value}


if __name__ == "__main__":
    sys.exit(main())

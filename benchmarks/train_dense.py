"""Train the dense network of a named task from scratch: `python -m benchmarks.train_dense --task digits-resnet20`.

Reproduces the weights that come with the package, and makes those that do not. The test split is looked at once, after
training. On several GPUs or processes: `torchrun --nproc_per_node 2 -m benchmarks.train_dense --task ...`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hessian.distributed import current_workers, torchrun_group
from prune_gym.augmentation import Augmentation
from prune_gym.datasets import DatasetSplits
from prune_gym.device import resolve_device
from prune_gym.named_tasks import NAMED_TASKS, NamedTask, named_task
from prune_gym.training import EvaluationResult, Loop, evaluate_model, train_dense
from prune_gym.training import Progress as ProgressCallback


def train_named_task(
    task: NamedTask,
    splits: DatasetSplits,
    out: Path,
    *,
    seed: int = 0,
    device: str | int | None = None,
    progress: ProgressCallback | None = None,
    loop: Loop | None = None,
) -> EvaluationResult:
    """Train a task's network on dense-train by its recipe and save the weights.

    Args:
        task: What to train and how.
        splits: The task's data; only ``train`` is trained on.
        out: File to write.
        seed: Of the initial weights, the order of the images and the augmentation; the splits stay the task's.
        device: Where to train; see :func:`prune_gym.device.resolve_device`.
        progress: Called after every step.
        loop: Mixed precision, gradient accumulation, checkpoints.

    Returns:
        How the trained network does on the test split.
    """
    recipe = task.recipe
    model, _ = task.structure(seed)
    model.to(resolve_device(device))
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
    if current_workers(torch.device("cpu")).rank == 0:
        task.save_weights(out, model, splits.train, seed)
    return evaluate_model(model, splits.test)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; ``arguments`` is ``sys.argv[1:]`` if None."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_dense", description=__doc__)
    parser.add_argument("--task", default=NAMED_TASKS[0].name, choices=[task.name for task in NAMED_TASKS])
    parser.add_argument("--out", type=Path, help="file to write (default: the user's cache)")
    parser.add_argument("--seed", type=int, default=0, help="initial weights, order and augmentation")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--data-dir", help="folder of the data, for tasks that read it from disk")
    parser.add_argument("--mixed-precision", action="store_true", help="forward passes in 16 bits where supported")
    parser.add_argument("--accumulation", type=int, default=1, metavar="N", help="parts a batch passes through in")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="keep the state here; resume from it if there")
    parser.add_argument("--gpu", help="GPU index or device name (default: the only GPU, else the CPU)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, save, and report the test accuracy.

    Returns:
        The exit status: 0, or 1 with a message when data, device or an argument is not as needed.
    """
    options = parse_arguments(arguments)
    with torchrun_group() as workers:
        gpu = options.gpu
        if gpu is None and workers.size > 1 and torch.cuda.device_count():
            gpu = torch.cuda.current_device()
        return _train(options, gpu, Console(quiet=workers.rank > 0))


def _train(options: argparse.Namespace, device: str | int | None, console: Console) -> int:
    task = named_task(options.task)
    if options.epochs is not None:
        task = dataclasses.replace(task, recipe=dataclasses.replace(task.recipe, epochs=options.epochs))
    out = options.out or task.cached_weights_path
    try:
        loop = Loop(options.mixed_precision, options.accumulation, options.checkpoint)
        splits = task.load_splits(**({"data_dir": options.data_dir} if options.data_dir else {}))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            row = bar.add_task(task.name)
            result = train_named_task(
                task,
                splits,
                out,
                seed=options.seed,
                device=device,
                progress=lambda _, done, total: bar.update(row, completed=done, total=total),
                loop=loop,
            )
    except (OSError, ValueError, TypeError, FloatingPointError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    report = f"test accuracy {result.accuracy:.2%}, loss {result.loss:.4f} nats; weights in {out}"
    console.print(report, markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

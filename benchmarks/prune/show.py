"""The end of a pruning: everything is written, and the table and the next steps are shown."""

from __future__ import annotations

import torch
from rich.console import Console

from benchmarks.common.table import Table
from benchmarks.prune.loaded import LoadedModel
from benchmarks.prune.options import PruneOptions
from benchmarks.prune.record import NETWORK, loading_code, write_page, write_record
from prune_gym.pruning.result import PruneResult
from prune_gym.saving.export import Parity
from prune_gym.support.stage_progress import StageProgress


def conclude(
    result: PruneResult,
    options: PruneOptions,
    loaded: LoadedModel,
    device: torch.device,
    console: Console,
    shown: StageProgress,
) -> None:
    """Save the network, its ONNX file, the numbers and the page; then show the table and how to load the network."""
    options.out.mkdir(parents=True, exist_ok=True)
    parity = None
    with shown.stage("save"):
        result.save(options.out / NETWORK, factory=loaded.build)
        if options.onnx is not None:
            parity = result.to_onnx(options.onnx)
        write_record(result, options, loaded, parity, device)
        page = write_page(options.out)
    console.print()
    console.print(_table(result))
    for warning in result.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    _say_files(console, options, parity, page is not None)
    console.print("\nload it with")
    for line in loading_code(loaded, options.out):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _table(result: PruneResult) -> Table:
    score = result.pruned.score
    error = "" if score.error is None else f", standard error {100 * score.error:.2f} points"
    caption = f"scored on {score.images:,} {result.scored_on} images{error}"
    return Table(f"Asked for: {result.targets.described()}", ("", "dense", "pruned", "change"), result.rows(), caption)


def _say_files(console: Console, options: PruneOptions, parity: Parity | None, page: bool) -> None:
    lines = [f"network: {options.out / NETWORK}.safetensors"]
    if page:
        lines.append(f"report:  {options.out / 'report.html'}")
    if parity is not None:
        lines.append(
            f"ONNX:    {parity.path} (differs by {parity.max_error:.1e} of the largest output, {parity.runtime}, "
            f"batches of {', '.join(map(str, parity.batch_sizes))})"
        )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
